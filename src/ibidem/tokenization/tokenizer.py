"""The tokenizer: raw text in, the same text out, byte for byte.

    tokenizer.model      trained here: sentencepiece unigram          -> sentencepiece_codec
    tokenizer.json       imported: whatever `tokenizers` reads        -> json_codec

A text never becomes a special token, whatever it spells.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibidem import artifacts
from ibidem.errors import ArtifactError
from ibidem.records import TOKENIZER_FILE, TOKENIZER_JSON
from ibidem.tokenization import special
from ibidem.tokenization.codec import Codec
from ibidem.tokenization.sentencepiece_codec import SentencePieceCodec
from ibidem.tokenization.utf8 import num_bytes

KIND = "tokenizer"
END_IDS = "end_ids"
"""In the manifest of an imported tokenizer: ids that end a text there."""


class Tokenizer:
    """A tokenizer's model, its special tokens, and its digest."""

    def __init__(self, codec: Codec, *, digest: str, path: Path | None = None, ends: Iterable[int] = ()) -> None:
        """Look up the special tokens.

        Args:
            codec: the model.
            digest: of the artifact.
            path: its folder.
            ends: ids that end a text besides our own.

        Raises:
            ArtifactError: there is no token for documents, turns or padding.
        """
        self.codec, self.digest, self.path = codec, digest, path
        self.vocab_size: int = codec.vocab_size
        self.document_id = self.id_of(special.DOCUMENT)
        self.turn_end_id = self.id_of(special.TURN_END)
        self.pad_id = self.id_of(special.PAD)
        self.end_ids = frozenset({self.document_id, self.turn_end_id, *ends})
        """Ids at which a generated text ends: an imported model has ends of its own, such as `</s>`."""

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, {self.vocab_size:,} ids, {self.digest[:19]})"

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Load a tokenizer, after checking all its files against the manifest.

        Raises:
            ArtifactError: there is no tokenizer, or it is damaged.
            ConfigError: it was imported, and the library that reads it is not installed.
        """
        artifact = artifacts.verify(Path(folder), kind=KIND)
        ends = artifact.config.get(END_IDS, ())
        return cls(codec_of(artifact), digest=artifact.digest, path=artifact.path, ends=ends)

    def id_of(self, token: str) -> int:
        """Return the id of a special token.

        Raises:
            ArtifactError: the tokenizer has no such token.
        """
        number = self.codec.special_id(token)
        if number is None:
            raise ArtifactError(f"the tokenizer has no {token}; train it with ibidem train-tokenizer")
        return number

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never that of a special token."""
        return self.codec.encode(text)

    def encode_continued(self, text: str) -> list[int]:
        """Return the ids of a text that continues another: without the blank that `continued` tells of."""
        return self.codec.encode_continued(text)

    def encode_batch(self, texts: Sequence[str], *, threads: int) -> list[list[int]]:
        """Encode many texts, in parallel."""
        return [ids.tolist() for ids in self.encode_arrays(texts, threads=threads)]

    def encode_arrays(self, texts: Sequence[str], *, threads: int) -> list[NDArray[np.int32]]:
        """Return the ids of many texts, encoded in parallel; a model that was trained here makes no lists of them."""
        return self.codec.encode_arrays(texts, threads=threads)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        return self.codec.decode(ids, is_continued=False)

    def continued(self, ids: Iterable[int]) -> str:
        """Return the text of ids that continue a text.

        Some imported tokenizers write a blank before the first word of a text, and `decode` takes it away; behind
        other ids a blank is a blank.
        """
        return self.codec.decode(ids, is_continued=True)

    def is_byte(self, number: int) -> bool:
        """Return whether an id is no text of its own: bytes that may be part of a character."""
        return isinstance(self.codec.texts_of_V[number], bytes)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, or the name of a special token or of a byte."""
        return self.codec.names(ids)

    def spans(self, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the span in characters of each of the first ids of a text."""
        return self.codec.spans(text, ids)

    @property
    def is_imported(self) -> bool:
        """Whether it was trained elsewhere."""
        return not isinstance(self.codec, SentencePieceCodec)

    @property
    def model_bytes(self) -> bytes:
        """The file of the model."""
        return self.codec.model_bytes

    @property
    def texts_of_V(self) -> Sequence[str | bytes]:  # noqa: N802 - the shape
        """What each id adds to a text: a text, bytes that may be part of a character, or of a special token nothing."""
        return self.codec.texts_of_V

    @property
    def first_texts(self) -> Mapping[int, str | bytes]:
        """What an id adds where a text begins, if that is something else: the blank before the first word goes."""
        return self.codec.first_texts

    @cached_property
    def bytes_of_V(self) -> NDArray[np.int32]:  # noqa: N802 - the shape
        """Number of bytes of text that each id represents; 0 for special tokens."""
        sizes = np.array([num_bytes(text) for text in self.texts_of_V], dtype=np.int32)
        if self.codec.unknown_id is not None:
            sizes[self.codec.unknown_id] = 0
        return sizes

    @cached_property
    def first_bytes_of_V(self) -> NDArray[np.int32]:  # noqa: N802 - the shape
        """The same where an id begins a text."""
        sizes = self.bytes_of_V.copy()
        for number, text in self.first_texts.items():
            sizes[number] = num_bytes(text)
        return sizes

    def bytes_of(self, ids: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the number of bytes of text of each id, given the one before it.

        Behind a special token a text begins.
        """
        begins = (self.bytes_of_V[before] == 0) & (before != self.codec.unknown_id)
        return np.where(begins, self.first_bytes_of_V[ids], self.bytes_of_V[ids])


def codec_of(artifact: artifacts.Artifact) -> Codec:
    """Open the model of a tokenizer."""
    if TOKENIZER_JSON in artifact.files:
        from ibidem.tokenization.json_codec import JsonCodec

        path = artifact.path / TOKENIZER_JSON
        return JsonCodec(path.read_bytes(), path)
    return SentencePieceCodec((artifact.path / TOKENIZER_FILE).read_bytes())
