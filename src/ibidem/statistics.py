"""What trials can show: pass@k, exact bounds, the paired bootstrap, the agreement of raters."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

CONFIDENCE = 0.95
LEAST_DOCUMENTS = 10  # for a standard error over documents

H = TypeVar("H", bound=Hashable)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate the probability that one of `k` samples passes, given that `c` of `n` did: 1 - C(n - c, k) / C(n, k).

    >>> pass_at_k(5, 2, 1), pass_at_k(5, 2, 4)
    (0.4, 1.0)

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} passes among {n} samples")
    return float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))


def lower_bound(passed: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact one-sided lower confidence bound of a share.

    >>> round(lower_bound(50, 50), 4), lower_bound(0, 10)
    (0.9418, 0.0)

    Source: Clopper and Pearson 1934, Biometrika 26.
    """
    if n == 0 or passed == 0:
        return 0.0
    return _solve(lambda share: _tail(passed, n, share) - (1 - confidence))


def upper_bound(passed: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact one-sided upper confidence bound of a share.

    >>> round(upper_bound(0, 59), 4)
    0.0495
    """
    return 1.0 - lower_bound(n - passed, n, confidence) if n else 1.0


def least_passes(n: int, share: float, confidence: float = CONFIDENCE) -> int | None:
    """Return how many of `n` trials must pass to show at least `share`; None if no number is enough.

    >>> least_passes(300, 0.8), least_passes(300, 0.9), least_passes(50, 0.95)
    (252, 279, None)
    """
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if lower_bound(middle, n, confidence) >= share else (middle + 1, high)
    return low if low <= n else None


def _tail(passed: int, n: int, share: float) -> float:
    """Return the probability of at least `passed` successes in `n` trials."""
    if share <= 0 or share >= 1:
        return float(share >= 1 or passed == 0)
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(share)
        + (n - i) * math.log1p(-share)
        for i in range(passed, n + 1)
    )
    return math.fsum(map(math.exp, logs))


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return low


def bootstrap_lower_bound(
    differences: Sequence[float], *, seed: int, resamples: int = 10_000, confidence: float = CONFIDENCE
) -> float:
    """Bound the mean of paired differences from below by the percentile bootstrap over the items.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; for models on the same problems,
    Koehn 2004, Statistical significance tests for machine translation evaluation.

    Raises:
        ValueError: there are no pairs.
    """
    if not differences:
        raise ValueError("no pairs")
    rng, values = np.random.default_rng(seed), np.asarray(differences, np.float64)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    return float(np.sort(means)[math.floor((1 - confidence) * resamples)])


def ratio_error(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """Estimate the standard error of the ratio of two sums over documents; None for fewer than `LEAST_DOCUMENTS`.

    >>> ratio_error([1.0, 3.0] * 8, [1.0] * 16)
    0.2581988897471611

    Source: Cochran 1977, Sampling Techniques, section 2.11, for a population without bounds.
    """
    n = len(numerators)
    if n < LEAST_DOCUMENTS:
        return None
    whole = math.fsum(denominators)
    ratio = math.fsum(numerators) / whole
    squares = math.fsum((a - ratio * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    return math.sqrt(squares * n / (n - 1)) / whole


def mean_lower_bound(scores: Sequence[float]) -> float:
    """Bound a mean of scores in [0, 1] from below: exactly if each is 0 or 1, else with their sum rounded down.

    >>> mean_lower_bound([1.0, 1.0, 0.9]) == lower_bound(2, 3)
    True
    """
    return lower_bound(math.floor(math.fsum(scores) + 1e-9), len(scores))


def cohen_kappa(table: Sequence[Sequence[int]]) -> float | None:
    """Measure the agreement of two raters: 1 is perfect, 0 is chance; None if chance alone agrees always.

    Args:
        table: how often the first rater chose the row's category and the second one the column's.

    >>> round(cohen_kappa([[20, 5], [10, 15]]), 4)  # 35 of 50 agree, 25 would by chance: (0.7 - 0.5) / (1 - 0.5)
    0.4

    Source: Cohen 1960, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20.
    """
    n = sum(map(sum, table))
    chance = sum(sum(row) * sum(column) for row, column in zip(table, zip(*table, strict=True), strict=True))
    if chance == n * n:
        return None
    agreed = sum(row[i] for i, row in enumerate(table))
    return float(Fraction(n * agreed - chance, n * n - chance))


def mean_bounds(scores: Sequence[float]) -> tuple[float, float]:
    """Bound a mean of scores in [0, 1] from below and from above, each with 95 % confidence.

    >>> tuple(round(bound, 3) for bound in mean_bounds([0.0] * 164))
    (0.0, 0.018)
    """
    return mean_lower_bound(scores), 1 - mean_lower_bound([1 - score for score in scores])


Metric = Callable[[float, float], float]


def nominal(first: float, second: float) -> float:
    """Return the distance of categories: 0 if equal, else 1."""
    return float(first != second)


def interval(first: float, second: float) -> float:
    """Return the distance of numbers: the squared difference."""
    return (first - second) ** 2


def krippendorff_alpha(ratings: Mapping[H, Sequence[float]], metric: Metric | str = "ordinal") -> float | None:
    """Measure the agreement of raters: 1 is perfect, 0 is chance; None if no disagreement is possible.

    Args:
        ratings: the ratings of each unit; units with fewer than two are ignored.
        metric: `nominal`, `ordinal`, `interval`, or a function that returns the squared distance of two values.

    >>> krippendorff_alpha({1: [1, 1], 2: [2, 2], 3: [1, 2]}, "nominal")
    0.4444444444444444

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, sections A to D.
    """
    units = [values for values in ratings.values() if len(values) > 1]
    coincidences: Counter[tuple[float, float]] = Counter()
    for values in units:
        for i, first in enumerate(values):
            for j, second in enumerate(values):
                if i != j:
                    coincidences[first, second] += 1 / (len(values) - 1)  # type: ignore[assignment]
    totals: Counter[float] = Counter()
    for (first, _), count in coincidences.items():
        totals[first] += count
    n = sum(totals.values())
    distance = _metric(metric, totals)
    expected = math.fsum(
        totals[first] * totals[second] * distance(first, second) for first in totals for second in totals
    )
    if expected == 0:
        return None
    observed = math.fsum(count * distance(*pair) for pair, count in coincidences.items())
    return 1 - (n - 1) * observed / expected


def _metric(metric: Metric | str, totals: Mapping[float, float]) -> Metric:
    if not isinstance(metric, str):
        return metric
    if metric == "ordinal":
        return _ordinal(totals)
    return {"nominal": nominal, "interval": interval}[metric]


def _ordinal(totals: Mapping[float, float]) -> Metric:
    """Return the distance of ranks: the number of ratings between two values, squared."""

    def distance(first: float, second: float) -> float:
        low, high = sorted((first, second))
        between = math.fsum(count for value, count in totals.items() if low <= value <= high)
        return (between - (totals[low] + totals[high]) / 2) ** 2

    return distance
