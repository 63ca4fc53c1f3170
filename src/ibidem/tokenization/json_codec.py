"""A `tokenizer.json` in our form: byte-level BPE, BPE with byte fallback, or unigram, read by `tokenizers`.

Texts are encoded without its special tokens, and each id stands for what `piece_texts` says it adds to a text.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibidem.errors import ArtifactError, ConfigError, DataError, IbidemError
from ibidem.tokenization import special
from ibidem.tokenization.canonical import alphabet_of, bare, controls_of, document_of, unknown_id, without_blank
from ibidem.tokenization.json_file import Tree, names_of
from ibidem.tokenization.piece_texts import piece_texts
from ibidem.tokenization.utf8 import joined

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class JsonCodec:
    """A tokenizer of the library `tokenizers`, in our form."""

    def __init__(self, model: bytes, where: Path) -> None:
        """Read the file.

        Raises:
            ArtifactError: it is not in our form.
            ConfigError: `tokenizers` is not installed.
        """
        tree: Tree = json.loads(model)
        alphabet, document = alphabet_of(tree), document_of(tree)
        if alphabet is None or document is None:
            raise ArtifactError(f"{where}: not written by ibidem; ibidem import takes the tokenizer of a model")
        self.model_bytes, self.alphabet, self.document = model, alphabet, document
        self._where = where
        self.unknown_id = unknown_id(tree["model"])
        self._controls = controls_of(tree, alphabet)
        self._controls[special.DOCUMENT] = self._controls[alphabet.plain(document) or document]
        names = names_of(tree, where)
        self._texts_of_V, self.first_texts = piece_texts(tree["decoder"], names, where)
        self._name_of = {number: alphabet.plain(names[number]) or "" for number in self._controls.values()}
        for number in self._name_of:
            self._texts_of_V[number] = ""
            self.first_texts.pop(number, None)
        self._model = library(json.dumps(bare(tree)), where)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._texts_of_V)

    @property
    def texts_of_V(self) -> list[str | bytes]:  # noqa: N802 - the shape
        """What each id adds to a text: a text, bytes that may be part of a character, or of a special token nothing."""
        return self._texts_of_V

    @property
    def controls(self) -> dict[str, int]:
        """Ids that no text becomes, by their names."""
        return self._controls

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token; None if there is no such token."""
        return self._controls.get(token)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never that of a special token."""
        return list(self._model.encode(text, add_special_tokens=False).ids)

    def encode_continued(self, text: str) -> list[int]:
        """Return the ids of a text that continues another: without a blank before its first word."""
        model = self._continuing if self.first_texts else self._model
        return list(model.encode(text, add_special_tokens=False).ids)

    def encode_arrays(self, texts: Sequence[str], *, threads: int) -> list[NDArray[np.int32]]:  # noqa: ARG002 - the library decides
        """Return the ids of many texts, encoded in parallel."""
        encoded = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(done.ids, np.int32) for done in encoded]

    def decode(self, ids: Iterable[int], *, is_continued: bool) -> str:
        """Return the text of ids; special tokens are left out, and ids beyond the vocabulary."""
        return joined(self._parts(ids, is_continued=is_continued))

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, or the name of a special token or of bytes."""
        return [self._name_of.get(number) or _shown(self._texts_of_V[number]) for number in ids]

    def spans(self, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the span in characters of each of the first ids of a text, as the library finds them."""
        spans = self._model.encode(text, add_special_tokens=False).offsets
        return np.array(spans[: len(ids)], dtype=np.int64).reshape(-1, 2)

    @cached_property
    def _continuing(self) -> "Tokenizer":
        return library(json.dumps(without_blank(bare(json.loads(self.model_bytes)))), self._where)

    def _parts(self, ids: Iterable[int], *, is_continued: bool) -> Iterator[str | bytes]:
        is_first = not is_continued
        for number in ids:
            text = self._texts_of_V[number] if number < len(self._texts_of_V) else ""
            yield self.first_texts.get(number, text) if is_first else text
            is_first = is_first and not text


def library(text: str, where: Path) -> "Tokenizer":
    """Open the text of a `tokenizer.json` with `tokenizers`.

    Raises:
        ConfigError: `tokenizers` is not installed.
        DataError: it cannot read the text.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(f"{where}: it is read by tokenizers: pip install 'ibidem[huggingface]'") from None
    with one_line(where):
        return Tokenizer.from_str(text)


@contextmanager
def one_line(where: Path) -> Iterator[None]:
    """Say in one line what `tokenizers` makes of a damaged file, which it may only notice when it encodes.

    Raises:
        DataError: it raised an error, or panicked.
    """
    try:
        yield
    except IbidemError:
        raise
    except BaseException as error:
        is_theirs = type(error) is Exception or type(error).__module__ == "pyo3_runtime"
        if not is_theirs:
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: tokenizers cannot read it: {reason}") from None


def _shown(part: str | bytes) -> str:
    return part if isinstance(part, str) else "".join(f"<0x{byte:02X}>" for byte in part)
