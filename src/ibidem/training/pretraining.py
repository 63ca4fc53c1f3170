"""Pretraining's objective: next-token prediction on windows of a tokenized dataset."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.errors import ConfigError
from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.generate import Sampling, complete
from ibidem.modeling.loss import IGNORE
from ibidem.tokenization import special
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import sharding
from ibidem.training.config import DEFAULT_PROMPTS, TrainConfig
from ibidem.training.objective import ObjectiveState
from ibidem.training.tokens import FimIds, Windows, fill_in_middle, window_at

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
        """Fail early if a split has no whole window, or a prompt does not fit into the context."""
        log.event("train.windows", train=self.windows.number, held_out=self.held_out.number)
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

    def begin(self, model: nn.Module, step: int) -> None:
        """Nothing to prepare: the windows of a step follow from its number."""

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's windows of a micro batch, and the number of targets of the step."""
        ids_BT, targets_BT = self._split(self._micro_batch(step, micro))
        loss = model(ids_BT, targets_BT, self._documents(ids_BT), self.config.optim.z_loss)
        return loss, self.config.training.batch_sequences * self._context

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return bits per byte and loss per token on held-out windows; complete the prompts."""
        self._sample(model, step)
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        chosen = self.held_out.spread(self.config.validation.windows)
        size, processes = self.config.training.micro_batch_sequences, self.accelerator.num_processes
        first = self.accelerator.process_index * size
        for start in range(
            first, first + math.ceil(len(chosen) / (size * processes)) * size * processes, size * processes
        ):
            # every process runs the model equally often and on equal shapes; surplus windows do not count
            places = range(start, start + size)
            ids_BT, targets_BT = self._split(np.stack([self.held_out[chosen[place % len(chosen)]] for place in places]))
            counts_B1 = torch.tensor([place < len(chosen) for place in places], device=ids_BT.device)[:, None]
            sizes_BT = self.bytes_of_V[targets_BT] * counts_B1
            nll = model(ids_BT, targets_BT.masked_fill(sizes_BT == 0, IGNORE), self._documents(ids_BT))
            sums += torch.tensor([float(nll), float(sizes_BT.sum()), float((sizes_BT > 0).sum())], dtype=torch.float64)
        nll, num_bytes, num_tokens = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").tolist()
        return {"bits_per_byte": nll / NATS_PER_BIT / num_bytes, "held_out_loss": nll / num_tokens}

    def figures(self) -> dict[str, float]:
        """Return no figures besides the loss."""
        return {}

    def state(self) -> ObjectiveState:
        """Return no state: the step determines where the data continues."""
        return ObjectiveState({}, {})

    def restore(self, state: ObjectiveState) -> None:
        """Nothing to restore."""

    @cached_property
    def windows(self) -> Windows:
        """The training windows."""
        return Windows(self.tokens, "train", self._context)

    @cached_property
    def held_out(self) -> Windows:
        """The held-out windows."""
        return Windows(self.tokens, "validation", self._context)

    @cached_property
    def bytes_of_V(self) -> Tensor:  # noqa: N802 - the shape
        """Number of bytes of text that each id represents."""
        return torch.from_numpy(self.tokenizer.bytes_of_V).to(self.accelerator.device)

    @cached_property
    def fim(self) -> FimIds | None:
        """The ids of fill-in-the-middle, if it is enabled."""
        if self.config.data.fim_rate == 0:
            return None
        names = (special.FIM_PREFIX, special.FIM_MIDDLE, special.FIM_SUFFIX)
        return FimIds(*(self.tokenizer.id_of(name) for name in names))

    @property
    def _context(self) -> int:
        return self.config.data.context or self.shape.context

    def _micro_batch(self, step: int, micro: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Read this process's windows of a micro batch; the step alone determines which."""
        size = self.config.training.micro_batch_sequences
        place = micro * self.accelerator.num_processes + self.accelerator.process_index
        first = step * self.config.training.batch_sequences + place * size
        return np.stack([self._window(position) for position in range(first, first + size)])

    def _window(self, position: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        seed = self.config.training.seed
        epoch, index = window_at(position, self.windows.number, seed)
        ids = self.windows[index]
        if self.fim is None:
            return ids
        rng = np.random.default_rng((seed, epoch, index))
        return fill_in_middle(ids, self.tokenizer.document_id, self.fim, rate=self.config.data.fim_rate, rng=rng)

    def _split(self, windows: "np.ndarray[Any, np.dtype[np.int64]]") -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(windows).to(self.accelerator.device, non_blocking=True)
        return ids[:, :-1], ids[:, 1:]

    def _documents(self, ids_BT: Tensor) -> Documents | None:
        if not self.config.data.document_mask:
            return None
        return Documents.of(ids_BT == self.tokenizer.document_id).to(ids_BT.device)

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
