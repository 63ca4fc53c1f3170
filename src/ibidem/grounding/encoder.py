"""Encoders: texts to vectors and token states, by a checkpoint of ours or a local Hugging Face encoder.

    a checkpoint of ours        the mean of the last hidden states of a text's tokens
    a Hugging Face encoder      the same, or what the files of sentence-transformers in the folder say: `modules.json`
                                (transformer, pooling, perhaps a normalization) and the pooling's `config.json` (the
                                mean, or the first token)

Vectors have length 1. Each text is computed in a row of its own without padding, so that its vector depends on nothing
but the text: rows of a batch would change one another's last bits. A text longer than the model's context is cut.

What a grounding head reads are the states of a text's tokens. A text longer than the context is read in windows, each
of which begins in the middle of the one before; a token's state is of the window in which it is farther from an edge.

Shapes: N texts, T tokens, D width.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ibidem.artifacts import MANIFEST
from ibidem.errors import ConfigError
from ibidem.inference.model_folder import digest_of_model_folder
from ibidem.readers import Readers, readers_of

if TYPE_CHECKING:
    from torch import Tensor

ENCODER = "encoder"
"""Role of an encoder among the inputs of a head."""
MODULES = "modules.json"
_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"
_MEAN, _FIRST = "pooling_mode_mean_tokens", "pooling_mode_cls_token"


class Encoder(Protocol):
    """Turns texts into vectors."""

    digest: str
    """Identifies it: encoders with equal digests return equal vectors."""
    width: int
    """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text, float32 [N, D]; each depends on its text alone."""


def open_encoder(path: Path, principal: str | None = None, *, for_others: bool = False) -> "TextEncoder":
    """Open a checkpoint of ours or the folder of a Hugging Face encoder; nothing is downloaded, and no code is loaded.

    Args:
        path: its folder.
        principal: who opens it; None: the user who runs the program.
        for_others: check nobody; whoever calls this checks each person who asks by `TextEncoder.readers`.

    Raises:
        AccessDenied: it was tuned on documents, and the principal is not among their readers.
        CheckpointError: the checkpoint is damaged.
        ConfigError: the folder is neither, cannot be loaded, or pools in a way that is not supported.
    """
    if (path / MANIFEST).exists():
        return _of_checkpoint(path, principal, for_others=for_others)
    if not (path / "config.json").is_file() and not (path / MODULES).is_file():
        raise ConfigError(f"{path}: neither a checkpoint nor the folder of a Hugging Face model")
    return _of_hugging_face(path)


class TokenStates(NamedTuple):
    """The last hidden states of a text's tokens, without those of tokens that stand for no text."""

    states_TD: "Tensor"
    """float32."""
    spans_T2: NDArray[np.int64]
    """Of each token in the text, in characters; those of a character in several tokens overlap."""


class TextEncoder:
    """An encoder of one text at a time."""

    def __init__(
        self,
        digest: str,
        width: int,
        hidden: Callable[[str], "Tensor"],
        windows: Callable[[str], Iterable[TokenStates]],
        *,
        first: bool = False,
        readers: Readers | None = None,
    ) -> None:
        """Make an encoder from functions that return hidden states.

        Args:
            digest: identifies it.
            width: length of a vector.
            hidden: returns the states whose mean is the vector of a text, float [T, D].
            windows: returns the states of its tokens, window by window, as many as it needs.
            first: take the first state instead of the mean.
            readers: who may use it; None: everyone.
        """
        self.digest, self.width, self.readers = digest, width, readers
        self._hidden, self._windows, self._first = hidden, windows, first

    def states(self, text: str) -> TokenStates:
        """Return the states of a text's tokens; a text without tokens has none."""
        import torch

        with torch.inference_mode():
            return _joined(list(self._windows(text)), self.width)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text, float32 [N, D]; a text without tokens has the vector 0."""
        vectors_ND = np.zeros((len(texts), self.width), np.float32)
        for vector_D, text in zip(vectors_ND, texts, strict=True):
            vector_D[:] = self._vector(text)
        return vectors_ND

    def _vector(self, text: str) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            hidden_TD = self._hidden(text).double()
        if not len(hidden_TD):
            return np.zeros(self.width, np.float32)
        mean_D = (hidden_TD[0] if self._first else hidden_TD.mean(0)).cpu().numpy()
        return np.asarray(mean_D / (np.sqrt((mean_D * mean_D).sum()) or 1.0), np.float32)


def _joined(windows: Sequence[TokenStates], width: int) -> TokenStates:
    """Join overlapping windows in the middle of each overlap."""
    import torch

    if not windows:
        return TokenStates(torch.zeros(0, width), np.zeros((0, 2), np.int64))
    firsts, lasts = [0], []
    for window, after in pairwise(windows):
        opening = tuple(after.spans_T2[0])
        overlap = sum(1 for span in window.spans_T2 if tuple(span) >= opening)
        lasts.append(len(window.spans_T2) - overlap // 2)
        firsts.append(overlap - overlap // 2)
    lasts.append(len(windows[-1].spans_T2))
    parts = list(zip(windows, firsts, lasts, strict=True))
    states_TD = torch.cat([window.states_TD[first:last] for window, first, last in parts]).float().cpu()
    return TokenStates(states_TD, np.concatenate([window.spans_T2[first:last] for window, first, last in parts]))


def _of_checkpoint(path: Path, principal: str | None, *, for_others: bool) -> TextEncoder:
    import torch

    from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
    from ibidem.tokenization.tokenizer import Tokenizer

    model, checkpoint = load_model(path, principal, for_others=for_others)
    tokenizer = Tokenizer.load(path / TOKENIZER_DIR)

    def hidden(text: str) -> "Tensor":
        return of_ids(tokenizer.encode(text)[: model.config.context - 1])

    def of_ids(ids: Sequence[int]) -> "Tensor":
        row = torch.tensor([[tokenizer.document_id, *ids]], device=model.device)
        return model.hidden(row)[0][0, 1:]  # the state of the opening token is that of every text

    def windows(text: str) -> Iterator[TokenStates]:
        ids, longest = tokenizer.encode(text), model.config.context - 1
        spans_T2 = tokenizer.spans(text, ids)
        for start in range(0, max(len(ids) - longest // 2, min(len(ids), 1)), max(longest // 2, 1)):
            window = slice(start, start + longest)
            yield TokenStates(of_ids(ids[window]), spans_T2[window])

    return TextEncoder(checkpoint.digest, model.config.width, hidden, windows, readers=readers_of(checkpoint.config))


def _of_hugging_face(path: Path) -> TextEncoder:
    digest = digest_of_model_folder(path)
    folder, first = _modules(path)
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise ConfigError("an encoder of Hugging Face needs transformers: pip install 'ibidem[huggingface]'") from None
    import torch

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    model.eval()
    longest = _longest(path, tokenizer, model.config)

    def hidden(text: str) -> "Tensor":
        row = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        states_1TD = model(**row).last_hidden_state
        return states_1TD[0]  # type: ignore[no-any-return]

    def windows(text: str) -> Iterator[TokenStates]:
        rows = tokenizer(
            text,
            truncation=True,
            max_length=longest,
            stride=longest // 2,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        for number, ids in enumerate(rows["input_ids"]):
            kept = [place for place, is_special in enumerate(rows["special_tokens_mask"][number]) if not is_special]
            states_TD = model(input_ids=torch.tensor([ids])).last_hidden_state[0, kept]
            yield TokenStates(states_TD, np.asarray(rows["offset_mapping"][number], np.int64)[kept].reshape(-1, 2))

    return TextEncoder(digest, int(model.config.hidden_size), hidden, windows, first=first)


def _longest(path: Path, tokenizer: Any, config: Any) -> int:
    """Return the number of tokens that a text may have."""
    file = path / "sentence_bert_config.json"
    asked = _json(file).get("max_seq_length") if file.is_file() else None
    reserved = 2 if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert", "mpnet"} else 0
    positions = getattr(config, "max_position_embeddings", None)
    limits = [asked, tokenizer.model_max_length, positions - reserved if positions else None]
    return int(min(limit for limit in limits if limit))


def _modules(path: Path) -> tuple[Path, bool]:
    """Return the folder of the transformer, and whether its first state is taken instead of the mean."""
    if not (path / MODULES).is_file():
        pooling = path / "1_Pooling"
        return path, _takes_first(pooling) if (pooling / "config.json").is_file() else False
    folder, first = path, False
    for module in _json(path / MODULES):
        kind, where = str(module.get("type", "")).rpartition(".")[2], path / _inside(path, str(module.get("path", "")))
        if kind == _TRANSFORMER:
            folder = where
        elif kind == _POOLING:
            first = _takes_first(where)
        elif kind != _NORMALIZE:
            raise ConfigError(
                f"{path / MODULES}: the module {kind} is not supported, only a transformer and its pooling"
            )
    return folder, first


def _inside(path: Path, name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise ConfigError(
            f"{path / MODULES}: names {name!r}, which is outside the folder, so the digest cannot cover it"
        )
    return name


def _takes_first(folder: Path) -> bool:
    modes = [
        name for name, value in _json(folder / "config.json").items() if name.startswith("pooling_mode_") and value
    ]
    if modes not in ([_MEAN], [_FIRST]):
        raise ConfigError(f"{folder / 'config.json'}: only the mean and the first token are supported, not {modes}")
    return modes == [_FIRST]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {' '.join(str(error).split())}") from None
