"""The tokenizer: raw text in, the same text out, byte for byte.

sentencepiece splits its training text at newlines and writes a blank as U+2581, so a newline and a literal U+2581 are
represented inside the model by two characters that hardly any text has: the last two of Unicode's private plane 16. If
a text does contain one of these, it is spelled in byte pieces, and `decode` restores it.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece as spm
from numpy.typing import NDArray

from ibidem import artifacts
from ibidem.errors import ArtifactError
from ibidem.records import TOKENIZER_FILE
from ibidem.tokenization import special

KIND = "tokenizer"

NEWLINE = "\U0010fffc"
"""Represents U+000A inside the model."""
BLANK = "\U0010fffd"
"""Represents a literal U+2581 inside the model, where U+2581 itself represents a blank."""
_CARRIERS = re.compile(f"([{NEWLINE}{BLANK}])")


class Tokenizer:
    """A trained sentencepiece unigram model, its special tokens, and its digest."""

    def __init__(self, model: bytes, *, digest: str, path: Path | None = None) -> None:
        self.digest, self.path = digest, path
        self.model_bytes = model
        self._model = spm.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._model.vocab_size()
        self.document_id = self.id_of(special.DOCUMENT)
        self.turn_end_id = self.id_of(special.TURN_END)
        self.pad_id = self.id_of(special.PAD)
        self._byte_ids = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in range(special.NUM_BYTES)]
        self._spelled = {char: [self._byte_ids[byte] for byte in char.encode()] for char in (NEWLINE, BLANK)}

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, {self.vocab_size:,} ids, {self.digest[:19]})"

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Load a tokenizer, after checking all its files against the manifest.

        Raises:
            ArtifactError: there is no tokenizer, or it is damaged.
        """
        artifact = artifacts.verify(Path(folder), kind=KIND)
        return cls((artifact.path / TOKENIZER_FILE).read_bytes(), digest=artifact.digest, path=artifact.path)

    def id_of(self, token: str) -> int:
        """Return the id of a special token.

        Raises:
            ArtifactError: the tokenizer has no such token.
        """
        number = int(self._model.piece_to_id(token))
        if number == self._model.unk_id() and token != special.UNKNOWN:
            raise ArtifactError(f"the tokenizer has no {token}; train it with ibidem train-tokenizer")
        return number

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

    def encode_batch(self, texts: Sequence[str], *, threads: int) -> list[list[int]]:
        """Encode many texts, in parallel."""
        plain = [text for text in texts if NEWLINE not in text and BLANK not in text]
        done = iter(self._model.encode(plain, num_threads=threads))
        return [self.encode(text) if NEWLINE in text or BLANK in text else next(done) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        text, plain = "", []
        ids = list(ids)
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

    def is_byte(self, number: int) -> bool:
        """Return whether an id is a byte piece."""
        return bool(self._model.is_byte(number))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, or the name of a special token."""
        return [readable(self._model.id_to_piece(number)) for number in ids]

    @cached_property
    def texts_of_V(self) -> list[str | int]:  # noqa: N802 - the shape
        """What each id adds to a text: a byte piece its byte, a special token nothing."""
        texts: list[str | int] = [str(self._model.decode([number])) for number in range(self.vocab_size)]
        for byte, number in enumerate(self._byte_ids):
            texts[number] = byte
        return texts

    @cached_property
    def bytes_of_V(self) -> NDArray[np.int32]:  # noqa: N802 - the shape
        """Number of bytes of text that each id represents; 0 for special tokens."""
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for number in range(self.vocab_size):
            if self._model.is_byte(number):
                sizes[number] = 1
            elif not (self._model.is_control(number) or self._model.is_unknown(number)):
                sizes[number] = len(readable(self._model.id_to_piece(number)).encode())
        return sizes


def to_model(text: str) -> str:
    """Replace newlines and literal U+2581 by their carriers, in a text that contains no carrier itself."""
    return text.replace("\u2581", BLANK).replace("\n", NEWLINE)


def has_carrier(text: str) -> bool:
    """Return whether a text contains one of the two characters that the model uses internally."""
    return _CARRIERS.search(text) is not None


def readable(piece: str) -> str:
    """Return the text that a learned piece stands for."""
    return piece.replace("\u2581", " ").replace(BLANK, "\u2581").replace(NEWLINE, "\n")
