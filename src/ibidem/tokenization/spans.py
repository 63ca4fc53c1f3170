"""Where in a text its tokens are."""

import numpy as np
from numpy.typing import NDArray


def characters_of(text: str, bytes_T: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the span of each token in characters, from its length in bytes.

    >>> characters_of("né", np.array([1, 1, 1])).tolist()
    [[0, 1], [1, 2], [1, 2]]
    """
    raw = np.frombuffer(text.encode(), np.uint8)
    starts_character = (raw & 0xC0) != 0x80
    character_of = np.concatenate([np.cumsum(starts_character) - 1, [len(text)]])
    ends = np.cumsum(bytes_T)
    return np.stack([character_of[ends - bytes_T], character_of[np.maximum(ends - 1, 0)] + 1], axis=1).astype(np.int64)
