"""Shards: what is read of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibidem.data import shards
from ibidem.records import Document

NUM_TEXTS = 2 * shards.BATCH_ROWS + 100


@pytest.fixture(params=["shard.parquet", "kept.arrow"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    documents = [Document(f"text {n}\n".encode() * (n % 7), "s", None, f"r{n}") for n in range(NUM_TEXTS)]
    batch = shards.as_batch(documents)
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        table = pa.Table.from_batches([batch])
        shards.write_shard(path, table.select(shards.FACTS), table["text"].chunks)
    else:
        with pa.ipc.new_file(path, batch.schema) as file:
            for start in range(0, NUM_TEXTS, 90):
                file.write_batch(batch.slice(start, 90))
    return path


def texts(arrays: Iterator[pa.LargeStringArray]) -> list[str]:
    return [text for some in arrays for text in some.to_pylist()]


@pytest.mark.parametrize(
    "rows",
    [[], [0], [NUM_TEXTS - 1], [255, 256], [3, 89, 90, 400, 500], range(NUM_TEXTS)],
    ids=["none", "first", "last", "a border", "some", "all"],
)
def test_the_texts_of_some_rows_are_read(path: Path, rows: list[int]) -> None:
    found = texts(shards.read_texts(path, np.array(rows, np.int64)))
    assert found == [f"text {n}\n" * (n % 7) for n in rows]


def test_what_holds_none_of_the_rows_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    table = pa.Table.from_batches([shards.as_batch([Document(b"x" * n, "s", None, f"r{n}") for n in range(NUM_TEXTS)])])
    shards.write_shard(path, table.select(shards.FACTS), table["text"].chunks)
    first = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[first.data_page_offset : first.data_page_offset + first.total_compressed_size] = bytes(
        first.total_compressed_size
    )
    path.write_bytes(content)
    beyond = np.array([shards.BATCH_ROWS + 5])
    assert texts(shards.read_texts(path, beyond)) == ["x" * beyond[0]]
    with pytest.raises(OSError, match="."):
        texts(shards.read_texts(path, np.array([5])))
