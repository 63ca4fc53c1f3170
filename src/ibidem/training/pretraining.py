"""Pretraining's objective: next-token prediction on windows of a tokenized dataset."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.errors import ConfigError
from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.generate import Sampling, complete
from ibidem.modeling.loss import IGNORE
from ibidem.tokenization import special
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import sharding, window_groups
from ibidem.training.config import DEFAULT_PROMPTS, TrainConfig
from ibidem.training.curriculum import Curriculum, Stage, stage_at, stages_of
from ibidem.training.loader import Batch, Loader
from ibidem.training.objective import ObjectiveState
from ibidem.training.processes import shared_out
from ibidem.training.tokens import Fim, Ids, Windows, fill_in_middle

NATS_PER_BIT = float(np.log(2))


@dataclass
class Pretraining:
    """Next-token prediction on windows of a tokenized dataset."""

    config: TrainConfig
    shape: ModelConfig
    tokens: artifacts.Artifact
    tokenizer: Tokenizer
    accelerator: Accelerator

    def check(self) -> None:
        """Fail early if a split has no whole window, shares name unknown groups, or a prompt exceeds the context."""
        groups = {} if self.groups is None else {"groups": dict(self.groups.sizes)}
        sampled = {name: len(samples) for name, samples in self.samples.items()}
        more = groups | ({"held_out_groups": sampled} if sampled else {})
        log.event("train.windows", train=self.windows.number, held_out=self.held_out.number, **more)
        asked, length = self.config.validation.prompts, self.config.validation.sample_tokens
        if asked != DEFAULT_PROMPTS:
            for prompt in asked:
                if self._num_tokens(prompt) + length > self.shape.context:
                    raise ConfigError(
                        f"validation.prompts: {prompt[:40]!r} and {length} tokens exceed the model's context"
                    )
        if asked and sharding.is_requested():
            log.event("train.no_samples", reason="the weights are sharded")
        elif left_out := [prompt for prompt in asked if prompt not in self.prompts]:
            log.event("train.no_samples", prompts=left_out, reason="the model's context is too short")

    def begin(self, model: nn.Module, step: int) -> None:  # noqa: ARG002 - the protocol's signature
        """Let the loader prepare the windows of this step and the next ones."""
        self.loader.begin(step)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's windows of a micro batch, and the number of targets of the step."""
        batch = self.loader.take(step, micro)
        loss = model(batch.ids_BT, batch.targets_BT, batch.documents, self.config.optim.z_loss)
        return loss, self.config.training.batch_sequences * self._context

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return bits per byte and loss per token on held-out windows, of all and of each group; complete the prompts.

        A group without text in its windows has no figure.
        """
        self._sample(model, step)
        chosen = [(window, None) for window in self.held_out.spread(self.config.validation.windows)]
        parts = [self._nll(model, chosen), *(self._nll(model, samples) for samples in self.samples.values())]
        sums = self.accelerator.reduce(torch.stack(parts).to(self.accelerator.device), "sum").tolist()
        nll, num_bytes, num_tokens = sums[0]
        return {
            "bits_per_byte": nll / NATS_PER_BIT / num_bytes,
            "held_out_loss": nll / num_tokens,
            **{
                f"bits_per_byte/{group}": nll / NATS_PER_BIT / num_bytes
                for group, (nll, num_bytes, _) in zip(self.samples, sums[1:], strict=True)
                if num_bytes
            },
        }

    def _nll(self, model: nn.Module, windows: Sequence[tuple[int, NDArray[np.bool_] | None]]) -> Tensor:
        """Return the sums over this process's share of held-out windows: nats, bytes and targets; float64 on the CPU.

        Args:
            model: on its devices.
            windows: windows, and which of their targets count; None: all do.
        """
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        size, device = self.config.training.micro_batch_sequences, self.accelerator.device
        for share in shared_out(len(windows), size, self.accelerator):
            batch = self._batch([self.held_out[windows[place][0]] for place, _ in share]).to(device)
            counts_B1 = torch.tensor([counts for _, counts in share], device=device)[:, None]
            is_text_BT = (self.bytes_of_V[batch.targets_BT] > 0) & counts_B1
            chosen = [windows[place][1] for place, _ in share]
            if any(each is not None for each in chosen):
                is_text_BT &= torch.from_numpy(np.stack([each for each in chosen if each is not None])).to(device)
            sizes_BT = self._sizes(batch.ids_BT, batch.targets_BT) * is_text_BT
            nll = model(batch.ids_BT, batch.targets_BT.masked_fill(~is_text_BT, IGNORE), batch.documents)
            sums += torch.tensor([float(nll), float(sizes_BT.sum()), float(is_text_BT.sum())], dtype=torch.float64)
        return sums

    def figures(self) -> dict[str, float]:
        """Return no figures besides the loss."""
        return {}

    def state(self) -> ObjectiveState:
        """Return no state: the step determines where the data continues."""
        return ObjectiveState({}, {})

    def restore(self, state: ObjectiveState) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """End the loader's thread."""
        self.loader.close()

    @cached_property
    def loader(self) -> Loader:
        """The training's micro batches of this process."""
        training = self.config.training
        at_once = training.micro_batch_sequences * self.accelerator.num_processes
        return Loader(
            self._micro_batch,
            micro_batches=training.batch_sequences // at_once,
            stop=min(training.steps, training.stop_at_step or training.steps),
            device=self.accelerator.device,
        )

    @cached_property
    def windows(self) -> Windows:
        """The training windows."""
        return Windows(self.tokens, "train", self._context)

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages of the training."""
        return stages_of(self.config.data.stages, context=self._context, steps=self.config.training.steps)

    @cached_property
    def curriculum(self) -> Curriculum:
        """Which windows each step takes."""
        training = self.config.training
        return Curriculum(
            self.stages,
            batch=training.batch_sequences,
            number=self.windows.number,
            seed=training.seed,
            groups=self.groups,
        )

    @cached_property
    def groups(self) -> window_groups.WindowGroups | None:
        """The training windows by what the shares of the stages name, if they name anything."""
        shares = list(chain.from_iterable(stage.shares for stage in self.stages))
        return window_groups.groups_of(self.tokens, shares, context=self._context) if shares else None

    @cached_property
    def samples(self) -> dict[str, list[window_groups.Sample]]:
        """The held-out windows that are measured for each category and language."""
        count = self.config.validation.group_windows
        if count == 0:
            return {}
        number = self.held_out.number
        return window_groups.samples(self.tokens, "validation", context=self._context, windows=number, count=count)

    @cached_property
    def held_out(self) -> Windows:
        """The held-out windows."""
        return Windows(self.tokens, "validation", self._context)

    @cached_property
    def bytes_of_V(self) -> Tensor:  # noqa: N802 - the shape
        """Number of bytes of text that each id represents."""
        return torch.from_numpy(self.tokenizer.bytes_of_V).to(self.accelerator.device)

    def _sizes(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the number of bytes of text of each target."""
        sizes = self.tokenizer.bytes_of(targets_BT.cpu().numpy(), ids_BT.cpu().numpy())
        return torch.from_numpy(sizes).to(targets_BT.device)

    @cached_property
    def fim(self) -> Fim | None:
        """How middles are moved, if they are."""
        data = self.config.data
        if data.fim_rate == 0:
            return None
        names = (special.FIM_PREFIX, special.FIM_MIDDLE, special.FIM_SUFFIX)
        prefix, middle, suffix = (self.tokenizer.id_of(name) for name in names)
        return Fim(self.tokenizer, self.tokenizer.document_id, prefix, middle, suffix, data.fim_rate, data.fim_spm_rate)

    @property
    def _context(self) -> int:
        return self.config.data.context or self.shape.context

    def _micro_batch(self, step: int, micro: int) -> Batch:
        """Read this process's windows of a micro batch; the step alone determines which, and into what they are cut."""
        size = self.config.training.micro_batch_sequences
        first = (micro * self.accelerator.num_processes + self.accelerator.process_index) * size
        windows = self.curriculum.windows(step, range(first, first + size))
        context = stage_at(self.stages, step).context
        return self._batch([ids for epoch, index in windows for ids in self._sequences(epoch, index, context)])

    def _sequences(self, epoch: int, index: int, context: int) -> Iterable[Ids]:
        """Return a window as sequences of context + 1 ids; each begins with the last id of the one before it."""
        window = self.windows[index]
        starts = range(0, len(window) - 1, context)
        for number, start in enumerate(starts):
            ids, seed = window[start : start + context + 1], (self.config.training.seed, epoch, index)
            own = seed if len(starts) == 1 else (*seed, number)
            yield ids if self.fim is None else fill_in_middle(ids, self.fim, rng=np.random.default_rng(own))

    def _batch(self, windows: Sequence[Ids]) -> Batch:
        windows_BS = torch.from_numpy(np.stack(windows))
        if not self.config.data.document_mask:
            return Batch.of_windows(windows_BS, None)
        return Batch.of_windows(windows_BS, Documents.of(windows_BS[:, :-1] == self.tokenizer.document_id))

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts that are completed: those that leave room for a token."""
        if sharding.is_requested():
            return []
        return [each for each in self.config.validation.prompts if self._num_tokens(each) < self.shape.context]

    def _num_tokens(self, prompt: str) -> int:
        return 1 + len(self.tokenizer.encode(prompt))  # the document token precedes it

    def _sample(self, model: nn.Module, step: int) -> None:
        if not self.prompts or not self.accelerator.is_main_process:
            return
        decoder = self.accelerator.unwrap_model(model)
        room = self.shape.context - max(map(self._num_tokens, self.prompts))
        length = min(self.config.validation.sample_tokens, room)
        sampling = Sampling(max_tokens=length, seed=self.config.training.seed)
        for prompt, done in zip(self.prompts, complete(decoder, self.tokenizer, self.prompts, sampling), strict=True):
            log.event("train.sample", step=step, prompt=prompt, completion=done.text, finish=done.finish)
