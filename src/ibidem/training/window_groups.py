"""The windows of tokenized documents by category or language.

    documents   | code | text   | code      | text |
    windows     [---- text -----][---- code -----][---     a window belongs to the group that has most of its tokens

One byte a window is kept, and how many of each group come before every 4,096th: so the n-th window of a group is found
without a list of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem.artifacts import Artifact
from ibidem.errors import ArtifactError, ConfigError
from ibidem.records import DOCUMENTS_FILE
from ibidem.training.curriculum import Numbers

Aspect = Literal["category", "language"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
NONE = "none"
"""Group of the documents whose language is not recognized."""
SUMMED = 4096
"""Windows between two entries of the table of sums."""


class Sample(NamedTuple):
    """A window that is measured for a group."""

    window: int
    counts_T: NDArray[np.bool_]
    """Whether each target is of a document of the group."""


class WindowGroups:
    """The windows of a split by group."""

    def __init__(self, tokens: Artifact, split: str, aspect: Aspect, *, context: int) -> None:
        """Find the group of each window.

        Args:
            tokens: a tokenized dataset.
            split: one of its splits.
            aspect: what groups the documents.
            context: tokens of a window.

        Raises:
            ArtifactError: the tokens were written by another version of ibidem.
        """
        self._names: list[str] = []
        codes = [np.zeros(0, np.int64), *_majorities(_documents(tokens, split, aspect, self._names), context)]
        self._codes = np.concatenate(codes).astype(np.min_scalar_type(len(self._names)))
        blocks = (self._codes[start : start + SUMMED] for start in range(0, len(self._codes), SUMMED))
        inside = [np.zeros(len(self._names), np.int64), *(np.bincount(b, minlength=len(self._names)) for b in blocks)]
        self._sums = np.cumsum(inside, axis=0)
        self.sizes: Mapping[str, int] = {
            name: size for name, size in zip(self._names, self._sums[-1].tolist(), strict=True) if size
        }
        """Number of windows of each group that has any."""

    def nth(self, group: str, numbers: Numbers) -> Numbers:
        """Return the indices of a group's windows with these numbers, which count from 0 in each group."""
        code = self._names.index(group)
        blocks = np.searchsorted(self._sums[:, code], numbers, side="right") - 1
        found = np.empty_like(numbers)
        for block in np.unique(blocks).tolist():
            chosen = blocks == block
            inside = np.flatnonzero(self._codes[block * SUMMED : (block + 1) * SUMMED] == code)
            found[chosen] = block * SUMMED + inside[numbers[chosen] - self._sums[block, code]]
        return found


def groups_of(tokens: Artifact, shares: Iterable[str], *, context: int) -> WindowGroups:
    """Return the training windows by category or by language, whichever the shares name.

    Args:
        tokens: a tokenized dataset.
        shares: names of groups.
        context: tokens of a window.

    Raises:
        ArtifactError: the tokens were written by another version of ibidem.
        ConfigError: there is no such group, or some names are of categories and some of languages.
    """
    groups: dict[Aspect, WindowGroups] = {}
    wanted = dict.fromkeys(shares)
    for aspect in ASPECTS:
        groups[aspect] = WindowGroups(tokens, "train", aspect, context=context)
        if wanted.keys() <= groups[aspect].sizes.keys():
            return groups[aspect]
    known = {aspect: ", ".join(each.sizes) for aspect, each in groups.items()}
    unknown = next((name for name in wanted if not any(name in each.sizes for each in groups.values())), None)
    if unknown is None:
        raise ConfigError("data.stages: give the shares of all stages by category, or those of all by language")
    raise ConfigError(
        f"data.stages: shares name {unknown!r}, but no window is mostly of such a category or language; there are "
        f"{known['category']}; and {known['language']}"
    )


def samples(tokens: Artifact, split: str, *, context: int, windows: int, count: int) -> dict[str, list[Sample]]:
    """Return windows to measure for each category and each language, evenly spread over the group's tokens.

    Args:
        tokens: a tokenized dataset.
        split: one of its splits; where its documents are is in memory at once.
        context: tokens of a window.
        windows: number of the split's windows.
        count: of windows for each group; fewer, if several of its tokens are in one window.

    Raises:
        ArtifactError: the tokens were written by another version of ibidem.
    """
    found: dict[str, list[Sample]] = {}
    for aspect in ASPECTS:
        names: list[str] = []
        parts = list(_documents(tokens, split, aspect, names))
        sizes, codes = (np.concatenate([np.zeros(0, np.int64), *each]) for each in zip(*parts, strict=True))
        ends = np.cumsum(sizes)
        for code, name in enumerate(names):
            own = np.flatnonzero(codes == code)
            own_ends = np.cumsum(sizes[own])
            numbers = (2 * np.arange(count) + 1) * own_ends[-1] // (2 * count)
            documents = np.searchsorted(own_ends, numbers, side="right")
            places = ends[own[documents]] - own_ends[documents] + numbers
            chosen = [window for window in np.unique(places // context).tolist() if window < windows]
            found[f"{aspect}/{name}"] = [
                Sample(window, _is_of(code, codes, ends, np.arange(context) + window * context + 1))
                for window in chosen
            ]
    return {name: each for name, each in sorted(found.items()) if each}


def _is_of(code: int, codes: Numbers, ends: Numbers, places: Numbers) -> NDArray[np.bool_]:
    """Return whether the tokens at some places are of documents of a group; behind the last document none is."""
    counts: NDArray[np.bool_] = np.append(codes, -1)[np.searchsorted(ends, places, side="right")] == code
    return counts


def _majorities(documents: Iterable[tuple[Numbers, Numbers]], context: int) -> Iterator[Numbers]:
    """Yield the code that has most of the tokens of each window, in order; of equals, the first one met."""
    begun, end = np.zeros(0), 0
    for sizes, codes in documents:
        if not len(sizes):
            continue
        start, edges = end, end + np.concatenate([[0], np.cumsum(sizes)])
        end, width = int(edges[-1]), max(len(begun), int(codes.max()) + 1)
        first = start // context
        cuts = np.union1d(edges, np.arange(first + 1, end // context + 1) * context)
        owners = codes[np.searchsorted(edges, cuts[:-1], side="right") - 1]
        cells = (cuts[:-1] // context - first) * width + owners
        number = -(-end // context) - first
        cells_N = np.bincount(cells, np.diff(cuts).astype(np.float64), number * width)
        counts: NDArray[np.float64] = cells_N.reshape(number, width).astype(np.float64)
        counts[0, : len(begun)] += begun
        whole = end // context - first
        begun = counts[whole] if whole < number else np.zeros(0)
        yield counts[:whole].argmax(axis=1)


def _documents(tokens: Artifact, split: str, aspect: Aspect, names: list[str]) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield for each shard the tokens of a split's documents, and the places of their groups in `names`, which grows.

    Raises:
        ArtifactError: the tokens were written by another version of ibidem.
    """
    files = [name for name in tokens.files if PurePosixPath(name).name == DOCUMENTS_FILE]
    for name in sorted(files, key=lambda name: name.split("/")):
        path = tokens.path / name
        if aspect not in pq.read_schema(path).names:
            raise ArtifactError(f"{tokens.path}: tokens of another version of ibidem; tokenize the dataset again")
        table = pq.read_table(path, columns=["split", "tokens", aspect])
        table = table.filter(pc.equal(table["split"], split))
        groups = pc.fill_null(table[aspect], NONE).combine_chunks().dictionary_encode()
        own = groups.dictionary.to_pylist()
        names += [each for each in own if each not in names]
        codes = np.array([names.index(each) for each in own], np.int64)
        yield table["tokens"].to_numpy(), codes[groups.indices.to_numpy()]
