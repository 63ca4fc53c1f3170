"""Families of similar documents: what is kept is what comparing all pairs keeps, without comparing all pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.data.test_dedup import corpus, kept, run

from ibidem import artifacts
from ibidem.data import near
from ibidem.data.text import families
from ibidem.data.text.shingles import jaccard

Hashes = NDArray[np.uint64]


def pack(sets: Sequence[Hashes]) -> tuple[Hashes, NDArray[np.int64]]:
    return np.concatenate(sets), np.cumsum([0, *map(len, sets)])


def by_all_pairs(
    sets: Sequence[Hashes], component: Sequence[int], num_settled: int, threshold: float
) -> list[tuple[int, float]]:
    """Follow the rule with nothing but exact similarity; -1 and -1 for what is kept."""
    stays: list[int] = []
    decided = []
    for x, own in enumerate(sets):
        others = [y for y in stays if component[y] == component[x]] if x >= num_settled else []
        similar = {y: score for y in others if (score := jaccard(own, sets[y])) >= threshold}
        if similar:
            best = max(similar, key=lambda y: (similar[y], -y))
            decided.append((best, similar[best]))
        else:
            stays.append(x)
            decided.append((-1, -1.0))
    return decided


def family(rng: np.random.Generator, count: int, shared: int, own: int) -> list[Hashes]:
    common = rng.integers(0, 2**63, shared).astype(np.uint64)
    return [np.unique(np.append(common, rng.integers(0, 2**63, own).astype(np.uint64))) for _ in range(count)]


@given(st.integers(0, 2**32), st.sampled_from([0.05, 0.5, 0.6, 0.8, 0.9, 1.0]))
def test_a_family_keeps_what_comparing_all_pairs_keeps(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    count, pool = rng.integers(1, 40), rng.integers(1, 2**63, rng.integers(2, 80)).astype(np.uint64)
    shares = rng.uniform(rng.uniform(0.3, 1), 1, count)
    extra = [rng.integers(1, 2**63, rng.integers(0, 12)).astype(np.uint64) for _ in shares]
    sets = [
        np.unique(np.r_[pool[:1], pool[rng.random(len(pool)) < p], own]) for p, own in zip(shares, extra, strict=True)
    ]
    component, num_settled = rng.integers(0, 2, count), int(rng.integers(0, 5))
    found = families.cover(*pack(sets), component, np.arange(count) < num_settled, threshold)
    expected = by_all_pairs(sets, component.tolist(), num_settled, threshold)
    assert list(zip(found.keeper.tolist(), np.nan_to_num(found.similarity, nan=-1).tolist(), strict=True)) == expected
    for x, y in enumerate(found.keeper.tolist()):
        assert y < 0 or found.cluster[x] == found.cluster[y] >= 0


def num_compared(monkeypatch: pytest.MonkeyPatch, sets: Sequence[Hashes]) -> int:
    """Count the pairs that are compared, in the kernels' Python."""
    pairs: list[tuple[int, int]] = []
    compare: Callable[..., float] = families._similarity

    def counted(texts: object, x: int, y: int, *more: object) -> float:
        pairs.append((x, y))
        return compare(texts, x, y, *more)

    for name in ("_cover", "_find_similar"):
        monkeypatch.setattr(families, name, getattr(families, name).py_func)
    monkeypatch.setattr(families, "_similarity", counted)
    with np.errstate(over="ignore"):
        found = families.cover(*pack(sets), np.zeros(len(sets), int), np.zeros(len(sets), bool), 0.8)
    assert (found.keeper < 0).all()
    return len(pairs)


def test_documents_of_a_family_that_are_no_duplicates_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = family(np.random.default_rng(0), 60, shared=100, own=15)  # 0.77
    assert num_compared(monkeypatch, sets) == 0


def test_documents_of_a_family_that_differ_in_length_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    common = rng.integers(0, 2**63, 100).astype(np.uint64)
    own = [rng.integers(0, 2**63, size).astype(np.uint64) for size in rng.integers(16, 30, 60)]
    assert num_compared(monkeypatch, [np.unique(np.append(common, words)) for words in own]) == 0


def test_the_cut_into_tasks_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus()
    run(tmp_path / "out", texts)
    (tmp_path / "out").rename(tmp_path / "one")
    for name in ("_GROUP_GROWTH", "_BATCH_GROWTH"):
        monkeypatch.setattr(near, name, 0)
    monkeypatch.setattr(near, "_GROUP_DOCUMENTS", 50)
    monkeypatch.setattr(near, "_BATCH_DOCUMENTS", 5)
    monkeypatch.setattr(near, "_KEYS_OF_A_TASK", 1000)
    seen = []
    original = near.lay_out
    monkeypatch.setattr(near, "lay_out", lambda *given: seen.append(original(*given)) or seen[-1])
    run(tmp_path / "out", texts)
    ((layout, groups),) = seen
    assert layout.bits == 1
    assert len(groups) == 7
    one, many = artifacts.verify(tmp_path / "one"), artifacts.verify(tmp_path / "out")
    assert {name: (one.path / name).read_bytes() for name in one.files} == {
        name: (many.path / name).read_bytes() for name in many.files
    }
    assert one.counts == many.counts


def test_a_run_that_stops_between_decisions_goes_on_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus()
    run(tmp_path / "whole", texts)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(near, "_cover", fail)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path / "out", texts)
    (work,) = tmp_path.glob(".out.work-*")
    assert len(list(work.glob("decisions/sets-*.npy"))) == 1
    monkeypatch.undo()
    monkeypatch.setattr("ibidem.data.text.shingles.band_keys", fail)
    run(tmp_path / "out", texts)
    assert list(kept(tmp_path / "out")) == list(kept(tmp_path / "whole"))


def test_a_bucket_of_any_size_links_its_documents() -> None:
    for size in (2, families.MOST_COMPARED, families.MOST_COMPARED + 1):
        signatures = np.zeros((size, families.NUM_PERMUTATIONS), np.uint8)
        root = np.arange(size)
        edges = families.link(signatures, np.zeros(size, np.int64), np.arange(size), 0, 60.0, root)
        families.resolve(root)
        assert len(edges) == size - 1
        assert (root == 0).all()


def test_settled_documents_are_not_linked_to_each_other() -> None:
    signatures, buckets = np.zeros((3, families.NUM_PERMUTATIONS), np.uint8), np.zeros(3, np.int64)
    assert len(families.link(signatures, buckets, np.arange(3), 3, 60.0, np.arange(3))) == 0
    assert len(families.link(signatures, buckets, np.arange(3), 2, 60.0, np.arange(3))) == 2
