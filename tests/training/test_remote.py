"""Copies of checkpoints: whole or not there, never in the way of a run, and enough to go on from."""

import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import fsspec
import pytest
from tests.training.test_resume import Settings, changed, losses, steps_of, train, weights
from tests.training.test_saving import at_steps, events_of

from ibidem import artifacts, log, places, remote
from ibidem.errors import CheckpointError, ConfigError
from ibidem.runs import folder_of


@pytest.fixture
def memory() -> Iterator[str]:
    """A store in memory."""
    files = fsspec.filesystem("memory")
    yield "memory://bucket/run"
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> str:
    """A URL of each kind of store that is here."""
    return f"file://{tmp_path}/remote" if request.param == "file" else memory


@pytest.fixture(scope="module")
def whole(dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run with checkpoints at steps 4 and 8 of 8."""
    settings = {
        "model": model_file,
        "output_dir": tmp_path_factory.mktemp("whole") / "run",
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 32},
        "training": {"steps": 8, "batch_sequences": 2, "mixed_precision": "no"},
        "validation": {"every": 8, "windows": 2},
        "checkpoints": {"every": 4},
    }
    settings["data"]["cache_dir"] = settings["output_dir"].parent / "tokens"
    train(settings)
    return settings


def copied(run: Path) -> list[int]:
    return [int(str(each["path"])[-6:]) for each in events_of(run) if each["event"] == "checkpoint.copied"]


def test_a_run_on_a_machine_that_is_gone_goes_on_elsewhere_to_the_bit(
    url: str, whole: Settings, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(whole, output_dir=first, checkpoints__copy_to=url, training__stop_at_step=4)
    assert copied(first) == [4]
    sealed = artifacts.load(folder_of(first, 4)).digest
    shutil.rmtree(first)
    train(whole, output_dir=second, training__resume_from=url)
    assert weights(second, 8) == weights(whole["output_dir"], 8)
    assert losses(second) == {step: loss for step, loss in losses(whole["output_dir"]).items() if step > 4}
    found = artifacts.verify(folder_of(second, 4))
    assert found.digest == sealed
    assert stat.S_IMODE(found.path.stat().st_mode) == stat.S_IMODE(folder_of(second, 8).stat().st_mode)


def test_the_first_start_begins_and_later_ones_take_what_is_newer_here_or_there(
    memory: str, whole: Settings, tmp_path: Path
) -> None:
    settings = changed(whole, output_dir=tmp_path / "run", checkpoints__copy_to=memory, training__resume_from=memory)
    train(settings, training__stop_at_step=4)
    train(settings, checkpoints__copy_to=None, training__stop_at_step=6)
    train(settings, training__stop_at_step=7)
    starts = [event["step"] for event in events_of(tmp_path / "run") if event["event"] == "train.started"]
    assert starts == [0, 4, 6]
    assert not [event for event in events_of(tmp_path / "run") if event["event"] == "checkpoint.fetched"]
    with (folder_of(tmp_path / "run", 7) / "model.safetensors").open("r+b") as file:
        file.write(b"\1")
    shutil.rmtree(folder_of(tmp_path / "run", 6))
    train(settings)
    events = events_of(tmp_path / "run")
    assert [event["step"] for event in events if event["event"] == "train.started"] == [0, 4, 6, 7]
    assert weights(tmp_path / "run", 8) == weights(whole["output_dir"], 8)


class GoneError(OSError):
    """What a store says that cannot be reached."""


def test_a_store_that_vanishes_stops_no_run_and_gets_the_newest_when_it_is_back(
    url: str, whole: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_RETRY_S", 0.01)
    usual, gone, failed = remote.copy, threading.Event(), threading.Event()

    def copy(folder: Path, place: remote.Place, done: set[str], moved: Callable[[], None]) -> None:
        if gone.is_set():
            failed.set()
            raise GoneError("connection refused")
        usual(folder, place, done, moved)

    def comes_back() -> None:
        assert failed.wait(60)
        gone.clear()

    monkeypatch.setattr(remote, "copy", copy)
    at_steps(monkeypatch, {1: gone.set, 7: comes_back})
    train(whole, output_dir=tmp_path / "run", checkpoints__copy_to=url, checkpoints__every=2, checkpoints__keep_last=1)
    assert copied(tmp_path / "run")[-1] == 8
    lost = [event for event in events_of(tmp_path / "run") if event["event"] == "checkpoint.not_copied"]
    assert "connection refused; it is tried again" in str(lost[0]["reason"])
    assert steps_of(tmp_path / "run") == [8] or set(steps_of(tmp_path / "run")) <= {6, 8}
    elsewhere = remote.fetch(url, tmp_path / "elsewhere", "checkpoint", beyond=-1)
    assert elsewhere is not None
    assert artifacts.verify(elsewhere).digest == artifacts.load(folder_of(tmp_path / "run", 8)).digest


def test_a_store_that_nobody_may_write_to_is_reported_and_the_run_ends_well(whole: Settings, tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("a file, where a folder should be")
    train(
        whole, output_dir=tmp_path / "run", checkpoints__copy_to=f"file://{tmp_path}/remote",
        training__timeout_minutes=0.001,
    )  # fmt: skip
    reasons = [str(each["reason"]) for each in events_of(tmp_path / "run") if each["event"] == "checkpoint.not_copied"]
    assert reasons[-1].startswith("the run ends: file://")
    assert len(losses(tmp_path / "run")) == 8


def place_with(run: Path, url: str, steps: tuple[int, ...]) -> remote.Place:
    place = remote.opened(url)
    for step in steps:
        remote.copy(folder_of(run, step), place, set())
    return place


def test_a_copy_is_not_there_before_its_manifest(url: str, whole: Settings, tmp_path: Path) -> None:
    place = place_with(whole["output_dir"], url, (4, 8))
    place.files.rm_file(place.at("step-000008", "manifest.json"))
    fetched = remote.fetch(url, tmp_path / "run", "checkpoint", beyond=-1)
    assert fetched == folder_of(tmp_path / "run", 4)
    assert remote.fetch(url, tmp_path / "run", "checkpoint", beyond=4) is None


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "of another step"])
def test_a_damaged_copy_is_refused_and_the_one_before_is_taken(
    damage: str, url: str, whole: Settings, tmp_path: Path
) -> None:
    place = place_with(whole["output_dir"], url, (4, 8))
    path = place.at("step-000008", "optimizer.safetensors")
    data = place.files.cat_file(path)
    if damage == "missing":
        place.files.rm_file(path)
    else:
        other = place.files.cat_file(place.at("step-000004", "optimizer.safetensors"))
        flipped = data[:-70] + bytes(byte ^ 0x55 for byte in data[-70:-66]) + data[-66:]
        place.files.pipe_file(path, {"changed": flipped, "truncated": data[:-9], "of another step": other}[damage])
    assert remote.fetch(url, tmp_path / "run", "checkpoint", beyond=-1) == folder_of(tmp_path / "run", 4)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000004"]
    place.files.rm(place.at("step-000004"), recursive=True)
    with pytest.raises(CheckpointError, match=r"no copy is whole; step-000008/optimizer\.safetensors"):
        remote.fetch(url, tmp_path / "other", "checkpoint", beyond=-1)


def test_a_retrained_step_replaces_its_copy_and_a_step_that_is_there_is_not_sent_again(
    memory: str, whole: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_with(whole["output_dir"], memory, (4,))
    train(whole, output_dir=tmp_path / "run", optim__lr=1e-4, training__stop_at_step=4)
    remote.copy(folder_of(tmp_path / "run", 4), place, set())
    fetched = remote.fetch(memory, tmp_path / "elsewhere", "checkpoint", beyond=-1)
    assert fetched is not None
    assert artifacts.load(fetched).digest == artifacts.load(folder_of(tmp_path / "run", 4)).digest
    monkeypatch.setattr(remote, "stream", lambda *_: pytest.fail("it is sent again"))
    remote.copy(folder_of(tmp_path / "run", 4), place, set())


def test_what_is_damaged_here_is_not_copied(memory: str, whole: Settings, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(whole["output_dir"], 4), tmp_path / "step-000004")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"12345678")
    with pytest.raises(RuntimeError, match="damaged"):
        remote.copy(folder, remote.opened(memory), set())
    assert remote.fetch(memory, tmp_path / "run", "checkpoint", beyond=-1) is None


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/ibidem-escaped", "a/../../../escaped"])
def test_a_manifest_at_a_remote_writes_nothing_outside_of_its_folder(name: str, memory: str, tmp_path: Path) -> None:
    with artifacts.create(tmp_path / "made" / "step-000009", kind="checkpoint", config={}) as draft:
        (draft.path / "file").write_text("x")
    manifest = json.loads((tmp_path / "made" / "step-000009" / "manifest.json").read_text())
    manifest["files"] = {name: manifest["files"]["file"]}
    manifest["digest"] = digest_of(manifest)
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/run/step-000009/manifest.json", json.dumps(manifest).encode())
    files.pipe_file("/bucket/run/escaped", b"x")
    with pytest.raises(CheckpointError, match="outside of its folder"):
        remote.fetch(memory, tmp_path / "run", "checkpoint", beyond=-1)
    assert not list(tmp_path.rglob("*escaped"))
    assert not Path("/tmp/ibidem-escaped").exists()


def digest_of(manifest: Settings) -> str:
    """Return the digest that a manifest ought to have."""
    files = {name: artifacts.File(**each) for name, each in manifest["files"].items()}
    made = artifacts.Artifact(
        Path(), manifest["kind"], manifest["version"], "", (), manifest["config"], manifest["counts"], files, {}
    )
    return artifacts._digest(made)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoints__copy_to": "nowhere://x"}, "nowhere://x: Protocol not known: nowhere"),
        ({"training__resume_from": "nowhere://x"}, "nowhere://x: Protocol not known: nowhere"),
        ({"checkpoints__copy_to": "no-url"}, "checkpoints.copy_to"),
    ],
)
def test_a_url_that_cannot_work_is_told_before_anything_is_written(
    changes: Settings, said: str, train_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(train_settings, **changes)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gcs"), ("abfs", "azure")])
def test_a_missing_package_is_named(protocol: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str, **__: object) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=rf"{protocol}://bucket/run: pip install 'ibidem\[{extra}\]'"):
        remote.opened(f"{protocol}://bucket/run")


def test_a_store_that_cannot_be_read_starts_nothing(
    whole: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise GoneError("connection refused")

    monkeypatch.setattr(remote, "_steps", refuse)
    with pytest.raises(
        CheckpointError, match="memory://bucket/run: cannot be read: connection refused; nothing was started"
    ):
        train(whole, output_dir=tmp_path / "run", training__resume_from="memory://bucket/run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_while_a_store_is_gone_a_damaged_run_is_left_and_not_begun_again(
    memory: str, whole: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_with(whole["output_dir"], memory, (4,))
    run = tmp_path / "run"
    train(whole, output_dir=run, training__stop_at_step=4)
    with (folder_of(run, 4) / "model.safetensors").open("r+b") as file:
        file.write(b"\1")

    def refuse(*_: object) -> None:
        raise GoneError("connection refused")

    with monkeypatch.context() as gone:
        gone.setattr(remote, "_steps", refuse)
        for _ in range(2):
            with pytest.raises(CheckpointError, match="cannot be read"):
                train(whole, output_dir=run, training__resume_from=memory)
    with pytest.raises(CheckpointError, match="no checkpoint in .* is intact"):
        train(whole, output_dir=run, training__resume_from="latest")
    train(whole, output_dir=run, training__resume_from=memory)
    assert [event["step"] for event in events_of(run) if event["event"] == "train.started"] == [0, 4]
    assert (run / "checkpoints" / "damaged-0-step-000004").is_dir()


def test_a_copy_of_what_is_private_on_a_disk_is_its_owners(tmp_path: Path) -> None:
    config = {"readers": {"read": ["ada"], "deny": []}}
    with artifacts.create(tmp_path / "step-000004", kind="checkpoint", config=config, is_private=True) as draft:
        (draft.path / "file").write_text("x")
    remote.copy(tmp_path / "step-000004", remote.opened(f"file://{tmp_path}/remote"), set())
    assert stat.S_IMODE((tmp_path / "remote" / "step-000004").stat().st_mode) == 0o700


def sealed(folder: Path) -> Path:
    with artifacts.create(folder, kind="checkpoint", config={}) as draft:
        (draft.path / "file").write_bytes(bytes(64))
    return folder


def not_copied(events: Path) -> list[str]:
    found = [json.loads(line) for line in events.read_text().splitlines()]
    return [event["reason"] for event in found if event["event"] == "checkpoint.not_copied"]


def test_a_store_that_hangs_without_an_error_keeps_no_run_from_its_end(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(remote, "copy", lambda *_: answers.wait())
    with log.recording(tmp_path / "events.jsonl"):
        copier = remote.Copier(memory)
        copier.offer(sealed(tmp_path / "step-000004"))
        copier.close(60.0, silence_s=0.3)
    answers.set()
    (said,) = not_copied(tmp_path / "events.jsonl")
    assert said == f"the run ends: {memory}: nothing has arrived for 0.3 s, and no error came"


def test_a_store_that_is_slow_but_takes_what_it_gets_is_waited_for(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock by which each byte takes five seconds."""
    clock, written = SimpleNamespace(now=0.0, monotonic=lambda: clock.now), list[bytes]()
    monkeypatch.setattr(remote, "time", clock)
    monkeypatch.setattr(places, "CHUNK_BYTES", 1)
    usual = places.stream

    def slowly(source: BinaryIO, sink: BinaryIO, moved: Callable[[], None]) -> str:
        def later() -> None:
            clock.now += 5
            moved()
            time.sleep(0.01)
            written.append(b"")

        return usual(source, sink, later)

    monkeypatch.setattr(remote, "stream", slowly)
    with log.recording(tmp_path / "events.jsonl"):
        copier = remote.Copier(memory)
        copier.offer(sealed(tmp_path / "step-000004"))
        copier.close(8.0, silence_s=8.0)
    assert len(written) == 64
    assert not_copied(tmp_path / "events.jsonl") == []
    assert "step-000004/manifest.json" in " ".join(remote.opened(memory).files.find(memory))


def test_a_copy_of_another_tokenizer_is_refused(memory: str, whole: Settings, dataset: Path, tmp_path: Path) -> None:
    from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer

    place_with(whole["output_dir"], memory, (4,))
    other = tmp_path / "other"
    train_tokenizer(TrainTokenizerConfig(input=dataset, output_dir=other, vocab_size=512, held_out_share=0.2))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        train(
            whole, output_dir=tmp_path / "run", training__resume_from=memory, data__tokenizer=other,
            data__cache_dir=tmp_path / "tokens",
        )  # fmt: skip


def test_more_processes_than_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ibidem.training import processes

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU: 2 are here, and 3 processes; start 2"):
        processes._check_device()
