"""The optimizer and the learning rate."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw as adamw_step

from ibidem.modeling.checkpoint import GROUNDING_HEAD
from ibidem.modeling.modeling_custom import Attention, FeedForward
from ibidem.training.config import OptimConfig, decay_steps, warmup_steps

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
HEAD_LR = 3e-3
"""Peak learning rate of a grounding head that is trained along with a decoder: its weights begin at zero, and at the
decoder's rate no gradient would reach the states."""
RMS_OF_ADAMW = 0.2
"""Typical root mean square of AdamW's updates."""

Group = dict[str, Any]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer that `config.name` selects."""
    optimizer = muon(model, config) if config.name == "muon" else adamw(model, config)
    if head := [parameter for name, parameter in model.named_parameters() if name.startswith(GROUNDING_HEAD)]:
        optimizer.add_param_group({"params": head, "weight_decay": 0.0, "lr_ratio": HEAD_LR / config.lr})
    return optimizer


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices but not on norms.

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101.
    """
    groups = _adamw_groups(_trained(model), config)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def muon(model: nn.Module, config: OptimConfig) -> "Muon":
    """Return Muon for the matrices of the blocks, and AdamW for the rest: embedding, output matrix and norms."""
    matrices = block_matrices(model)
    inside = {parameter for parameters in matrices.values() for parameter in parameters}
    rest = [parameter for parameter in _trained(model) if parameter not in inside]
    settings = {
        "weight_decay": config.weight_decay,
        "momentum": config.momentum,
        "lr_ratio": (config.matrix_lr or config.lr) / config.lr,
    }
    groups = [{"params": parameters, "parts": parts, **settings} for parts, parameters in matrices.items()]
    return Muon([*groups, *_adamw_groups(rest, config)], lr=config.lr, betas=(config.beta1, config.beta2))


def block_matrices(model: nn.Module) -> dict[tuple[int, ...], list[Tensor]]:
    """Return the matrices of attention and feed-forward, by the numbers of rows of their parts.

    The merged matrices `qkv` and `gate_up` consist of several maps, one below the other; any other has one part.
    """
    found: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, Attention):
            found[tuple(heads * module.head_width for heads in module.split)].append(module.qkv.weight)
            found[(module.out.out_features,)].append(module.out.weight)
        elif isinstance(module, FeedForward):
            found[(module.down.in_features, module.down.in_features)].append(module.gate_up.weight)
            found[(module.down.out_features,)].append(module.down.weight)
    trained = {parts: [p for p in parameters if p.requires_grad] for parts, parameters in found.items()}
    return {parts: parameters for parts, parameters in trained.items() if parameters}


def _trained(model: nn.Module) -> list[nn.Parameter]:
    named = model.named_parameters()
    return [parameter for name, parameter in named if parameter.requires_grad and not name.startswith(GROUNDING_HEAD)]


def _adamw_groups(parameters: list[nn.Parameter], config: OptimConfig) -> list[Group]:
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Muon for the groups that have `parts`, fused AdamW for the others.

    Muon replaces the running mean of a matrix's gradient by the nearest matrix with orthonormal rows or columns, so
    that a step has the same size in every direction. It is then scaled to the root mean square of AdamW's steps: the
    same learning rate and weight decay suit both.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the scale is that of Liu et al. 2025,
    arXiv:2502.16982, eq. 4.

    As with torch's fused optimizers, gradients are divided by `grad_scale`, and a step whose `found_inf` is 1 changes
    nothing; both are scalars on the device.
    """

    grad_scale: Tensor | float = 1.0
    found_inf: Tensor | float = 0.0

    def __init__(self, groups: list[Group], *, lr: float, betas: tuple[float, float], eps: float = 1e-8) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            if "parts" in group:
                for alike in _by_shape(group["params"]):
                    self._step_matrices(alike, group)
            else:
                self._step_adamw(group)
        return None

    def _step_matrices(self, parameters: list[Tensor], group: Group) -> None:
        """Update matrices of one shape at once; with FSDP only these are gathered at a time."""
        taken, parts = 1 - self.found_inf, group["parts"]
        updates = [_whole(self._momentum(p, group["momentum"], taken)) for p in parameters]
        orthogonal = iter(orthogonalize([part for update in updates for part in torch.split(update, parts)]))
        lr = group["lr"] * taken
        for p in parameters:
            scaled = [_like_adamw(next(orthogonal)) for _ in parts]
            p.mul_(1 - lr * group["weight_decay"])
            p.sub_(_sharded(torch.cat(scaled), p) * lr)

    def _momentum(self, p: Tensor, momentum: float, taken: Tensor | float) -> Tensor:
        """Return the running mean of the gradient one step ahead (Nesterov)."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        gradient = p.grad / self.grad_scale
        if isinstance(taken, Tensor):
            gradient = torch.where(taken > 0, gradient, torch.zeros_like(gradient))
        mean = state["momentum"].lerp_(gradient, taken * (1 - momentum))
        return gradient.lerp(mean, momentum)

    def _step_adamw(self, group: Group) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p] |= {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in parameters]
        adamw_step(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            grad_scale=self.grad_scale if isinstance(self.grad_scale, Tensor) else None,
            found_inf=self.found_inf if isinstance(self.found_inf, Tensor) else None,
        )


def _by_shape(parameters: list[Tensor]) -> Iterable[list[Tensor]]:
    """Return the parameters that have a gradient, those of equal shape together."""
    found: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            found[parameter.shape].append(parameter)
    return found.values()


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return for each matrix approximately the nearest one whose singular values are 1; equal shapes at once.

    Singular values above a hundredth of the Frobenius norm end between 0.6 and 1.3.
    Source: the Newton-Schulz iteration of Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for place, matrix in enumerate(wide):
        by_shape[matrix.shape].append(place)
    results = list(wide)
    for places in by_shape.values():
        for place, result in zip(places, _newton_schulz(torch.stack([wide[p] for p in places])), strict=True):
            results[place] = result
    return [each.T if each.shape != matrix.shape else each for each, matrix in zip(results, matrices, strict=True)]


def _newton_schulz(stack_LMN: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    norms_L11: Tensor = torch.linalg.matrix_norm(stack_LMN, keepdim=True)
    x_LMN = (stack_LMN / norms_L11.clamp(min=1e-7)).to(_matmul_dtype(stack_LMN.device))
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram_LMM = x_LMN @ x_LMN.mT
        x_LMN = torch.baddbmm(x_LMN, torch.baddbmm(gram_LMM, gram_LMM, gram_LMM, beta=b, alpha=c), x_LMN, beta=a)
    return x_LMN.to(stack_LMN.dtype)


def _matmul_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it: on a CPU at up to twice the speed of float32."""
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001 - no public one
        return torch.float32
    return torch.bfloat16


def _like_adamw(update: Tensor) -> Tensor:
    return update * (RMS_OF_ADAMW * math.sqrt(max(update.shape)))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded(tensor: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Return the learning rate of a step, a function of the step alone."""
    warmup = warmup_steps(config, total_steps)
    if config.schedule == "cosine":
        share = warmup_cosine(step, warmup_steps=warmup, total_steps=total_steps, floor=config.floor)
    else:
        share = warmup_stable_decay(
            step,
            warmup_steps=warmup,
            decay_steps=decay_steps(config, total_steps),
            total_steps=total_steps,
            floor=config.floor,
        )
    return config.lr * share


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, floor: float) -> float:
    """Return the learning rate as a share of its peak: linear warmup, then half a cosine down to the floor.

    >>> [round(warmup_cosine(s, warmup_steps=2, total_steps=6, floor=0.0), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, *, warmup_steps: int, decay_steps: int, total_steps: int, floor: float) -> float:
    """Return the share of the peak: linear warmup, constant, then linear decay to the floor over `decay_steps`.

    >>> [warmup_stable_decay(s, warmup_steps=1, decay_steps=2, total_steps=5, floor=0.0) for s in range(6)]
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al. 2024, arXiv:2404.06395 (MiniCPM), section 4.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = min(1.0, max(0.0, (total_steps - step) / decay_steps))
    return floor + (1 - floor) * left


def set_learning_rate(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Set the learning rate of every parameter group, times the group's `lr_ratio` if it has one."""
    for group in groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
