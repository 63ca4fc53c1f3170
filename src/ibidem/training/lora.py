"""LoRA: the adapters of a decoder are trained instead of its weights.

    W  (O, D)  frozen                    of the initial checkpoint
    A  (R, D)  trained, begins uniform   W + alpha / rank * B A takes the place of W
    B  (O, R)  trained, begins at zero   so that training begins with W

peft's layers take over the `forward` of a matrix. The decoder does not call it where a norm or the feed-forward reads
the weight itself, so they would change nothing there, and to call them would undo the fused operations for everyone
without adapters. So `modeling.adapters` computes; settings, initialization and the format on disk are peft's. The
tests compare logits, and peft's own merging, on an export of the base.

    model.safetensors           W + alpha / rank * B A: what every other stage opens, as of any checkpoint
    adapter_model.safetensors   A and B as peft names them for an export of the base, where `qkv` is three matrices and
    adapter_config.json         `gate_up` two: each has its rows of B, and all the same A
    optimizer.safetensors       the running means of A and B alone

Merging rounds, so a run that resumes takes W from the checkpoint that it began with, whose digest its own ones name,
and A and B from the adapter.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ibidem import log
from ibidem.config import build
from ibidem.errors import CheckpointError, ConfigError
from ibidem.modeling.adapters import Adapter, merged
from ibidem.modeling.checkpoint import is_of_head
from ibidem.modeling.modeling_custom import Block, Decoder, Linear
from ibidem.modeling.tensor_files import Tensors
from ibidem.training import sharding
from ibidem.training.config import LoraConfig, LoraTarget, OptimConfig

if TYPE_CHECKING:
    from peft import LoraConfig as PeftConfig

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
NAME = "default"
"""What peft calls an adapter that nobody named."""
PARTS: dict[LoraTarget, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The matrices of a block, and what each consists of in an export."""


def check(config: LoraConfig, optim: OptimConfig) -> None:
    """Fail before anything is read if adapters cannot be trained.

    Raises:
        ConfigError: peft is not installed, the launcher asks for FSDP, or the optimizer is one of whole matrices.
    """
    if not config.rank:
        return
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("lora.rank: adapters need peft: pip install 'ibidem[lora]'")
    if sharding.is_requested():
        raise ConfigError("lora.rank: adapters are not sharded; start the processes without FSDP, as torchrun does")
    if optim.name == "muon":
        raise ConfigError("optim.name: muon is for whole matrices, and with lora.rank none is trained; choose adamw")


def check_resume(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other adapters than those of a checkpoint, or with adapters where it has none.

    Args:
        checkpoint: its folder.
        before: the settings that it was trained with.
        now: the settings of the run.

    Raises:
        CheckpointError: they differ.
    """
    theirs, ours = (_said(settings.get("lora")) for settings in (before, now))
    if theirs != ours:
        raise CheckpointError(
            f"{checkpoint} was trained with {theirs}, and this run has {ours}: resume with the same, "
            "or start a new run from its weights with --initial"
        )


def _said(settings: Mapping[str, Any] | None) -> str:
    """Say what decides the adapters of some settings: all but the dropout.

    >>> _said(None), _said({"rank": 2, "alpha": None, "targets": ["out", "qkv"], "dropout": 0.1})
    ('lora.rank 0', 'lora.rank 2, lora.alpha 4.0, lora.targets qkv out')
    """
    if settings is None:
        return "lora.rank 0"
    config = build(LoraConfig, settings)
    return f"lora.rank {config.rank}, lora.alpha {config.strength}, lora.targets {' '.join(_targets(config))}"


def attach(config: LoraConfig, seed: int, model: nn.Module) -> "Adapters":
    """Freeze a decoder, and give it adapters.

    A grounding head beside it, which the initial checkpoint does not have, is trained as without adapters.

    Args:
        config: the adapters.
        seed: decides the initial A.
        model: the decoder, with the weights of the initial checkpoint.
    """
    assert isinstance(model, Decoder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_of_head(name))
    settings = _peft_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place in _places(model, _targets(config)):
            place.matrix.adapter = _new(place.matrix, settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    log.event("train.adapters", rank=config.rank, trained=trained, frozen=model.num_parameters - trained)
    return Adapters(model, list(_places(model, _targets(config))), _text(settings))


class Adapters:
    """The adapters of a decoder, as a checkpoint holds them."""

    def __init__(self, model: Decoder, places: Sequence["_Place"], settings: str) -> None:
        """Take them where they are: `attach` put them there."""
        self._model, self._places = model, places
        self.settings = settings
        """The file that peft reads them by."""

    def tensors(self) -> dict[str, Tensor]:
        """Return A and B of each matrix of an export."""
        tensors: dict[str, Tensor] = {}
        for place in self._places:
            a_RD, b_OR = place.adapter.a_RD.detach(), place.adapter.b_OR.detach()
            for name, rows_OR in zip(place.rows, torch.split(b_OR, list(place.rows.values())), strict=True):
                tensors |= {f"{name}.lora_A.weight": a_RD, f"{name}.lora_B.weight": rows_OR}
        return tensors

    def merged(self) -> Mapping[str, Tensor]:
        """Return the weights of the decoder with the adapters added."""
        return merged(self._model)

    def restore(self, folder: Path, weights: Tensors) -> None:
        """Read the adapters, and a head; the frozen weights are there already.

        Raises:
            CheckpointError: a head has another shape, or is in only one of them.
        """
        own = {name: tensor for name, tensor in self._model.state_dict().items() if is_of_head(name)}
        if differing := sorted(own.keys() ^ set(filter(is_of_head, weights))):
            raise CheckpointError(f"{differing[0]} is in only one of them")
        adapters = load_file(folder / ADAPTER)
        with torch.no_grad():
            for name, tensor in own.items():
                if weights.shape(name) != tuple(tensor.shape):
                    raise CheckpointError(f"{name} has the shape {weights.shape(name)}, not {tuple(tensor.shape)}")
                tensor.copy_(weights.read(name))
            for place in self._places:
                place.adapter.a_RD.copy_(adapters[f"{next(iter(place.rows))}.lora_A.weight"])
                place.adapter.b_OR.copy_(torch.cat([adapters[f"{name}.lora_B.weight"] for name in place.rows]))


class _Place(NamedTuple):
    matrix: Linear
    rows: dict[str, int]
    """How many of its rows each matrix of an export has."""

    @property
    def adapter(self) -> Adapter:
        assert self.matrix.adapter is not None
        return self.matrix.adapter


def _targets(config: LoraConfig) -> list[LoraTarget]:
    return [target for target in PARTS if target in config.targets]


def _places(model: Decoder, targets: Sequence[LoraTarget]) -> Iterator[_Place]:
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        attention, ffn = block.attention, block.ffn
        found: dict[LoraTarget, tuple[Linear, list[int]]] = {
            "qkv": (attention.qkv, [heads * attention.head_width for heads in attention.split]),
            "out": (attention.out, [attention.out.out_features]),
            "gate_up": (ffn.gate_up, [ffn.down.in_features] * 2),
            "down": (ffn.down, [ffn.down.out_features]),
        }
        for target in targets:
            matrix, rows = found[target]
            names = [f"base_model.model.model.layers.{number}.{part}" for part in PARTS[target]]
            yield _Place(matrix, dict(zip(names, rows, strict=True)))


def _peft_config(config: LoraConfig) -> "PeftConfig":
    import peft

    made = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.strength,  # type: ignore[arg-type] # any number will do
        lora_dropout=config.dropout,
        task_type=peft.TaskType.CAUSAL_LM,
        inference_mode=True,
    )
    # peft would make it a set, and write that in an order that changes from process to process
    made.target_modules = [part.partition(".")[2] for target in _targets(config) for part in PARTS[target]]
    return made


def _text(settings: "PeftConfig") -> str:
    with tempfile.TemporaryDirectory(prefix="ibidem-") as folder:
        settings.save_pretrained(folder)
        return Path(folder, ADAPTER_CONFIG).read_text(encoding="utf-8")


def _new(matrix: Linear, settings: "PeftConfig") -> Adapter:
    from peft.tuners.lora import Linear as PeftLinear

    layer = PeftLinear(matrix, NAME, settings, r=settings.r, lora_alpha=settings.lora_alpha)
    a_RD, b_OR = (layer.get_parameter(f"lora_{part}.{NAME}.weight").detach() for part in "AB")
    return Adapter(a_RD, b_OR, scale=layer.scaling[NAME], dropout=settings.lora_dropout)
