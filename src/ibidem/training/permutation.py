"""The order of training: the item at any place, computed from the place alone, without a table of all of them.

    place    0  1  2  3 | 4  5  6  7 | ...          four items
    epoch    0          | 1                         each epoch is a permutation of its own
    item     2  0  3  1 | 1  3  0  2

The numbers of n items fill a rectangle of a x b, as nearly a square as possible. A Feistel network moves each of them
along its column, by a random distance that the column decides, then along its row, and so on:

    row    = (row    + F(column)) mod a             each of these can be undone, whatever F is,
    column = (column + F(row))    mod b             so that no two numbers end at one place

What ends in the few places beyond n moves on until it is below n (cycle walking): a permutation of exactly n numbers.
Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", generalized-Feistel and cycle-walking cipher;
F is the finalizer of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]

ROUNDS = 24
"""So many that every order of a few items is equally likely too; 8 are enough for many items."""
NAME = f"feistel-{ROUNDS}"
"""Of this order; in the manifest of every checkpoint, since a run that resumes in another order would repeat data."""

_GOLDEN, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def items_at(places: Sequence[int] | range | Numbers, number: int, seed: int) -> tuple[Numbers, Numbers]:
    """Return the items at some places of the endless order, as (epochs, items).

    Args:
        places: numbers of the places, in any order; each is computed alone.
        number: of items, at least 1.
        seed: decides the order; at least 0.

    >>> epochs, items = items_at(range(8), 4, seed=0)
    >>> epochs.tolist(), sorted(items[:4].tolist())
    ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3])
    """
    epochs, inside = np.divmod(np.asarray(places, np.int64), number)
    keys = _mixed(_mixed(np.full(len(epochs), seed, np.uint64)) + epochs.astype(np.uint64) * np.uint64(_GOLDEN))
    return epochs, _permuted(inside.astype(np.uint64), number, keys).astype(np.int64)


def item_at(place: int, number: int, seed: int) -> tuple[int, int]:
    """Return the item at one place, as (epoch, item).

    >>> [item_at(place, 3, seed=0)[0] for place in range(4)]
    [0, 0, 0, 1]
    """
    epochs, items = items_at([place], number, seed)
    return int(epochs[0]), int(items[0])


def _permuted(items: Words, number: int, keys: Words) -> Words:
    rows = isqrt(number - 1) + 1
    columns = -(-number // rows)
    moved = _moved(items, rows, columns, keys)
    while len(beyond := np.flatnonzero(moved >= number)):
        moved[beyond] = _moved(moved[beyond], rows, columns, keys[beyond])
    return moved


def _moved(items: Words, rows: int, columns: int, keys: Words) -> Words:
    """Apply the network to numbers of a rectangle, each with a key of its own."""
    row, column = np.divmod(items, np.uint64(columns))
    for number in range(ROUNDS):
        key = keys + np.uint64((number + 1) * _GOLDEN & _MASK)
        if number % 2:
            column = (column + _mixed(row ^ _mixed(key)) % np.uint64(columns)) % np.uint64(columns)
        else:
            row = (row + _mixed(column ^ _mixed(key)) % np.uint64(rows)) % np.uint64(rows)
    return row * np.uint64(columns) + column


def _mixed(words: Words) -> Words:
    for shift, factor in _FACTORS:
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))
