"""Language models: a checkpoint of `ibidem train`, or any local Hugging Face causal language model."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ibidem import log
from ibidem.conversation import Conversation, Turn
from ibidem.errors import CheckpointError, ConfigError, DataError
from ibidem.inference import chat
from ibidem.inference.model_id import identify
from ibidem.modeling.checkpoint import TOKENIZER_DIR, best_device, load_model
from ibidem.modeling.generate import SEED_STRIDE, Sampling, complete
from ibidem.modeling.loss import IGNORE
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.runs import newest
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

ROWS = 128
"""Logits that are taken to float64 at once. In float32 a sum of 600 nats is rounded to 6e-5 nats."""
Bos = Literal["always", "tokenizer", "never"]
"""Which ids precede a text that is scored: `start_ids`, `added_ids`, or none."""


class LanguageModel(Protocol):
    """What the evaluations require of a model."""

    digest: str
    """Identifies these exact weights."""
    context: int
    start_ids: list[int]
    """The ids before a document; empty if the model has no such token."""
    added_ids: list[int]
    """The ids that its tokenizer puts before a text by itself."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without any special token."""

    def nll(self, ids: Sequence[int], first: int) -> float:
        """Sum the negative log-likelihoods of ids[first:], each given all ids before it, in nats."""

    def next_log_probabilities(self, ids: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the token after ids; shape (V,), float32."""

    def complete(self, prompts: Sequence[str], sampling: Sampling, stop: Sequence[str]) -> list[str]:
        """Continue each prompt up to the first stop string; a prompt that is too long is truncated on the left."""

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
        """Return the assistant's next turn in each conversation, as `ibidem.inference.chat` describes.

        Raises:
            ConfigError: a conversation's last turn of the user does not fit into the context.
        """

    def check_fit(self, conversations: Sequence[Conversation], max_tokens: int) -> None:
        """Refuse conversations that `respond` would refuse, before any is answered.

        Raises:
            ConfigError: a conversation's last turn of the user does not fit into the context.
        """


def open_model(path: Path, expected: str | None = None, principal: str | None = None) -> LanguageModel:
    """Open a checkpoint of ours, or a folder that Hugging Face `transformers` can load.

    Args:
        path: the checkpoint, run or folder.
        expected: the digest that it had when it was identified.
        principal: who opens it; None: the user who runs the program.

    Raises:
        AccessDenied: it was tuned on documents, and the principal is not among their readers.
        ConfigError: the path is neither.
        CheckpointError: it has another digest than expected.
    """
    path = newest(path)
    with unchanged(path):
        return _open(path, expected, principal)


def _open(path: Path, expected: str | None, principal: str | None) -> LanguageModel:
    model_id = identify(path, principal)
    if expected not in {None, model_id.digest}:
        raise CheckpointError(f"checkpoint {path}: it changed while it was evaluated")
    if model_id.is_checkpoint:
        return OwnModel(model_id.path, principal)
    return HuggingFaceModel(model_id.path, model_id.digest)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Refuse files that are exchanged between the moment when they are hashed and the moment when they are read.

    The time of a file's last change of status cannot be set back, and renaming sets it.

    Raises:
        CheckpointError: a file or subfolder was written, renamed or exchanged.
    """
    before = _stamps(folder)
    yield
    if _stamps(folder) != before:
        raise CheckpointError(f"checkpoint {folder}: it changed while it was read")


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    paths = sorted([folder, *folder.rglob("*")]) if folder.is_dir() else []
    stats = [(path, path.stat()) for path in paths if path.exists()]
    return [(str(path), stat.st_ino, stat.st_ctime_ns) for path, stat in stats]


class OwnModel:
    """A checkpoint of `ibidem train`."""

    def __init__(self, path: Path, principal: str | None = None) -> None:
        self._model, checkpoint = load_model(path, principal)
        self._tokenizer = Tokenizer.load(path / TOKENIZER_DIR)
        self._frozen = FrozenDecoder(self._model, num_ids=self._tokenizer.vocab_size)
        self.digest = checkpoint.digest
        self.context = self._model.config.context
        self.start_ids = [self._tokenizer.document_id]
        self.added_ids = self.start_ids

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    @torch.no_grad()
    def nll(self, ids: Sequence[int], first: int) -> float:
        row = torch.tensor([ids], device=self._model.device)
        targets = row[:, 1:].clone()
        targets[:, : first - 1] = IGNORE
        return float(self._model(row[:, :-1], targets))

    @torch.no_grad()
    def next_log_probabilities(self, ids: Sequence[int]) -> Tensor:
        row = torch.tensor([ids], device=self._model.device)
        return log_softmax(self._model.logits(row)[0, -1].float().cpu(), dim=-1)

    def complete(self, prompts: Sequence[str], sampling: Sampling, stop: Sequence[str]) -> list[str]:
        room = _room(self.context - len(self.start_ids), sampling.max_tokens)
        shortened = [self._last_tokens(prompt, room) for prompt in prompts]
        return [done.text for done in complete(self._frozen, self._tokenizer, shortened, sampling, stop)]

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
        template = ChatTemplate(self._tokenizer)
        return [done.turn for done in chat.answer(self._frozen, template, conversations, sampling)]

    def check_fit(self, conversations: Sequence[Conversation], max_tokens: int) -> None:
        template = ChatTemplate(self._tokenizer)
        chat.check_fit(conversations, lambda turns: len(template.prompt(turns)), self.context - max_tokens)

    def _last_tokens(self, prompt: str, count: int) -> str:
        """Return the end of a prompt that has at most `count` tokens: a text that was cut may have more than before."""
        ids = self._tokenizer.encode(prompt)
        if len(ids) <= count:
            return prompt
        ends = (self._tokenizer.decode(ids[-kept:]) for kept in range(count, 0, -1))
        return next((end for end in ends if len(self._tokenizer.encode(end)) <= count), "")


class HuggingFaceModel:
    """Any causal language model in a local folder; nothing is downloaded."""

    def __init__(self, path: Path, digest: str) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ConfigError("a Hugging Face model needs transformers: pip install 'ibidem[huggingface]'") from None
        try:
            local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer = AutoTokenizer.from_pretrained(path, **local)
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
            raise ConfigError(f"checkpoint {path}: {' '.join(str(error).split())[:200]}") from None
        for parameter in model.parameters():  # they may be views of the file, which somebody may write to
            parameter.data = parameter.data.clone()
        self._model: Any = model.to(best_device()).eval()
        self.digest = digest
        self.context = int(getattr(self._model.config, "max_position_embeddings", 1024))
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self._end = eos if eos is not None else bos
        start = bos if bos is not None else eos
        self.start_ids = [] if start is None else [start]
        self.added_ids = self._ids_added_before("a")

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ids_added_before(self, text: str) -> list[int]:
        ids, whole = self.encode(text), list(self._tokenizer(text)["input_ids"])
        return next((whole[:at] for at in range(len(whole)) if whole[at : at + len(ids)] == ids), [])

    @torch.no_grad()
    def nll(self, ids: Sequence[int], first: int) -> float:
        row = torch.tensor([ids], device=self._model.device)
        logits_TV = self._model(row[:, :-1]).logits[0, first - 1 :]
        parts = zip(torch.split(logits_TV, ROWS), torch.split(row[0, first:], ROWS), strict=True)
        return math.fsum(float(cross_entropy(logits.double(), ids, reduction="sum")) for logits, ids in parts)

    @torch.no_grad()
    def next_log_probabilities(self, ids: Sequence[int]) -> Tensor:
        row = torch.tensor([ids], device=self._model.device)
        return log_softmax(self._model(row).logits[0, -1].float().cpu(), dim=-1)

    def complete(self, prompts: Sequence[str], sampling: Sampling, stop: Sequence[str]) -> list[str]:
        """Continue one prompt at a time, each with a seed of its own."""
        room = _room(self.context, sampling.max_tokens)
        return self._continue([[*self.start_ids, *self.encode(prompt)][-room:] for prompt in prompts], sampling, stop)

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
        """Answer by the tokenizer's own chat template if it has one, else by the plain rendering."""
        stop = () if self._tokenizer.chat_template else chat.PLAIN_STOP
        room = self.context - sampling.max_tokens
        fitting = chat.fit(conversations, lambda turns: len(self._chat_ids(turns)), room)
        texts = self._continue([self._chat_ids(turns) for turns in fitting], sampling, stop)
        return [Turn.of("assistant", text) for text in texts]

    def check_fit(self, conversations: Sequence[Conversation], max_tokens: int) -> None:
        chat.check_fit(conversations, lambda turns: len(self._chat_ids(turns)), self.context - max_tokens)

    def _chat_ids(self, turns: Conversation) -> list[int]:
        if not self._tokenizer.chat_template:
            return [*self.start_ids, *self.encode(chat.plain_prompt(turns))]
        from jinja2 import TemplateError  # torch depends on it

        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:  # transformers renders in jinja's sandbox
            template: Any = self._tokenizer.apply_chat_template
            ids = template(messages, add_generation_prompt=True, return_dict=False)
        except (TemplateError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"the model's chat template refuses the conversation: {reason}") from None
        return list(ids)

    def _continue(self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[str]) -> list[str]:
        numbered = enumerate(prompts, sampling.first)
        return [self._continued(ids, replace(sampling, first=number), stop) for number, ids in numbered]

    @torch.no_grad()
    def _continued(self, ids: Sequence[int], sampling: Sampling, stop: Sequence[str]) -> str:
        drawing: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            drawing = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if stop:
            drawing["stopping_criteria"] = [lambda row, _scores: self._has_stopped(row[0, len(ids) :], stop)]
        row = torch.tensor([ids], device=self._model.device)
        torch.manual_seed(sampling.seed * SEED_STRIDE + sampling.first)
        pad = self._end if self._end is not None else 0
        done = self._model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=sampling.max_tokens, pad_token_id=pad, **drawing
        )
        text = str(self._tokenizer.decode(done[0, len(ids) :], skip_special_tokens=True))
        return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]

    def _has_stopped(self, ids: Tensor, stop: Sequence[str]) -> Tensor:
        longest = max(len(word.encode()) for word in stop)
        tail = self._tokenizer.decode(ids[-longest - 4 :], skip_special_tokens=True)
        return torch.tensor([any(word in tail for word in stop)], device=ids.device)


def report_truncated(model: LanguageModel, prompts: Sequence[str], max_tokens: int) -> None:
    """Say how many prompts are too long for the context and lose their beginning."""
    room = model.context - len(model.start_ids) - max_tokens
    count = sum(len(model.encode(prompt)) > room for prompt in prompts)
    if count:
        reason = "they are too long for the context and lose their beginning"
        log.event("evaluate.truncated", prompts=count, of=len(prompts), reason=reason)


def _room(context: int, max_tokens: int) -> int:
    if max_tokens >= context:
        raise ConfigError(f"max_tokens {max_tokens} leaves no room for a prompt in a context of {context}; give fewer")
    return context - max_tokens


def start_ids(model: LanguageModel, bos: Bos) -> list[int]:
    """Return the ids that precede a text."""
    if bos == "never":
        return []
    return model.start_ids if bos == "always" else model.added_ids


def option_scores(model: LanguageModel, prompt: str, options: Sequence[str], bos: Bos = "always") -> list[float]:
    """Return the log-likelihood of each option after a prompt, in nats; a prompt that is too long is truncated left.

    Options that differ only in their last token share one pass of the model.

    Raises:
        DataError: a likelihood is not finite.
    """
    start, before = start_ids(model, bos), model.encode(prompt)
    scores = []
    passes: dict[tuple[int, ...], Tensor] = {}
    for option in options:
        whole = model.encode(prompt + option)
        shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        ids = [*start, *whole]
        first = max(len(start) + min(shared, len(whole) - 1), 1)
        cut = max(0, min(len(ids) - model.context - 1, first - 1))
        ids, first = ids[cut:], first - cut
        if first == len(ids) - 1:
            key = tuple(ids[:-1])
            if key not in passes:
                passes[key] = model.next_log_probabilities(key)
            scores.append(float(passes[key][ids[-1]]))
        else:
            scores.append(-model.nll(ids, first))
    if not all(map(math.isfinite, scores)):
        raise DataError("the model's likelihoods are not finite: its weights are damaged")
    return scores
