"""Reciprocal rank fusion of rankings.

Source: Cormack, Clarke and Buettcher 2009, doi:10.1145/1571941.1572114.
"""

RRF_K = 60


def fused(*ranks: int) -> float:
    """Return the score of what has these ranks, from 1, in several rankings.

    >>> fused(1, 1) > fused(1, 2) > fused(2, 2)
    True
    """
    return sum(1 / (RRF_K + rank) for rank in ranks)
