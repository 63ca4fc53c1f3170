"""Small corpora, rules and an encoder for tests of the store."""

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibidem.grounding.store import EVERYONE, Access, Indexed, Span

KEY = b"k" * 32
WORDS = ("salary", "engine", "holiday", "valve", "invoice", "index", "parser", "the", "of", "pump", "budget", "rotor")


class FolderRules(NamedTuple):
    """The first folder of a path names the one group that may read it; `public` is for everyone."""

    members: dict[str, tuple[str, ...]]
    version: str = "1"
    denied: tuple[str, ...] = ()

    def access(self, path: str) -> Access:
        group = path.split("/", maxsplit=1)[0]
        return Access(frozenset([EVERYONE if group == "public" else group]), frozenset(self.denied))

    def permits(self, principal: str, access: Access) -> bool:
        groups = {EVERYONE, principal, *self.members.get(principal, ())}
        return bool(groups & access.read) and not groups & access.deny


RULES = FolderRules({"ann": ("hr", "plant"), "bob": ("plant",), "eve": ()})


class HashEncoder:
    """Vectors drawn from the hash of a text; `coarse` ones have many ties."""

    def __init__(self, width: int = 24, *, coarse: bool = False) -> None:
        self.width, self.digest, self._coarse = width, f"hash {width} {coarse}", coarse

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self._vector(text) for text in texts], np.float32).reshape(-1, self.width)

    def _vector(self, text: str) -> NDArray[np.float32]:
        rng = np.random.default_rng(int.from_bytes(sha256(text.encode()).digest()[:8], "little"))
        vector = rng.integers(0, 2, self.width) + 0.0 if self._coarse else rng.standard_normal(self.width)
        vector[0] += 1e-3
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def document(path: str, *parts: str, title: tuple[str, ...] = ()) -> Indexed:
    """Return a document of which each part is a chunk."""
    spans, start = [], 0
    for part in parts:
        spans.append(Span(title, start, start + len(part)))
        start += len(part) + 2
    return Indexed(path, "\n\n".join(parts), tuple(spans))


def corpus(seed: int, size: int = 12, folders: Sequence[str] = ("public", "hr", "plant")) -> list[Indexed]:
    """Return documents of a few words each, so that scores tie often."""
    rng = random.Random(seed)
    return [
        document(
            f"{rng.choice(folders)}/{number:03d}.md",
            *(" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 4))),
        )
        for number in range(size)
    ]
