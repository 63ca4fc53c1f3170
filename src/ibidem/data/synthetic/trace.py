"""A trace: a conversation that was made, with its origin."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from ibidem.conversation import Conversation, Part, Turn
from ibidem.data.synthetic.functions import Source

Kind = Literal[
    "explain", "steps", "complete", "write", "docstring", "question", "fix", "run", "search", "calculate", "refuse",
    "near_miss", "solve", "instruct",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
OWN_LICENSE = "Apache-2.0"
"""License of traces that neither a document nor a model went into: the words are this project's."""


class Trace(NamedTuple):
    """A conversation, and what it was made from."""

    kind: Kind
    turns: Conversation
    template: str
    """Which wordings were used: their numbers."""
    source: Source | None = None
    function: str = ""
    mutant: str = ""
    """Operator of the fault, of a bug to fix."""
    draw: int | None = None
    """Number of the draw, of a trace that no document went into."""
    model: str = ""
    """Digest of the model that wrote it."""

    def record(self, seed: int) -> str:
        """Return what the dataset keeps of its origin: kind, wordings, seed, fault, and the document or the model.

        >>> Trace("explain", (), "3.1").record(0)
        'explain:3.1 seed=0'
        """
        facts = [f"{self.kind}:{self.template}", f"seed={seed}"]
        facts += [f"draw={self.draw}"] if self.draw is not None else []
        facts += [f"mutant={self.mutant}"] if self.mutant else []
        facts += [f"model={self.model}"] if self.model else []
        if self.source is not None:
            facts += [f"function={self.function}"] if self.function else []
            facts += [f"sha256={self.source.sha256}"]
        return " ".join(facts)


class Wording:
    """Draws wordings, and remembers which."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._numbers: list[int] = []

    def __call__(self, choices: Sequence[str]) -> str:
        """Return one of several wordings."""
        number = self.rng.randrange(len(choices))
        self._numbers.append(number)
        return choices[number]

    @property
    def template(self) -> str:
        """The numbers of the wordings that were drawn."""
        return ".".join(map(str, self._numbers))


def says(*parts: str | Part) -> Turn:
    """Return a turn of the assistant."""
    return Turn("assistant", tuple(Part("text", part) if isinstance(part, str) else part for part in parts))
