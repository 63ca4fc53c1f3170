"""The stages of a training: how long its sequences are, and of which windows it is made, at any step.

    step        0          2,000                      9,000          10,000
    stage       | short    | stable                   | decay        |
    context     |   512    | 2,048                    | 2,048        |         a window is cut into 4, 1 and 1 sequences
    shares      |   as the windows are                | code 0.8, text 0.2

A step has the same tokens in every stage: a shorter context cuts the same windows into more sequences (sequence-length
warmup; Li et al. 2021, arXiv:2108.06084). Shares choose windows instead of taking all alike: each group of windows,
such as those of a category, is an endless order of its own, and each stage draws from the groups what its shares say:

    block 0                   block 1                         blocks of 1,024 windows, whose groups are in random order
    code  0 1 2 ... 818       code  819 ... 1637              the next windows of each group's own order
    text  0 1 ... 203         text  204 ... 408

So no window of a group is drawn again before all of them were, across stages too. The step alone decides everything:
nothing of the way there is remembered, and there is no table of the order.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import floor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ibidem.errors import ConfigError
from ibidem.training.config import StageConfig
from ibidem.training.permutation import items_at

Numbers = NDArray[np.int64]

BLOCK = 1024
"""Windows over which the shares are met, each to a window."""
WHOLE = "all"
"""Name of the one stage of a training without stages."""


class Stage(NamedTuple):
    """A part of a training: the steps `first` to `stop` - 1."""

    name: str
    first: int
    stop: int
    context: int
    """Tokens of a sequence."""
    shares: Mapping[str, float]
    """Relative numbers of windows, by group; empty: all windows alike."""

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.stop - self.first


class Groups(Protocol):
    """The windows of a split by group."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of windows of each group."""

    def nth(self, group: str, numbers: Numbers) -> Numbers:
        """Return the indices of a group's windows with these numbers, which count from 0 in each group."""


def stages_of(configs: Mapping[str, StageConfig], *, context: int, steps: int) -> list[Stage]:
    """Return the stages of a training, one after the other.

    Args:
        configs: the stages as they are configured, in order; none: the training is one stage.
        context: tokens of a window.
        steps: of the training.

    Raises:
        ConfigError: a stage does not begin before the training ends, or its context does not divide a window.

    >>> configs = {"short": StageConfig(until=3, context=16), "rest": StageConfig()}
    >>> [(stage.name, stage.steps, stage.context) for stage in stages_of(configs, context=64, steps=10)]
    [('short', 3, 16), ('rest', 7, 64)]
    """
    stages, first = list[Stage](), 0
    for name, config in (configs or {WHOLE: StageConfig()}).items():
        if first >= steps:
            raise ConfigError(f"data.stages.{name} begins at step {first}, but training.steps={steps}")
        own = config.context or context
        if own > context:
            raise ConfigError(f"data.stages.{name}.context={own} exceeds the context of the data, {context}")
        if context % own:
            raise ConfigError(f"data.stages.{name}.context={own} does not divide the context of the data, {context}")
        stop = config.until or steps
        stages.append(Stage(name, first, stop, own, config.shares))
        first = stop
    return stages


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """Return the stage of a step."""
    return next(stage for stage in stages if step < stage.stop)


def trained_tokens(stages: Sequence[Stage], steps: int, tokens_per_step: int) -> dict[str, int]:
    """Return the tokens that the first steps of a training take, by stage; stages that have not begun are left out.

    >>> trained_tokens([Stage("a", 0, 3, 8, {}), Stage("b", 3, 9, 8, {}), Stage("c", 9, 12, 8, {})], 5, 100)
    {'a': 300, 'b': 200}
    """
    return {
        stage.name: (min(steps, stage.stop) - stage.first) * tokens_per_step for stage in stages if stage.first < steps
    }


class Curriculum:
    """Which windows each step takes."""

    def __init__(
        self, stages: Sequence[Stage], *, batch: int, number: int, seed: int, groups: Groups | None = None
    ) -> None:
        """Work out what each stage takes from each group.

        Args:
            stages: the stages of the training.
            batch: windows of a step.
            number: of all windows.
            seed: decides the order; at least 0, below 2^32.
            groups: the groups that shares name; None: no stage has shares.
        """
        self.stages, self._batch, self._number, self._seed, self._groups = stages, batch, number, seed, groups
        self._mixes: list[_Mix] = []
        if groups is None:
            return
        drawn = dict.fromkeys(groups.sizes, 0)
        for place, stage in enumerate(stages):
            mix = _Mix(_normal(stage.shares or groups.sizes, drawn), drawn, _key(seed, 2 * place))
            self._mixes.append(mix)
            drawn = mix.drawn(stage.steps * batch)

    def windows(self, step: int, places: range) -> list[tuple[int, int]]:
        """Return the windows at some places of a step, 0 to `batch` - 1, as (epoch, index).

        The epoch counts how often all windows, or with shares those of the window's group, were taken before.
        """
        if self._groups is None:
            epochs, items = items_at(_shifted(places, step * self._batch), self._number, self._seed)
            return list(zip(epochs.tolist(), items.tolist(), strict=True))
        stage = stage_at(self.stages, step)
        mix = self._mixes[self.stages.index(stage)]
        owners, draws = mix.at(_shifted(places, (step - stage.first) * self._batch))
        found = np.empty((2, len(places)), np.int64)
        for owner, (name, size) in enumerate(self._groups.sizes.items()):
            if len(own := np.flatnonzero(owners == owner)):
                epochs, numbers = items_at(draws[own], size, _key(self._seed, 2 * owner + 1))
                found[:, own] = epochs, self._groups.nth(name, numbers)
        return list(zip(*found.tolist(), strict=True))


class _Mix:
    """A stage's draws from the groups: the places of each block belong to groups by their shares, in a random order."""

    def __init__(self, shares: Mapping[str, float], before: Mapping[str, int], seed: int) -> None:
        """Take the shares, which add up to 1, and how many windows earlier stages have drawn of each group."""
        self._shares, self._before, self._seed = shares, before, seed
        self._block = lru_cache(maxsize=4)(self._new_block)

    def at(self, places: range) -> tuple[Numbers, Numbers]:
        """Return the groups at some places of the stage, by their numbers, and how many of them were drawn before."""
        found = np.empty((2, len(places)), np.int64)
        done = 0
        while done < len(places):
            first, owners, draws = self._block(self._block_of(places[done]))
            start = places[done] - first
            stop = min(len(owners), start + len(places) - done)
            found[:, done : done + stop - start] = owners[start:stop], draws[start:stop]
            done += stop - start
        return found[0], found[1]

    def drawn(self, places: int) -> dict[str, int]:
        """Return how many windows of each group are drawn before a place of the stage, and in earlier stages."""
        block = self._block_of(places)
        first, owners, _ = self._block(block)
        counts = np.bincount(owners[: places - first], minlength=len(self._shares)).tolist()
        return {
            name: self._before[name] + self._taken(name, block) + count
            for name, count in zip(self._shares, counts, strict=True)
        }

    def _taken(self, group: str, blocks: int) -> int:
        """Return how many windows the first blocks have of a group: as near to its share as whole numbers are."""
        return floor(blocks * BLOCK * self._shares[group])

    def _start(self, block: int) -> int:
        """Return the first place of a block; what rounding leaves out of one is in a later one."""
        return sum(self._taken(name, block) for name in self._shares)

    def _block_of(self, place: int) -> int:
        block = place // BLOCK  # or one of the next, as rounding makes blocks begin a few places earlier
        while self._start(block + 1) <= place:
            block += 1
        return block

    def _new_block(self, block: int) -> tuple[int, Numbers, Numbers]:
        """Return the first place of a block; and of each place of it the group, and how many were drawn before."""
        taken = np.array([self._taken(name, block) for name in self._shares])
        counts = np.array([self._taken(name, block + 1) for name in self._shares]) - taken
        size = int(counts.sum())
        slots = items_at(range(block * size, (block + 1) * size), size, self._seed)[1]
        ends = np.cumsum(counts)
        owners = np.searchsorted(ends, slots, side="right")
        draws = np.empty(size, np.int64)
        draws[np.argsort(owners, kind="stable")] = np.arange(size)
        first_draws = taken + np.array(list(self._before.values())) - (ends - counts)
        return int(taken.sum()), owners, draws + first_draws[owners]


def _normal(shares: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    total = sum(shares.values())
    return {name: shares.get(name, 0) / total for name in names}


def _key(seed: int, number: int) -> int:
    """Return a seed of its own, beside those that a configuration can have."""
    return seed + (number + 1 << 32)


def _shifted(places: range, first: int) -> range:
    return range(places.start + first, places.stop + first)
