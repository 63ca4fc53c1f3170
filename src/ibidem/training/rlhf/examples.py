"""What an alignment learns from: the conversations and the pairs of a dataset, split by prompt.

A file is preprocessed to a dataset first, so that license, scrubbing, takedown and trace hold for it as for any other
data.
"""

import dataclasses
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow.parquet as pq

from ibidem import artifacts, conversation, log
from ibidem.config import settings
from ibidem.conversation import Conversation, Part, Turn
from ibidem.data import shards
from ibidem.data.dedup import DedupPolicy
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.sources.readers import DAMAGE, READERS, lines, open_arrow
from ibidem.errors import ArtifactError, ConfigError, DataError
from ibidem.files import sha256_of
from ibidem.training.rlhf.config import FileConfig
from ibidem.training.tokens import DEFAULT_SHARE, FEWEST_HELD_OUT

COLUMNS = ("chosen", "messages", "conversations", "prompt", "instruction", "question")
"""Columns that may have a conversation; of those that a file has, the first is taken."""
LARGEST_SHARE = 0.1
"""Largest default share that is held out of a small dataset."""

Item = TypeVar("Item")


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: Conversation
    chosen: tuple[Part, ...]
    rejected: tuple[Part, ...]
    margin: float | None
    """By how much the chosen answer is better, where the data say so."""


def open_dataset(
    path: Path, work_dir: Path, config: FileConfig, *, among: Sequence[str] = COLUMNS
) -> artifacts.Artifact:
    """Load a dataset; preprocess a file of conversations or pairs to one.

    The dataset of a file is `work_dir/data/<key>`, named after the file's content and the settings, so that no other
    data replace those that a checkpoint was trained on.

    Args:
        path: a dataset or a file.
        work_dir: folder of the run.
        config: how a file becomes a dataset.
        among: columns that may have the conversations; of those that a file has, the first is taken.

    Raises:
        ConfigError: it is neither, or no column is known.
        DataError: the file has no documents.
    """
    if path.is_dir():
        if config != type(config)():
            raise ConfigError(f"file: {path} is a folder, and these are settings of a file; leave them out")
        try:
            return shards.load_dataset(path)
        except ArtifactError as error:
            raise ConfigError(f"data {path}: {error}; a folder must be a preprocessed dataset") from None
    if not path.is_file():
        raise ConfigError(f"data {path}: {'not a regular file' if path.exists() else 'no such file or folder'}")
    policies = dataclasses.replace(config, column=_column_of(path, config.column, among))
    decisive = settings(dataclasses.replace(policies, removals=RemovalPolicy()))  # a removal replaces the dataset
    key = sha256(f"{sha256_of(path)} {json.dumps(decisive, sort_keys=True)}".encode()).hexdigest()[:16]
    output = work_dir / "data" / key
    preprocess(
        PreprocessConfig(
            dataset=(f"{path}:train:{policies.column}",),
            output_dir=output,
            dedup=DedupPolicy(near=False),
            skip=("natural_languages", "filters"),
            reply_trees=policies.reply_trees,
            licenses=policies.licenses,
            scrub=policies.scrub,
            contamination=policies.contamination,
            removals=policies.removals,
        )
    )
    return shards.load_dataset(output)


def _column_of(path: Path, asked: str | None, among: Sequence[str]) -> str:
    """Return the column that was asked for, or the first of those that the file has."""
    try:
        present = _columns(path)
    except DAMAGE as error:
        raise DataError(f"data {path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    found = next((name for name in ((asked,) if asked else among) if name in present), None)
    if found is None:
        has = ", ".join(map(repr, present[:8])) or "none"
        wanted = asked or f"{', '.join(among[:-1])} or {among[-1]}"
        raise ConfigError(f"data {path}: no column {wanted} (it has {has})")
    return found


def _columns(path: Path) -> list[str]:
    """Return the columns of a file; of JSON lines, those of the first line that is an object."""
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    if path.suffix == ".arrow":
        with open_arrow(path) as (schema, _):
            return list(schema.names)
    if not path.name.endswith(tuple(READERS)):
        raise ConfigError(f"data {path}: not a file of JSON lines, Parquet or Arrow")
    for line in lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return list(row)
    raise DataError(f"data {path}: no line is a JSON object")


def read_conversations(dataset: artifacts.Artifact, left_out: Counter[str]) -> Iterator[Conversation]:
    """Yield every conversation up to its last answer; count what is left out, by reason."""
    for path in shards.shard_paths(dataset.path):
        for row in shards.read_rows(path, ["messages"]):
            if row["messages"] is None:
                left_out["not a conversation"] += 1
                continue
            turns = conversation.from_rows(row["messages"])
            answered = conversation.answered(turns)
            if not answered:
                left_out["no answer"] += 1
                continue
            yield answered


def read_prompts(dataset: artifacts.Artifact, left_out: Counter[str]) -> Iterator[Conversation]:
    """Yield every conversation up to its last turn of the user; a text without turns is one such turn."""
    for path in shards.shard_paths(dataset.path):
        for row in shards.read_rows(path, ["messages", "text"]):
            if row["messages"] is None:
                turns: Conversation = (Turn.of("user", row["text"]),)
            else:
                turns = conversation.from_rows(row["messages"])
            last = max((number for number, turn in enumerate(turns, 1) if turn.role == "user"), default=0)
            if not last or turns[last - 1].is_blank:
                left_out["no question"] += 1
                continue
            yield turns[:last]


def read_pairs(dataset: artifacts.Artifact, left_out: Counter[str]) -> Iterator[Pair]:
    """Yield every pair of answers; count what is left out, by reason."""
    for path in shards.shard_paths(dataset.path):
        for row in shards.read_rows(path, ["messages", "rejected", "margin"]):
            if row["messages"] is None or row["rejected"] is None:
                left_out["not a pair"] += 1
                continue
            *prompt, chosen = conversation.from_rows(row["messages"])
            rejected = tuple(Part(part["kind"], part["text"]) for part in row["rejected"])
            yield Pair(tuple(prompt), chosen.parts, rejected, row["margin"])


def prompt_of(turns: Sequence[Turn]) -> Conversation:
    """Return the turns before the first answer: what decides on which side of the split a conversation is."""
    return tuple(takewhile(lambda turn: turn.role != "assistant", turns))


def split(
    items: Iterable[Item], prompts: Iterable[Sequence[Turn]], share: float | None
) -> tuple[list[Item], list[Item]]:
    """Split items in those to train on and those held out; all items of a prompt are on one side.

    Args:
        items: what to split.
        prompts: the prompt of each item; its hash alone decides.
        share: share of the prompts to hold out; by default `default_share`.
    """
    keys = [sha256(conversation.plain(prompt).encode()).hexdigest() for prompt in prompts]
    share = default_share(keys) if share is None else share
    sides: tuple[list[Item], list[Item]] = [], []
    for key, item in zip(keys, items, strict=True):
        sides[shards.is_held_out(key, share)].append(item)
    return sides


def split_checked(
    found: Sequence[tuple[Conversation, Item]], left_out: Counter[str], share: float | None, *, of: str, noun: str
) -> tuple[list[tuple[Conversation, Item]], list[tuple[Conversation, Item]]]:
    """Split what was found, each behind its conversation; the turns before the first answer decide the side.

    Args:
        found: what there is.
        left_out: how many there are besides, by reason.
        share: share of the prompts to hold out; by default `default_share`.
        of: what was read, for messages.
        noun: what one item is called.

    Raises:
        DataError: nothing is left to train on.
    """
    if not found:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "it is empty"
        raise DataError(f"{of}: no {noun} to train on ({reasons})")
    train, held_out = split(found, (prompt_of(turns) for turns, _ in found), share)
    if not train:
        raise DataError(f"{of}: held_out_share={share} leaves none to train on")
    return train, held_out


def report_data(
    dataset: artifacts.Artifact, event: str, train: Sized, held_out: Sized, left_out: Mapping[str, int]
) -> None:
    """Log what is trained on, what is held out, and what is not used, from the dataset's source on."""
    counts = dataset.counts
    before = {**counts.get("dropped", {}), "quarantined": counts.get("quarantined", 0)}
    unused = {reason: count for reason, count in {**before, **left_out}.items() if count}
    log.event(event, train=len(train), held_out=len(held_out), left_out=unused)
    if not len(held_out):
        log.event("train.not_measured", reason="too few prompts to hold any out of training")


def default_share(keys: Iterable[str]) -> float:
    """Return the share of the prompts to hold out: 2 %, or as much as holds out eight of a few, at most a tenth.

    >>> default_share(f"{number:02x}" * 32 for number in range(9))
    0.0
    """
    places = sorted(map(shards.place_of, set(keys)))
    if bisect_left(places, DEFAULT_SHARE) >= FEWEST_HELD_OUT:
        return DEFAULT_SHARE
    count = min(FEWEST_HELD_OUT, int(LARGEST_SHARE * len(places)))
    return (places[count - 1] + places[count]) / 2 if count else 0.0
