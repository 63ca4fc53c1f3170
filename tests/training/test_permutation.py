from collections import Counter
from itertools import permutations
from math import factorial, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.training.permutation import item_at, items_at

LARGE = 100_000_000


def epochs_of(number: int, count: int, seed: int) -> np.ndarray:
    """Return the first epochs of an order, one in each row."""
    return items_at(range(number * count), number, seed)[1].reshape(count, number)


def test_every_epoch_of_any_small_number_of_items_has_each_of_them_once() -> None:
    for number in range(1, 700):
        orders = epochs_of(number, 3, seed=number)
        assert (np.sort(orders) == np.arange(number)).all(), number


@pytest.mark.parametrize("number", [65_535, 65_536, 65_537, 1_000_003])
def test_an_epoch_of_many_items_has_each_of_them_once(number: int) -> None:
    assert (np.sort(epochs_of(number, 1, seed=1)[0]) == np.arange(number)).all()


@given(st.integers(1, 1 << 60), st.integers(0, (1 << 32) - 1), st.lists(st.integers(0, 1 << 60), max_size=5))
def test_an_item_depends_on_its_place_alone(number: int, seed: int, places: list[int]) -> None:
    epochs, items = items_at(places, number, seed)
    assert epochs.tolist() == [place // number for place in places]
    assert [item_at(place, number, seed) for place in places] == list(zip(epochs.tolist(), items.tolist(), strict=True))
    assert all(0 <= item < number for item in items.tolist())


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_every_order_of_a_few_items_is_equally_likely(number: int) -> None:
    each, orders = 100, factorial(number)
    found = Counter(map(tuple, epochs_of(number, each * orders, seed=5).tolist()))
    assert found.keys() == set(permutations(range(number)))
    chi_square = sum((count - each) ** 2 / each for count in found.values())
    assert abs(chi_square - (orders - 1)) < 4 * sqrt(2 * (orders - 1))


@pytest.mark.parametrize("modulus", [2, 3, 7, 256, 1000])
@pytest.mark.parametrize("first", [0, LARGE // 2 - 50_000])
def test_items_at_neighboring_places_are_spread_evenly(first: int, modulus: int) -> None:
    count = 100_000
    _, items = items_at(range(first, first + count), LARGE, seed=3)
    for values in (items, items * modulus // LARGE):  # last digits, and first ones
        found = np.bincount(values % modulus, minlength=modulus)
        chi_square = float(((found - count / modulus) ** 2 / (count / modulus)).sum())
        assert abs(chi_square - (modulus - 1)) < 4 * sqrt(2 * (modulus - 1))


def test_no_item_follows_from_its_neighbor() -> None:
    _, items = items_at(range(200_001), LARGE, seed=9)
    steps = np.diff(items) % LARGE
    assert len(np.unique(steps)) > len(steps) - 400  # of two uniform draws of so many, 200 collide
    assert abs(np.corrcoef(items[:-1], items[1:])[0, 1]) < 4 / sqrt(len(steps))


def test_about_one_item_of_an_epoch_stays_at_its_place() -> None:
    number, count = 1000, 1000
    stay = (epochs_of(number, count, seed=2) == np.arange(number)).sum(axis=1)
    assert abs(stay.mean() - 1) < 4 / sqrt(count)
    assert abs(stay.var() - 1) < 4 * sqrt(3 / count)  # the fourth central moment of a Poisson variable with mean 1 is 4


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = epochs_of(1000, 2, seed=0)
    (other,) = epochs_of(1000, 1, seed=1)
    pairs = [(first, second), (first, other), (second, other)]
    assert all((one == another).sum() < 8 for one, another in pairs)
