"""The files of the work at a store: machines that have no disk in common make the same bytes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file
from tests.data.stores import put_folder

from ibidem import artifacts, places, workfiles
from ibidem.data import near
from ibidem.data.blend import BlendConfig, Ingredient, blend
from ibidem.data.engine import Engine, EngineConfig, work_dir_of
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.pipeline import prepare
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.errors import ConfigError, StoreError
from ibidem.places import StorePath


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorePath]:
    """A folder of each kind of store that is here."""
    files = fsspec.filesystem("memory")
    yield StorePath(f"file://{tmp_path}/store" if request.param == "file" else "memory://bucket/team")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty as the current one is."""
    for name in ("cwd", "own"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with exact and near duplicates, and lines that cannot be read."""
    folder = tmp_path_factory.mktemp("corpus") / "mixed"
    folder.mkdir()
    texts = [python_file(seed) for seed in range(60)]
    texts += [text.replace("return", "yield", 1) for text in texts[::4]] + texts[::7]
    pq.write_table(pa.table({"text": texts, "license": ["MIT", "GPL-3.0", "MIT"] * 28}), folder / "a.parquet")
    (folder / "b.jsonl").write_text('{"text": "A line of a text that is long enough."}\n{broken\n')
    return folder


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_file_that_is_sent_in_part_is_not_there(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(content: IO[bytes], sink: IO[bytes]) -> str:
        sink.write(content.read(3))
        raise error

    source, store = tmp_path / "source", StorePath(f"file://{tmp_path}/store")
    source.write_bytes(b"whole")
    with monkeypatch.context() as patched:
        patched.setattr(places, "stream", interrupted)
        with pytest.raises((error, StoreError)):
            places.send(source, store / "file")
    assert not any(Path(tmp_path, "store").iterdir())
    places.send(source, store / "file")
    assert [path.name for path in Path(tmp_path, "store").iterdir()] == ["file"]
    assert (store / "file").read_bytes() == b"whole"


def made(source: Path, output: Path, **changes: Any) -> artifacts.Artifact:
    settings: dict[str, Any] = {"shard_size": 10, "workers": 1} | changes
    preprocess(PreprocessConfig(dataset=(f"{source}:train:text",), output_dir=output, **settings))
    return artifacts.verify(output)


def test_work_files_at_a_store_change_no_byte_and_none_is_left(
    store: StorePath, corpus: Path, tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("_GROUP_DOCUMENTS", 20), ("_GROUP_GROWTH", 1), ("_BATCH_DOCUMENTS", 9), ("_BATCH_GROWTH", 1)):
        monkeypatch.setattr(near, name, most)  # several groups, partitions and batches
    monkeypatch.setattr(near, "_GROUPS_OF_A_PARTITION", 1)
    (tmp_path / "requests.jsonl").write_text('{"kind": "text", "value": "Return the value of index."}\n')
    removals = RemovalPolicy(requests=(tmp_path / "requests.jsonl",))
    expected = made(corpus, tmp_path / "here", removals=removals)
    assert expected.counts["clusters"]["clusters"] > 5
    put_folder(corpus, store / "mixed")
    found = made(corpus, store / "out", work_dir=store / "work", removals=removals)
    assert (found.digest, found.files) == (expected.digest, expected.files)
    assert made(store / "mixed", store / "again", work_dir=store / "work").counts["kept"]
    assert {name.split("/")[0] for name in store.listing()} == {"mixed", "out", "again"}
    assert not list(Path.cwd().iterdir())
    assert not [path for path in own.rglob("*") if path.is_file()]


def test_work_files_of_a_blend_at_a_store_change_no_byte_and_none_is_left(
    store: StorePath, corpus: Path, tmp_path: Path, own: Path
) -> None:
    settings = {"shares": {"text": 1}, "shard_size": 7, "workers": 1}
    made(corpus, tmp_path / "data")
    made(corpus, store / "data", work_dir=store / "work")
    blend(BlendConfig(datasets={"a": Ingredient(path=tmp_path / "data")}, output_dir=tmp_path / "blend", **settings))
    there = BlendConfig(
        datasets={"a": Ingredient(path=store / "data")}, output_dir=store / "b", work_dir=store / "work", **settings
    )
    blend(there)
    expected, found = artifacts.load(tmp_path / "blend"), artifacts.verify(store / "b")
    assert (found.digest, found.files) == (expected.digest, expected.files)
    assert "byte for byte the same" in blend(BlendConfig(**{**vars(there), "verify": True}))
    assert {name.split("/")[0] for name in store.listing()} == {"data", "b"}
    assert not list(Path.cwd().iterdir())
    assert not [path for path in own.rglob("*") if path.is_file()]


@pytest.mark.parametrize("step", ["_decide", "_finish"])
def test_a_run_that_ends_early_goes_on_from_its_work_files_at_the_store(
    step: str, store: StorePath, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibidem.data import preprocess as stage

    def ends(*_: object) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(stage, step, ends)
        with pytest.raises(StoreError, match="gone"):
            made(corpus, store / "out", work_dir=store / "work")
    assert {name.split("/")[0] for name in store.listing()} == {"work"}
    monkeypatch.setattr(prepare, "_prepare_shard", lambda *_, **__: pytest.fail("what was done is done again"))
    found = made(corpus, store / "out", work_dir=store / "work")
    monkeypatch.undo()
    assert found.digest == made(corpus, tmp_path / "here").digest


def test_a_folder_that_was_not_sent_as_a_whole_is_not_there(store: StorePath) -> None:
    with pytest.raises(ZeroDivisionError), artifacts.make_folder(store / "work" / "a") as folder:
        (folder / "x").write_text("1")
        raise ZeroDivisionError
    assert not store.listing()
    with artifacts.make_folder(store / "work" / "a") as folder:
        (folder / "x").write_text("1")
    assert artifacts.is_made(store / "work" / "a")
    (store / "work" / "a" / "x").read_text()
    files, at = (store / "work" / "a" / ".whole").place
    files.rm_file(at)
    assert not artifacts.is_made(store / "work" / "a")


def test_copies_are_private_and_shared_by_the_processes_of_a_machine(store: StorePath, own: Path) -> None:
    workfiles.write(store / "work" / "a.txt", "text")
    (copy,) = {workfiles.kept(store / "work" / "a.txt") for _ in range(2)}
    assert copy.is_relative_to(own)
    root = own / copy.relative_to(own).parts[0]
    assert root.stat().st_mode & 0o777 == 0o700
    workfiles.forget(store / "work")
    assert not copy.exists()
    root.chmod(0o777)
    with pytest.raises(StoreError, match="other users may write there"):
        workfiles.kept(store / "work" / "a.txt")


def test_a_machine_that_does_not_see_a_path_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(EngineConfig())
    engine.check_seen([tmp_path / "missing"])  # of no cluster: whoever reads it says so
    engine._cluster = "a cluster"
    monkeypatch.setattr("ibidem.data.engine._call_on_nodes", lambda _, function: [("first", []), function()])
    engine.check_seen([tmp_path, StorePath("s3://bucket/data")])
    with pytest.raises(ConfigError, match=rf"{tmp_path}/missing: .* does not see it; give a disk"):
        engine.check_seen([tmp_path, tmp_path / "missing"])


def test_where_work_files_cannot_be_is_one_line(tmp_path: Path) -> None:
    on_ray = EngineConfig(runner="ray")
    with pytest.raises(ConfigError, match="only if output_dir is at one"):
        work_dir_of(tmp_path, StorePath("s3://b/work"), on_ray)
    with pytest.raises(ConfigError, match="no folder is around it"):
        work_dir_of(StorePath("s3://bucket"), None, on_ray)
    assert work_dir_of(StorePath("s3://bucket/data/out"), None, on_ray) == StorePath("s3://bucket/data")
    assert work_dir_of(StorePath("s3://bucket/data/out"), None, EngineConfig()) is None
    assert work_dir_of(tmp_path, None, on_ray) is None
