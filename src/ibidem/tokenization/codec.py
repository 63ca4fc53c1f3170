"""What a tokenizer's model must do, whichever library reads it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Codec(Protocol):
    """A model that turns texts into ids and back."""

    @property
    def model_bytes(self) -> bytes:
        """The file of the model."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def unknown_id(self) -> int | None:
        """Id of characters that have no other."""

    @property
    def texts_of_V(self) -> Sequence[str | bytes]:  # noqa: N802 - the shape
        """What each id adds to a text: a text, bytes that may be part of a character, or of a special token nothing."""

    @property
    def first_texts(self) -> Mapping[int, str | bytes]:
        """What an id adds where a text begins, if that is something else: the blank before the first word goes."""

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token; None if there is no such token."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never that of a special token."""

    def encode_continued(self, text: str) -> list[int]:
        """Return the ids of a text that continues another: without a blank before its first word."""

    def encode_arrays(self, texts: Sequence[str], *, threads: int) -> list[NDArray[np.int32]]:
        """Return the ids of many texts, encoded in parallel."""

    def decode(self, ids: Iterable[int], *, is_continued: bool) -> str:
        """Return the text of ids; of those that continue a text, with the blank that they may begin with."""

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, or the name of a special token or of a byte."""

    def spans(self, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the span in characters of each of the first ids of a text."""
