"""Encoders: texts to vectors."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Turns texts into vectors."""

    digest: str
    """Identifies it: encoders with equal digests return equal vectors."""
    width: int
    """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text, float32 [N, D]; each depends on its text alone."""
