"""Shards: what is written and read of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibidem import artifacts
from ibidem.conversation import Part, Turn, from_rows, plain
from ibidem.data import shards
from ibidem.data.pipeline.finish import write_staying
from ibidem.errors import DataError
from ibidem.records import Document

NUM_TEXTS = 2 * shards.BATCH_ROWS + 100
ARROW_ROWS = 90


def text(number: int) -> str:
    return f"text {number}\n" * (number % 7)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write rows into an Arrow file, as they are prepared."""
    documents = [Document(text(number).encode(), "s", None, f"r{number}") for number in range(NUM_TEXTS)]
    batch = shards.as_batch(documents)
    path = tmp_path_factory.mktemp("shards") / "kept.arrow"
    with pa.ipc.new_file(path, batch.schema) as file:
        for start in range(0, NUM_TEXTS, ARROW_ROWS):
            file.write_batch(batch.slice(start, ARROW_ROWS))
    return path


@pytest.fixture(scope="module")
def shard(kept: Path) -> Path:
    return finished(kept, [], "shard.parquet")


def finished(kept: Path, gone: Iterable[int], name: str) -> Path:
    rows = [{"row": row, "reason": "duplicate.near"} for row in gone]
    schema = pa.schema([("row", pa.int64()), ("reason", pa.string())])
    write_staying(kept, kept.with_name(name), pa.Table.from_pylist(rows, schema=schema), "d/train")
    return kept.with_name(name)


def read(path: Path, rows: Sequence[int]) -> list[str]:
    return [text for some in shards.read_texts(path, np.array(rows, np.int64)) for text in some.to_pylist()]


@pytest.mark.parametrize("name", ["shard", "kept"])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [0],
        [NUM_TEXTS - 1],
        [shards.BATCH_ROWS - 1, shards.BATCH_ROWS],
        [ARROW_ROWS - 1, ARROW_ROWS],
        [3, 400, 500],
        range(NUM_TEXTS),
    ],
    ids=["none", "first", "last", "a border of row groups", "a border of batches", "some", "all"],
)
def test_the_texts_of_some_rows_are_read(name: str, rows: Sequence[int], request: pytest.FixtureRequest) -> None:
    assert read(request.getfixturevalue(name), rows) == list(map(text, rows))


@pytest.mark.parametrize("name", ["shard", "kept"])
def test_what_holds_none_of_the_rows_is_not_read(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    content = bytearray(request.getfixturevalue(name).read_bytes())
    damaged = tmp_path / request.getfixturevalue(name).name
    if name == "shard":
        column = pq.read_metadata(request.getfixturevalue(name)).row_group(0).column(0)
        start, size = column.data_page_offset, column.total_compressed_size
    else:
        start, size = content.index(text(1).encode()), len(text(1))
    content[start : start + size] = bytes(size)
    damaged.write_bytes(content)
    assert read(damaged, [shards.BATCH_ROWS + 5]) == [text(shards.BATCH_ROWS + 5)]
    if name == "shard":
        with pytest.raises(OSError, match="Parquet|zstd|ZSTD|page|thrift"):
            read(damaged, [1])
    else:
        assert read(damaged, [1]) != [text(1)]


@pytest.mark.parametrize(
    "gone",
    [[], range(NUM_TEXTS), range(0, NUM_TEXTS, 2), range(1, NUM_TEXTS, 2), range(100, 300), [0, NUM_TEXTS - 1]],
    ids=["none", "all", "even", "odd", "some batches", "ends"],
)
def test_rows_that_go_leave_the_others_in_their_order(gone: Sequence[int], kept: Path, tmp_path: Path) -> None:
    path = finished(kept, gone, f"{tmp_path.name}.parquet")
    stay = [row for row in range(NUM_TEXTS) if row not in gone]
    assert path.exists() == bool(stay)
    if stay:
        table = pq.read_table(path)
        assert table["text"].to_pylist() == list(map(text, stay))
        assert table["record"].to_pylist() == [f"r{row}" for row in stay]


def test_the_bytes_of_a_shard_depend_on_its_rows_alone(kept: Path, shard: Path) -> None:
    twice = finished(kept, range(0, NUM_TEXTS, 3), "once.parquet")
    left = [row for row in range(NUM_TEXTS) if row % 3]
    again = [place for place, row in enumerate(left) if row % 5 == 0]
    at_once = finished(kept, [row for row in range(NUM_TEXTS) if row % 3 == 0 or row % 5 == 0], "at-once.parquet")
    assert finished(twice, again, "twice.parquet").read_bytes() == at_once.read_bytes()
    assert finished(shard, [], "copy.parquet").read_bytes() == shard.read_bytes()


def conversation(number: int) -> Document:
    turns = (Turn.of("user", f"What is {number}?"), Turn("assistant", (Part("text", "See"), Part("cite", str(number)))))
    rejected = (Part("text", "No."),) if number % 3 == 0 else None
    document = Document(plain(turns, rejected).encode(), "s", None, f"r{number}", messages=turns, rejected=rejected)
    document.margin = number / 2 if number % 6 == 0 else None
    return document


def mixed() -> list[Document]:
    return [
        conversation(number) if number % 2 else Document(text(number).encode(), "s", None, f"r{number}")
        for number in range(NUM_TEXTS)
    ] + [conversation(number) for number in range(0, 60, 6)]


def test_conversations_and_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    documents = mixed()
    shards.write_table(tmp_path / "kept.arrow", pa.Table.from_batches([shards.as_batch(documents)]))
    path = finished(tmp_path / "kept.arrow", range(0, len(documents), 5), "shard.parquet")
    left = [document for number, document in enumerate(documents) if number % 5]
    rows = list(shards.read_rows(path, ["messages", "rejected", "margin", "text"]))
    assert len(rows) == len(left)
    assert {row["margin"] for row in rows} > {None, 3.0, 27.0}
    for row, document in zip(rows, left, strict=True):
        assert (None if row["messages"] is None else from_rows(row["messages"])) == document.messages
        rejected = row["rejected"]
        assert (None if rejected is None else tuple(Part(**part) for part in rejected)) == document.rejected
        assert (row["margin"], row["text"]) == (document.margin, document.text)


def test_the_bytes_of_a_shard_of_conversations_depend_on_its_rows_alone(tmp_path: Path) -> None:
    batch = shards.as_batch(mixed())
    for size in (ARROW_ROWS, 1000):
        with pa.ipc.new_file(tmp_path / f"{size}.arrow", batch.schema) as file:
            for start in range(0, len(batch), size):
                file.write_batch(batch.slice(start, size))
    few, many = (finished(tmp_path / f"{size}.arrow", [7], f"{size}.parquet") for size in (1000, ARROW_ROWS))
    assert few.read_bytes() == many.read_bytes()


@pytest.mark.parametrize("name", ["shard", "kept"])
def test_a_dataset_from_before_conversations_is_read(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue(name)
    before = tmp_path / path.name
    if name == "shard":
        pq.write_table(pq.read_table(path).drop_columns(list(shards.OF_CONVERSATIONS)), before)
        assert shards.read_shard(before).schema == shards.SCHEMA
        assert {row["messages"] for row in shards.read_rows(before, ["text", "messages"])} == {None}
        with pytest.raises(DataError, match="no column 'words'"):
            list(shards.read_rows(before, ["words", "messages"]))
    else:
        shards.write_table(before, shards.read_table(path).drop_columns(list(shards.OF_CONVERSATIONS)))
    assert finished(before, [3], "again.parquet").read_bytes() == finished(path, [3], "again.parquet").read_bytes()


def test_what_an_earlier_version_dropped_is_read_from_its_one_file(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([{"record": "a", "reason": "license.denied"}], schema=shards.DROPPED_SCHEMA)
    with artifacts.create(tmp_path / "data", kind=shards.KIND, config={}) as draft:
        shards.write_dropped(draft.path / "dropped.parquet", rows)
        (draft.path / "quarantine.jsonl").write_text('{"file": "b", "line": 1, "reason": "broken"}\n')
    dataset = artifacts.load(tmp_path / "data")
    assert [row["record"] for table in shards.read_dropped(dataset) for row in table.to_pylist()] == ["a"]
    assert [item.file for item in shards.read_quarantine(dataset)] == ["b"]
    assert not shards.shard_names(dataset)
