"""Datasets on S3: moto's server on this machine answers as S3 does."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tests.data.stores import put, put_folder, remove, s3_server
from tests.data.test_stores import _elsewhere, corpus, here, made

from ibidem import artifacts, cli, delivery, places
from ibidem.data.pipeline import prepare
from ibidem.errors import StoreError
from ibidem.places import StorePath

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]
__all__ = ["_elsewhere", "corpus", "here"]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, StorePath]]:
    """A server, and a folder of a bucket on it."""
    bucket = tmp_path.name.replace("_", "-").lower()  # what one server holds, the next one of this process holds too
    with s3_server(bucket, monkeypatch) as server:
        yield server, StorePath(f"s3://{bucket}/team")


def test_a_dataset_there_and_back_has_the_bytes_of_one_that_is_made_here(
    s3: tuple[Any, StorePath], corpus: Path, here: artifacts.Artifact
) -> None:
    store = s3[1]
    there = made(corpus, store / "out", workers=2)
    assert (there.digest, there.files) == (here.digest, here.files)
    assert sorted((store / "out").listing()) == sorted([*here.files, "manifest.json"])
    put_folder(corpus, store / "project")
    digests = {made(store / "project", store / f"again{workers}", workers=workers).digest for workers in (1, 2)}
    assert len(digests) == 1
    counts = dict(artifacts.load(store / "again1").counts)
    assert {**counts, "source": 0, "clones": 0} == {**here.counts, "source": 0, "clones": 0}
    assert cli.main(["verify", str(store / "again1")]) == 0
    assert not list(Path.cwd().iterdir())


def test_what_goes_wrong_is_one_line(
    s3: tuple[Any, StorePath], corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, store = s3
    put_folder(corpus, store / "project")

    def told(source: object, output: object) -> str:
        settings = ["--dataset", f"{source}:train:text", "--output-dir", str(output), "--workers", "1"]
        assert cli.main(["preprocess", *settings]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "s3://no-such-bucket/out: The specified bucket does not exist" in told(corpus, "s3://no-such-bucket/out")
    assert "'s3://no-such-bucket/x': no such file or folder" in told("s3://no-such-bucket/x", store / "out")
    put(store, "mine/notes.txt", b"x")
    assert f"{store}/mine exists and is not a dataset" in told(corpus, store / "mine")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    store.place.files.clear_instance_cache()
    assert "Unable to locate credentials" in told(corpus, store / "out")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    store.place.files.clear_instance_cache()
    server.stop()
    assert f"{store}/out: Could not connect" in told(corpus, store / "out")


def test_a_server_that_goes_away_in_the_middle_ends_the_run_and_the_next_one_goes_on(
    s3: tuple[Any, StorePath], corpus: Path, here: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = s3
    put_folder(corpus, store / "project")
    usual, count = delivery._send, iter(range(100))

    def send(*task: Any) -> delivery.Part:
        if next(count) == 4:
            server.stop()
        return usual(*task)

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "_send", send)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(StoreError, match="Could not connect to the endpoint URL"):
            made(corpus, store / "out")
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    store.place.files.clear_instance_cache()
    assert "manifest.json" not in (store / "out").listing()
    monkeypatch.setattr(prepare, "_prepare_shard", lambda *_, **__: pytest.fail("what was done is done again"))
    assert made(corpus, store / "out").digest == here.digest
    assert sorted((store / "out").listing()) == sorted([*here.files, "manifest.json"])


@pytest.mark.parametrize("size", [7, 60_000_000])  # in one piece, and in parts
def test_an_upload_that_is_interrupted_leaves_nothing(
    s3: tuple[Any, StorePath], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    _, bucket = s3
    source = tmp_path / "source"
    source.write_bytes(size * b"x")
    whole = places.stream

    def interrupted(content: IO[bytes], sink: IO[bytes]) -> str:
        whole(content, sink)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(places, "stream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            places.send(source, bucket / "file")
    assert not (bucket / "file").is_file()
    places.send(source, bucket / "file")
    assert (bucket / "file").stat().st_size == size


def test_a_manifest_is_written_only_if_there_is_none(s3: tuple[Any, StorePath], tmp_path: Path) -> None:
    (tmp_path / "part").write_text("x")
    made_there = delivery.deliver({}, {"part": tmp_path / "part"}, s3[1], kind="dataset", known=(), engine=None)
    put(s3[1], "manifest.json", b"another")
    with pytest.raises(StoreError, match="another run writes there"):
        made_there.seal("manifest.json", "{}")
    assert (s3[1] / "manifest.json").read_bytes() == b"another"


def test_an_object_that_changes_while_it_is_read_is_refused(s3: tuple[Any, StorePath]) -> None:
    put(s3[1], "a.txt", b"one")
    path = s3[1] / "a.txt"
    with path.open("rb") as file:
        put(s3[1], "a.txt", b"two")
        with pytest.raises(StoreError, match=r"a\.txt: it has changed since it was listed"):
            file.read()
    pinned = path.pinned(path.held().stamp)
    assert pinned.read_bytes() == b"two"
    put(s3[1], "a.txt", b"333")
    with pytest.raises(StoreError, match="it has changed since it was listed"):
        pinned.read_bytes()
    remove(path)
    with pytest.raises(StoreError, match="it is gone since it was listed"):
        pinned.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("work_dir", "kills"), [("here", 20), ("there", 8)])
def test_kills_at_any_moment_and_then_the_same_bytes(
    work_dir: str, kills: int, s3: tuple[Any, StorePath], corpus: Path
) -> None:
    store = s3[1]
    place = "." if work_dir == "here" else f"{store}/work"
    put_folder(corpus, store / "project")
    expected = made(store / "project", store / "expected", workers=2)
    command = [sys.executable, "-m", "ibidem", "preprocess", "--dataset", f"{store}/project:train:text"]
    command += ["--workers", "2", "--shard-size", "8", "--work-dir", place, "--output-dir"]
    started = time.monotonic()
    subprocess.run([*command, str(store / "timed")], check=True)
    whole_s = time.monotonic() - started
    rng, killed = random.Random(0), 0
    while killed < kills:
        run = subprocess.Popen([*command, str(store / "out")], start_new_session=True)
        try:
            run.wait(rng.uniform(0.4, 1) * whole_s)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            killed += 1
        run.wait()
        if "manifest.json" in (store / "out").listing():
            assert artifacts.verify(store / "out").digest == expected.digest
            files, path = (store / "out").place
            files.rm(path, recursive=True)
    subprocess.run([*command, str(store / "out")], check=True)
    assert artifacts.verify(store / "out").digest == expected.digest
    assert sorted((store / "out").listing()) == sorted([*expected.files, "manifest.json"])
    assert not list(Path.cwd().iterdir())
