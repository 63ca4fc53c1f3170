"""The tokenizer: raw text in, raw text out, every byte of it.

sentencepiece splits its training text at newlines and writes a blank as U+2581, so both are carried inside the model by
two characters that hardly any text has: the last two of Unicode's private plane 16. Where a text does hold one of them
it is spelled in byte pieces, and `decode` gives it back.
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
"""Stands for U+000A inside the model."""
BLANK = "\U0010fffd"
"""Stands for a literal U+2581 inside the model, where U+2581 itself stands for a blank."""
_CARRIERS = re.compile(f"([{NEWLINE}{BLANK}])")


class Tokenizer:
    """A trained sentencepiece unigram model, its special tokens, and its digest."""

    def __init__(self, model: bytes, *, digest: str) -> None:
        self.digest = digest
        self._model = spm.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._model.vocab_size()
        self.document_id = self.id_of(special.DOCUMENT)
        self.pad_id = self.id_of(special.PAD)
        self._byte_ids = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in range(special.NUM_BYTES)]
        self._spelled = {char: [self._byte_ids[byte] for byte in char.encode()] for char in (NEWLINE, BLANK)}

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Load a tokenizer, every file of it checked against its manifest.

        Raises:
            ArtifactError: there is no tokenizer there, or it is damaged.
        """
        artifact = artifacts.verify(folder, kind=KIND)
        return cls((folder / TOKENIZER_FILE).read_bytes(), digest=artifact.digest)

    def id_of(self, token: str) -> int:
        """Give the id of a special token.

        Raises:
            ArtifactError: the tokenizer has none of that name.
        """
        number = int(self._model.piece_to_id(token))
        if number == self._model.unk_id() and token != special.UNKNOWN:
            raise ArtifactError(f"the tokenizer has no {token}; train it with ibidem train-tokenizer")
        return number

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text; never a special token's."""
        if NEWLINE not in text and BLANK not in text:
            return list(self._model.encode(text))
        ids: list[int] = []
        for part in _CARRIERS.split(text):
            ids += self._spelled.get(part) or self._model.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str], *, threads: int) -> list[list[int]]:
        """Encode many texts at once."""
        plain = [text for text in texts if NEWLINE not in text and BLANK not in text]
        done = iter(self._model.encode(plain, num_threads=threads))
        return [self.encode(text) if NEWLINE in text or BLANK in text else next(done) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Give the text of ids; special tokens are left out."""
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
        """Tell whether an id is a byte piece."""
        return bool(self._model.is_byte(number))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Show each id as the text it stands for, special tokens by their names."""
        return [_readable(self._model.id_to_piece(number)) for number in ids]

    @cached_property
    def bytes_of_V(self) -> NDArray[np.int32]:  # noqa: N802 - the shape
        """How many bytes of text each id stands for; 0 for special tokens."""
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for number in range(self.vocab_size):
            if self._model.is_byte(number):
                sizes[number] = 1
            elif not (self._model.is_control(number) or self._model.is_unknown(number)):
                sizes[number] = len(_readable(self._model.id_to_piece(number)).encode())
        return sizes


def to_model(text: str) -> str:
    """Write newlines and literal U+2581 as the model carries them, for a text that holds no carrier itself."""
    return text.replace("\u2581", BLANK).replace("\n", NEWLINE)


def has_carrier(text: str) -> bool:
    """Tell whether a text holds one of the two characters that the model uses for itself."""
    return _CARRIERS.search(text) is not None


def _readable(piece: str) -> str:
    return piece.replace("\u2581", " ").replace(BLANK, "\u2581").replace(NEWLINE, "\n")
