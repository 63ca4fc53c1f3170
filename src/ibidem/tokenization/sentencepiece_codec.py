"""A sentencepiece unigram model, as `ibidem train-tokenizer` trains it.

sentencepiece splits its training text at newlines and writes a blank as U+2581, so a newline and a literal U+2581 are
represented inside the model by two characters that hardly any text has: the last two of Unicode's private plane 16. If
a text does contain one of these, it is spelled in byte pieces, and `decode` restores it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import sentencepiece as spm
from numpy.typing import NDArray

from ibidem.tokenization import special
from ibidem.tokenization.spans import characters_of
from ibidem.tokenization.utf8 import num_bytes

NEWLINE = "\U0010fffc"
"""Represents U+000A inside the model."""
BLANK = "\U0010fffd"
"""Represents a literal U+2581 inside the model, where U+2581 itself represents a blank."""
_CARRIERS = re.compile(f"([{NEWLINE}{BLANK}])")


class SentencePieceCodec:
    """A trained model."""

    first_texts: Mapping[int, str | bytes] = {}

    def __init__(self, model: bytes) -> None:
        self.model_bytes = model
        self._model = spm.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._model.vocab_size()
        self.unknown_id: int = self._model.unk_id()
        self._byte_ids = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in range(special.NUM_BYTES)]
        self._spelled = {char: [self._byte_ids[byte] for byte in char.encode()] for char in (NEWLINE, BLANK)}

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token; None if there is no such token."""
        number = int(self._model.piece_to_id(token))
        return None if number == self.unknown_id and token != special.UNKNOWN else number

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never that of a special token."""
        ids: list[int]
        if NEWLINE not in text and BLANK not in text:
            ids = self._model.encode(text)
            return ids
        ids = []
        for part in _CARRIERS.split(text):
            ids += self._spelled.get(part) or self._model.encode(part)
        return ids

    def encode_continued(self, text: str) -> list[int]:
        """Return the ids of a text that continues another: the same."""
        return self.encode(text)

    def encode_arrays(self, texts: Sequence[str], *, threads: int) -> list[NDArray[np.int32]]:
        """Return the ids of many texts, encoded in parallel; the library writes them into the arrays."""
        has_carriers = [NEWLINE in text or BLANK in text for text in texts]
        plain = [text for text, has_carrier in zip(texts, has_carriers, strict=True) if not has_carrier]
        done = iter(self._model.encode(plain, num_threads=threads, return_type="numpy"))
        return [
            np.array(self.encode(text), np.int32) if has_carrier else next(done)
            for text, has_carrier in zip(texts, has_carriers, strict=True)
        ]

    def decode(self, ids: Iterable[int], *, is_continued: bool) -> str:  # noqa: ARG002 - no piece has a blank before it
        """Return the text of ids; special tokens are left out, and ids beyond the vocabulary."""
        text, plain = "", []
        ids = [number for number in ids if number < self.vocab_size]
        position = 0
        while position < len(ids):
            carrier = next((c for c, s in self._spelled.items() if ids[position : position + len(s)] == s), None)
            if carrier is None:
                plain.append(ids[position])
                position += 1
            else:
                text += self._model.decode(plain) + carrier
                plain = []
                position += len(self._spelled[carrier])
        return text + str(self._model.decode(plain))

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, or the name of a special token or of a byte."""
        return [readable(self._model.id_to_piece(number)) for number in ids]

    def spans(self, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the span in characters of each of the first ids of a text, by their lengths."""
        sizes = [num_bytes(self.texts_of_V[number]) for number in ids]
        return characters_of(text, np.array(sizes, dtype=np.int32))

    @cached_property
    def texts_of_V(self) -> list[str | bytes]:  # noqa: N802 - the shape
        """What each id adds to a text: a byte piece its byte, a special token nothing."""
        texts: list[str | bytes] = [str(self._model.decode([number])) for number in range(self.vocab_size)]
        for byte, number in enumerate(self._byte_ids):
            texts[number] = bytes([byte])
        return texts


def to_model(text: str) -> str:
    """Replace newlines and literal U+2581 by their carriers, in a text that contains no carrier itself."""
    return text.replace("\u2581", BLANK).replace("\n", NEWLINE)


def has_carrier(text: str) -> bool:
    """Return whether a text contains one of the two characters that the model uses internally."""
    return _CARRIERS.search(text) is not None


def readable(piece: str) -> str:
    """Return the text that a learned piece stands for."""
    return piece.replace("\u2581", " ").replace(BLANK, "\u2581").replace(NEWLINE, "\n")
