"""A dataset of the hub is fetched by its own shards, and its order is theirs."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file

from ibidem import artifacts
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.sources import hub
from ibidem.errors import DataError
from ibidem.places import StorePath

SIZES = (25, 1, 7, 40)


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """Put files on the hub, one or several; return which shards are fetched, and how many rows of each are written."""
    texts = [python_file(seed) for seed in range(sum(SIZES))]
    seen: list[tuple[int, int]] = []
    usual = datasets.load_dataset

    class Hub:
        def dataset_info(self, _: str, revision: str | None = None) -> object:
            return type("Info", (), {"sha": "a" * 40})

    def put(*sizes: int) -> list[tuple[int, int]]:
        folder, start = tmp_path / f"hub-{len(sizes)}", 0
        folder.mkdir(exist_ok=True)
        for number, size in enumerate(sizes):
            rows = {"content": texts[start : start + size], "license": ["MIT"] * size}
            schema = pa.schema([("content", pa.string()), ("license", pa.string())])
            pq.write_table(pa.table(rows, schema=schema), folder / f"part-{number}.parquet")
            start += size
        paths = [str(path) for path in sorted(folder.iterdir())]
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *_, **__: usual("parquet", data_files=paths, split="train", streaming=True)
        )
        seen.clear()
        return seen

    fetch = hub._fetch

    def noted(task: Any) -> Any:
        number, chunks = fetch(pickle.loads(pickle.dumps(task)))  # as on a cluster
        seen.append((number, sum(chunk.rows for chunk in chunks)))
        return number, chunks

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda _: [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(hub, "_fetch", noted)
    monkeypatch.setattr(hub, "SPOOL_ROWS", 10)
    return put


def made(output: Path, **settings: Any) -> artifacts.Artifact:
    settings = {"shard_size": 8, "workers": 2} | settings
    preprocess(PreprocessConfig(dataset=("some/dataset:train:content",), output_dir=output, **settings))
    return artifacts.verify(output)


def test_each_shard_is_a_task_and_the_bytes_are_those_of_one_file(
    fetched: Callable[..., list[tuple[int, int]]], tmp_path: Path
) -> None:
    assert fetched(sum(SIZES)) == []
    one = made(tmp_path / "one")
    assert one.counts["kept"] == sum(SIZES)
    seen = fetched(*SIZES)
    several = made(tmp_path / "several")
    assert sorted(seen) == list(enumerate(SIZES))
    assert several.digest == one.digest
    seen = fetched(*SIZES)
    there = made(StorePath(f"file://{tmp_path}/store/out"), work_dir=StorePath(f"file://{tmp_path}/work"), workers=3)
    assert there.digest == one.digest
    assert sorted(seen) == list(enumerate(SIZES))


def test_no_more_shards_are_fetched_than_are_needed(
    fetched: Callable[..., list[tuple[int, int]]], tmp_path: Path
) -> None:
    fetched(sum(SIZES))
    one = made(tmp_path / "one", max_documents=28)
    assert one.counts["kept"] == 28
    seen = fetched(*SIZES)
    assert made(tmp_path / "several", max_documents=28, workers=1).digest == one.digest
    assert seen == [(0, 25), (1, 1), (2, 7)]
    seen = fetched(*SIZES)
    made(tmp_path / "few", max_documents=12, workers=1)
    assert seen == [(0, 12)]


def test_what_was_fetched_is_not_fetched_again(
    fetched: Callable[..., list[tuple[int, int]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fetched(*SIZES)
    written, left = hub.workfiles.write, [4]

    def fails(path: Path, text: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionError("reset by peer")
        written(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(hub.workfiles, "write", fails)
        with pytest.raises(DataError, match=r"some/dataset.*ConnectionError: reset by peer"):
            made(tmp_path / "out", workers=1)
    (spool,) = tmp_path.glob(".out.work-*/spool-000")
    before = {path.name: path.stat().st_ino for path in spool.iterdir()}
    assert len(before) == 4
    monkeypatch.setattr("ibidem.data.preprocess._prepare", lambda *_: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        made(tmp_path / "out", workers=1)
    after = {path.name: path.stat().st_ino for path in spool.iterdir()}
    assert {name: after[name] for name in before} == before
    seen.clear()
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        made(tmp_path / "out", workers=1)
    assert not seen
