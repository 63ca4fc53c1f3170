"""What a grounding head adds to a search: another order of what was found, and a score for each claim.

    found by the store      1. leave.md   2. travel.md   3. notice.md
    in the head's order     1. notice.md  2. leave.md    3. travel.md
    together                notice.md 1/61 + 1/63, leave.md 1/62 + 1/61, travel.md 1/63 + 1/62

The head knows how often terms occur among the passages that the principal may read, and nothing else of the index.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from ibidem.artifacts import Artifact
from ibidem.grounding.alignment import Frequencies
from ibidem.grounding.cite import passage_text
from ibidem.grounding.fusion import fused
from ibidem.grounding.store import Hit


class Scorer(Protocol):
    """What `grounding.head.Head` is."""

    digest: str
    artifact: Artifact

    @property
    def threshold(self) -> float:
        """Margin from which on a claim counts as supported."""

    def best(self, question: str, passage: str, known: Frequencies) -> float:
        """Return the score of a passage for a question; -inf if it has no candidate."""

    def margin(self, claim: str, passage: str, known: Frequencies) -> float:
        """Return by how much a passage supports a claim; inf if there is nothing to compare, -inf if a part lacks."""


def reranked(question: str, hits: Sequence[Hit], head: Scorer, known: Frequencies) -> list[Hit]:
    """Return hits in the order of their reciprocal ranks, by the store and by the head together; these are the scores.

    Of equal ones the store's order counts.
    """
    scores = [head.best(question, passage_text(hit.chunk), known) for hit in hits]
    by_head = sorted(range(len(hits)), key=lambda place: (-scores[place], place))
    ranks = {place: rank for rank, place in enumerate(by_head, 1)}
    both = [hit._replace(score=fused(place + 1, ranks[place])) for place, hit in enumerate(hits)]
    return sorted(both, key=lambda hit: -hit.score)


def support(head: Scorer, claim: str, passage: str, known: Frequencies) -> tuple[bool, float]:
    """Return how well a passage supports a claim, for comparisons: the larger, the better.

    First counts whether the claim's numbers, years and names stand where the claim has them, then how well the words of
    the whole claim are aligned with the passage.
    """
    return head.margin(claim, passage, known) >= head.threshold, head.best(claim, passage, known)


def share_of(margin: float, threshold: float) -> float | None:
    """Return a margin as a number from 0 to 1, where one half is the threshold; None if there was nothing to compare.

    >>> share_of(2.0, 2.0), share_of(-math.inf, 2.0), share_of(math.inf, 2.0)
    (0.5, 0.0, None)
    """
    return None if margin == math.inf else (1 + math.tanh((margin - threshold) / 2)) / 2
