"""The same bytes come out, whoever does the work and however often it is killed."""

import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import ray_cluster
from tests.conftest import REPOSITORY, python_file
from tests.data.stores import put_folder, s3_server
from tests.ray_cluster import Cluster, cluster

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import engine as engine_module
from ibidem.data.engine import Engine, EngineConfig
from ibidem.errors import ConfigError, DataError
from ibidem.places import StorePath


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every kind, enough for a dozen shards."""
    folder = tmp_path_factory.mktemp("engine") / "mixed"
    (folder / "src").mkdir(parents=True)
    texts = [python_file(seed) for seed in range(400)]
    texts += [text.replace("return", "yield", 1) for text in texts[::5]] + texts[::9]
    random.Random(0).shuffle(texts)
    columns = {"text": texts[:250], "id": [f"p{i}" for i in range(250)], "license": ["MIT", "GPL-3.0"] * 125}
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=90)
    with (folder / "b.jsonl").open("w") as file:
        for i, text in enumerate(texts[250:420]):
            file.write(json.dumps({"text": text, "id": f"j{i}", "license": "MIT"}) + "\n" * (1 + i % 3))
        file.write("{broken\n")
    for i, text in enumerate(texts[420:]):
        (folder / "src" / f"f{i:03d}.py").write_text("# SPDX-License-Identifier: MIT\n" + text)
    return folder


def command(source: Path, output: Path, *more: str) -> list[str]:
    return ["preprocess", "--dataset", f"{source}:train:text", "--output-dir", str(output), "--shard-size", "40", *more]


def content(output: Path) -> dict[str, bytes]:
    artifact = artifacts.verify(output)
    return {name: (output / name).read_bytes() for name in artifact.files} | {"digest": artifact.digest.encode()}


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("expected") / "out"
    assert main(command(source, output, "--workers", "1")) == 0
    assert artifacts.load(output).counts["kept"] > 300
    return content(output)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_no_byte(
    source: Path, expected: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    assert main(command(source, tmp_path / "out", "--workers", str(workers))) == 0
    assert content(tmp_path / "out") == expected


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = [sys.executable, "-m", "ibidem", *command(source, tmp_path / "out")]
    rng, kills = random.Random(7), 0
    while kills < 8:
        process = subprocess.Popen(
            arguments, env=ray_cluster.environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + rng.uniform(0.4, 1.6)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert not (tmp_path / "out").exists() or artifacts.verify(tmp_path / "out")
    assert kills
    subprocess.run(arguments, env=ray_cluster.environment(), check=True, capture_output=True)
    assert content(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing hidden is left


def test_finished_shards_are_not_made_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ibidem.data import preprocess

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preprocess.finish, "assemble", fail)
    assert main(command(source, tmp_path / "out", "--workers", "1")) == 2
    (work,) = tmp_path.glob(".out.work-*")
    before = {path: path.stat().st_ino for path in work.rglob("kept.arrow")}
    assert before
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr("ibidem.data.pipeline.prepare._prepare_shard", lambda *_, **__: seen.append(1))
    assert main(command(source, tmp_path / "out", "--workers", "1")) == 0
    assert not seen


def test_an_error_in_a_worker_keeps_its_kind_and_its_traceback() -> None:
    engine = Engine(EngineConfig(workers=2))
    for processes in (True, False):
        with pytest.raises(DataError, match="task 2") as error:
            list(engine.map(_fail, [1, 2, 3], processes=processes))
        told = "".join([*traceback.format_exception(error.value), *getattr(error.value, "__notes__", ())])
        assert "in _fail" in told


def test_workers_end_with_the_process_that_gives_them_work(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys, time\nfrom ibidem.data.engine import Engine, EngineConfig\n"
        "def work(number):\n    pathlib.Path(sys.argv[1], str(os.getpid())).touch()\n    time.sleep(60)\n"
        "list(Engine(EngineConfig(workers=2)).map(work, [1, 2], processes=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(pids := [path.name for path in tmp_path.iterdir()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(_runs(pid) for pid in pids)


def test_a_missing_cluster_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="no cluster at 127.0.0.1:1"):
        Engine(EngineConfig(runner="ray", ray_address="127.0.0.1:1"))


def test_two_raylets_that_share_no_disk_and_of_which_one_is_lost_give_the_same_bytes_at_a_store(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "disk").mkdir()
    store = StorePath(f"file://{tmp_path}/store")
    with cluster(raylets=2, cores=1, folder=tmp_path / "disk", apart=True) as found:
        lost = losing(found, command(source, store / "out"), tmp_path / "disk", ["preprocess prepare"])
    assert lost == ["preprocess prepare"]
    assert content(store / "out") == expected
    assert {name.split("/")[0] for name in store.listing()} == {"out"}


@pytest.mark.slow
def test_four_raylets_that_share_no_disk_and_of_which_one_is_lost_in_each_step_give_the_same_bytes_on_s3(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    disk = tmp_path / "disk"
    disk.mkdir()
    with s3_server("four-raylets", monkeypatch):
        place = StorePath("s3://four-raylets")
        put_folder(source, place / "mixed")
        with cluster(raylets=4, cores=1, folder=disk, apart=True) as found:
            steps = ["Connected to Ray", "preprocess prepare", "preprocess deduplicate"]
            assert losing(found, command(place / "mixed", place / "out"), disk, steps) == steps
        assert main(command(place / "mixed", tmp_path / "here", "--workers", "1")) == 0
        assert content(place / "out") == content(tmp_path / "here")
        with cluster(raylets=4, cores=1, folder=disk, apart=True) as found:
            with driver(found, command(place / "mixed", place / "other", "--work-dir", "."), disk) as refused:
                assert refused.stderr is not None
                assert "does not see it; give a disk that all machines share" in refused.stderr.readlines()[-1]
            assert refused.returncode == 2
            end(found, command(place / "mixed", place / "again"), disk, "preprocess deduplicate")
            assert "again" not in {name.split("/")[0] for name in place.listing()}
            assert losing(found, command(place / "mixed", place / "again"), disk, []) == []
            assert content(place / "again") == content(place / "out")
            steps = ["Connected to Ray", "blend measure", "blend scatter"]
            assert losing(found, blending(place / "out", place / "blend"), disk, steps) == steps
        assert main([*blending(tmp_path / "here", tmp_path / "blend"), "--workers", "1"]) == 0
        assert content(place / "blend") == content(tmp_path / "blend")
        assert {name.split("/")[0] for name in place.listing()} == {"mixed", "out", "again", "blend"}
        assert not [path for path in disk.iterdir() if not path.name.startswith(".other")]


def blending(dataset: Path, output: Path) -> list[str]:
    settings = ["--shares.text", "0.6", "--shares.code", "0.4", "--datasets.a.max-repeats", "2", "--shard-size", "40"]
    return ["blend", "--datasets.a.path", str(dataset), "--output-dir", str(output), *settings]


def test_what_passes_through_the_driver_for_a_document_does_not_grow_with_the_corpus() -> None:
    spec = importlib.util.spec_from_file_location("driver_bytes", REPOSITORY / "benchmarks" / "ray_driver_bytes.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    small, large = (benchmark.measured(benchmark.rows, count, shard_size=20) for count in (400, 1600))
    for stage in benchmark.STAGES:
        assert large[stage]["sum"] <= small[stage]["sum"]
        assert large[stage]["sum"] < 200
        assert large[stage]["functions"] <= small[stage]["functions"]


def losing(found: Cluster, asked: list[str], folder: Path, steps: list[str]) -> list[str]:
    """Run a command on a cluster that loses a raylet when each of these words is said; return those that were said."""
    lost: list[str] = []
    said: list[str] = []
    with driver(found, asked, folder) as run:
        assert run.stderr is not None
        for line in run.stderr:
            said.append(line)
            for step in steps:
                if step in line and step not in lost:
                    lost.append(step)
                    found.lose(len(lost))
    assert run.returncode == 0, "".join(said)[-2000:]
    return lost


def end(found: Cluster, asked: list[str], folder: Path, step: str) -> None:
    """Run a command on a cluster, and kill the driver when this is said."""
    with driver(found, asked, folder) as run:
        assert run.stderr is not None
        assert any(step in line for line in run.stderr)
        run.kill()


def driver(found: Cluster, asked: list[str], folder: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "ibidem", *asked, "--runner", "ray", "--ray-address", found.address]
    return subprocess.Popen(words, cwd=folder, env=ray_cluster.environment(), stderr=subprocess.PIPE, text=True)


def _runs(pid: str) -> bool:
    """Tell whether a process is there and no zombie that nobody has reaped."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _fail(task: int) -> int:
    if task == 2:
        raise DataError("task 2 cannot be done")
    return task


@pytest.mark.parametrize(("asked", "threads"), [(2, 2), (3, 3), (16, 3), (48, 3), (None, 3)])
def test_more_workers_than_cores_are_processes_and_no_threads(
    asked: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int) -> None:
            pools.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(engine_module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(engine_module.os, "cpu_count", lambda: 3)
    engine = Engine(EngineConfig(workers=asked))
    assert list(engine.map(str, range(100), processes=False)) == [str(number) for number in range(100)]
    assert pools == [threads]
    assert engine.workers == (asked or 3)
