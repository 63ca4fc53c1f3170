"""Token windows: the dataset is tokenized once, memory-mapped, and read in an order that follows from the step number.

    <document> a a a a a <document> b b <document> c c c c ...        one long row of ids
    [------- window 0 -------][------- window 1 -------]              T inputs each, and one more for the last target

The document token precedes every document: from it the model learns how documents start, and where they end.
Conversations are rendered by the chat template; of a preference pair, the prompt and the chosen answer.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from operator import ne
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem import artifacts, log
from ibidem.conversation import from_rows
from ibidem.data import shards
from ibidem.errors import ConfigError, DataError
from ibidem.figures import counted
from ibidem.readers import readers_of, recorded
from ibidem.records import DOCUMENTS_FILE
from ibidem.tokenization.chat import ChatTemplate, joined
from ibidem.tokenization.tokenizer import Tokenizer

KIND = "tokens"
SPLITS = ("train", "validation")
ENCODE_AT_ONCE = 512
DEFAULT_SHARE, FEWEST_HELD_OUT = 0.02, 8
"""What is held out by default: this share of the documents, and of a small dataset this number of them."""
MOST_HASHED = 100_000
"""Rows of a dataset whose hashes are looked at for that."""

FEWEST_CHARACTERS = 3
"""Of a document that can be cut in three."""

Ids = NDArray[np.int64]


class Codec(Protocol):
    """What fill-in-the-middle requires of a tokenizer."""

    @property
    def is_imported(self) -> bool:
        """Whether it was trained elsewhere."""

    @property
    def bytes_of_V(self) -> NDArray[np.int32]:  # noqa: N802 - the shape
        """Number of bytes of text that each id represents."""

    def encode_continued(self, text: str) -> list[int]:
        """Return the ids of a text that continues another."""

    def bytes_of(self, ids: Ids, before: Ids) -> NDArray[np.int32]:
        """Return the number of bytes of text of each id, given the id before it."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never that of a special token."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""


class _Encoded:
    """A tokenizer that has encoded some texts already, all at once."""

    def __init__(self, tokenizer: Tokenizer, ids_of: Mapping[str, list[int]]) -> None:
        self.document_id, self.id_of, self.decode = tokenizer.document_id, tokenizer.id_of, tokenizer.decode
        self._ids_of = ids_of

    def encode(self, text: str) -> list[int]:
        return self._ids_of[text]

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self)


class Fim(NamedTuple):
    """How to fill in the middle: the special tokens, and how often."""

    codec: Codec
    document: int
    prefix: int
    middle: int
    suffix: int
    rate: float
    """Share of the documents that are changed."""
    spm_rate: float
    """Share of these whose suffix comes first."""


def tokenize(
    dataset: Path, tokenizer_dir: Path, cache_dir: Path, *, held_out_share: float | None
) -> tuple[artifacts.Artifact, Tokenizer]:
    """Tokenize a dataset, or load its tokens; the folder is named after the digests of dataset and tokenizer.

    Files: `train.bin` and `validation.bin` (uint16 if the vocabulary fits, else uint32), and `documents.parquet` with
    the position of each document. Without a share, `default_share` decides.
    """
    data = shards.load_dataset(dataset)
    held_out_share = held_out_share or (DEFAULT_SHARE if _is_large(data) else default_share(_hashes(data.path)))
    tokenizer = Tokenizer.load(tokenizer_dir)
    key = hashlib.sha256(f"{data.digest} {tokenizer.digest} {held_out_share}".encode()).hexdigest()[:16]
    folder = cache_dir / key
    inputs = [
        data.as_input("dataset", of=folder),
        artifacts.load(tokenizer_dir).as_input("tokenizer", of=folder),
    ]
    config = {"held_out_share": held_out_share, "dtype": _dtype(tokenizer.vocab_size).name}
    config |= recorded(inputs, folder)
    tokens = artifacts.finished(folder, kind=KIND, config=config, inputs=inputs)
    if tokens is not None:
        artifacts.verify(folder)
    else:
        is_private = readers_of(config) is not None
        with artifacts.create(folder, kind=KIND, config=config, inputs=inputs, is_private=is_private) as draft:
            draft.counts |= _write(draft.path, dataset, tokenizer, data.counts["kept"], held_out_share)
        tokens = artifacts.load(folder, kind=KIND)
        log.event("tokens.finished", path=str(folder), **tokens.counts)
    return tokens, tokenizer


def _is_large(dataset: artifacts.Artifact) -> bool:
    """Return whether 2 % of a dataset are surely enough documents, even if each of them comes several times."""
    return int(dataset.counts["kept"]) > MOST_HASHED


def _hashes(dataset: Path) -> Iterator[str]:
    return (row["sha256"] for path in shards.shard_paths(dataset) for row in shards.read_rows(path, ["sha256"]))


def default_share(sha256s: Iterable[str]) -> float:
    """Return the share of the documents to hold out: 2 %, or as much as holds out eight of a few, at most half.

    >>> default_share(f"{number:02x}" * 32 for number in range(100))
    0.03
    """
    places = sorted(map(shards.place_of, set(sha256s)))
    if len(places) < 2 or FEWEST_HELD_OUT <= bisect_left(places, DEFAULT_SHARE) <= len(places) // 2:
        return DEFAULT_SHARE
    return _share_before(places, min(FEWEST_HELD_OUT, len(places) // 2))


def _share_before(places: Sequence[float], count: int) -> float:
    """Return a share that holds out exactly the first `count` places, with as few digits as that takes."""
    low, high = places[count - 1], places[count]
    middle = (low + high) / 2
    return next((share for digits in range(2, 12) if low < (share := round(middle, digits)) <= high), middle)


class Windows:
    """The windows of one split of a tokenized dataset."""

    def __init__(self, tokens: artifacts.Artifact, split: str, context: int) -> None:
        """Map the file.

        Raises:
            DataError: the split is shorter than one window.
        """
        self.context = context
        self._ids = np.memmap(tokens.path / f"{split}.bin", dtype=tokens.config["dtype"], mode="r")
        self.number = (len(self._ids) - 1) // context
        if self.number < 1:
            raise DataError(
                f"{tokens.path}: {split} has {len(self._ids)} tokens, less than one window of {context} + 1; "
                "give more data, a smaller --data.context or another --data.held-out-share"
            )

    def __getitem__(self, index: int) -> Ids:
        """Return the context + 1 ids of a window; int64."""
        start = index * self.context
        return self._ids[start : start + self.context + 1].astype(np.int64)

    def spread(self, number: int) -> list[int]:
        """Return the indices of `number` windows, evenly spread over the split."""
        number = min(number, self.number)
        return [index * self.number // number for index in range(number)]


def window_at(position: int, num_windows: int, seed: int) -> tuple[int, int]:
    """Return the window at a position of the endless training order, as (epoch, window).

    Each epoch is a permutation of its own, so the window of any step is known without reading up to it.

    >>> [window_at(position, 3, seed=0)[0] for position in range(4)]
    [0, 0, 0, 1]
    """
    epoch, place = divmod(position, num_windows)
    return epoch, int(_permutation(num_windows, seed, epoch)[place])


def fill_in_middle(ids: Ids, fim: Fim, *, rng: np.random.Generator) -> Ids:
    """Move the middle of some documents of a window to their ends, in one of two orders.

        <document> <prefix> a <suffix> c <middle> b        PSM: prefix, suffix, middle
        <document> <prefix> <suffix> c <middle> a b        SPM: suffix, prefix, middle

    A document's text is cut before two random characters, and each part is encoded alone, so that parts end within
    tokens, as prompts do. The window keeps its length: what no longer fits is lost at its end. A document that the
    window cuts is treated as if it were whole, unless the cut divides a character.
    Source: Bavarian et al. 2022, arXiv:2207.14255, sections 3 and 4 (context level, cut before encoding).
    """
    edges = [0, *(np.flatnonzero(ids[1:] == fim.document) + 1), len(ids)]
    pieces: list[Ids] = []
    for start, end in pairwise(edges):
        document = ids[start:end]
        changed = _rearranged(document, fim, rng) if rng.random() < fim.rate else None
        pieces.append(document if changed is None else changed)
    return np.concatenate(pieces)[: len(ids)]


def _rearranged(document: Ids, fim: Fim, rng: np.random.Generator) -> Ids | None:
    """Return a document with its middle at its end; None if it is too short, or its ids are not those of a text."""
    head = document[: int(document[0] == fim.document)]
    body = document[len(head) :]
    if not fim.codec.bytes_of_V[body].all():  # the markers of a conversation
        return None
    text, before = fim.codec.decode(body.tolist()), np.concatenate([[fim.document], body[:-1]])
    if len(text) < FEWEST_CHARACTERS or len(text.encode()) != fim.codec.bytes_of(body, before).sum():
        return None
    low, high = sorted(rng.integers(0, len(text) + 1, size=2).tolist())
    texts = text[:low], text[low:high], text[high:]
    prefix, middle, suffix = (fim.codec.encode(part) for part in texts)
    if fim.codec.is_imported and any(map(ne, map(fim.codec.decode, (prefix, middle, suffix)), texts)):
        return None  # it may take a blank for its own at the beginning of a part
    if rng.random() < fim.spm_rate:
        middle = fim.codec.encode_continued(text[low:high]) if low else middle
        parts = [fim.prefix, fim.suffix, *suffix, fim.middle, *prefix, *middle]
    else:
        parts = [fim.prefix, *prefix, fim.suffix, *suffix, fim.middle, *middle]
    changed = np.array([*head, *parts], dtype=np.int64)
    return changed if len(changed) >= len(document) else None


@lru_cache(maxsize=2)
def _permutation(num_windows: int, seed: int, epoch: int) -> Ids:
    return np.random.default_rng((seed, epoch)).permutation(num_windows)


def _dtype(vocab_size: int) -> "np.dtype[Any]":
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _write(
    folder: Path, dataset: Path, tokenizer: Tokenizer, num_documents: int, held_out_share: float
) -> dict[str, Any]:
    dtype = _dtype(tokenizer.vocab_size)
    sizes = dict.fromkeys(SPLITS, 0)
    num_bytes = dict.fromkeys(SPLITS, 0)
    places: list[tuple[str, str, int, int]] = []
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    try:
        with log.progress("tokens", num_documents, "documents") as bar:
            for sha256, ids in _encoded(dataset, tokenizer):
                split = SPLITS[shards.is_held_out(sha256, held_out_share)]
                row = np.array([tokenizer.document_id, *ids], dtype=dtype)
                row.tofile(files[split])
                places.append((sha256, split, sizes[split], len(row)))
                sizes[split] += len(row)
                num_bytes[split] += int(tokenizer.bytes_of_V[row].sum())
                bar.advance()
        for file in files.values():  # the last document ends too
            np.array([tokenizer.document_id], dtype=dtype).tofile(file)
    finally:
        for file in files.values():
            file.close()
    if min(sizes.values()) == 0:
        left = "nothing to train on" if sizes["train"] == 0 else "nothing held out"
        raise ConfigError(
            f"{dataset}: a held-out share of {held_out_share:g} leaves {left} of "
            f"{counted(len(places), 'document')}; {_remedy(place[0] for place in places)}"
        )
    names = ("sha256", "split", "start", "tokens")
    pq.write_table(pa.table(dict(zip(names, zip(*places, strict=True), strict=True))), folder / DOCUMENTS_FILE)
    return {"documents": len(places), "tokens": sizes, "bytes": num_bytes}


def _remedy(sha256s: Iterable[str]) -> str:
    """Name a share of the documents that leaves none of the splits empty."""
    places = sorted(map(shards.place_of, set(sha256s)))
    if len(places) < 2:
        return "give more data"
    return f"give more data, or --data.held-out-share {_share_before(places, 1)}"


def _encoded(dataset: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the hash and the ids of each document; conversations are rendered by the chat template."""
    columns = ["text", "messages", "sha256"]
    rows = (row for path in shards.shard_paths(dataset) for row in shards.read_rows(path, columns))
    while batch := list(islice(rows, ENCODE_AT_ONCE)):
        conversations = [None if row["messages"] is None else from_rows(row["messages"]) for row in batch]
        texts = [row["text"] for row, turns in zip(batch, conversations, strict=True) if turns is None]
        texts += [part.text for turns in conversations for turn in turns or () for part in joined(turn.parts)]
        encoded = tokenizer.encode_batch(texts, threads=os.cpu_count() or 1)
        codec = _Encoded(tokenizer, dict(zip(texts, encoded, strict=True)))
        for row, turns in zip(batch, conversations, strict=True):
            ids = codec.encode(row["text"]) if turns is None else codec.template.render(turns).ids[1:]
            yield row["sha256"], ids
