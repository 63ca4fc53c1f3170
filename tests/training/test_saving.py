"""A checkpoint that cannot be saved costs no run; one that can is read by any number of processes, and runs no code."""

import json
import os
import pickle
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from tests import processes
from tests.processes import together
from tests.training.test_resume import LAUNCHER, Settings, changed, losses, steps_of, train
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint import load as load_by_torch
from torch.nn.parallel import DistributedDataParallel

from ibidem import artifacts
from ibidem.errors import CheckpointError
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.tensor_files import Part, files_of, name_of_file, opened, write
from ibidem.training import saving, sharding, snapshot
from ibidem.training.config import OptimConfig
from ibidem.training.guard import Guard
from ibidem.training.loop import Learner
from ibidem.training.optim import make_optimizer
from ibidem.training.pretraining import Pretraining

SHAPE = ModelConfig(vocab_size=97, width=32, layers=2, heads=2, ffn_hidden=48, context=16)
KINDS = {"alone": 1, "ddp": 2, "fsdp": 2, "fsdp of 4": 4}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB, in a mount namespace whose files the system shows below /proc."""
    (tmp_path / "mounted").mkdir()
    mounts = f"mount -t tmpfs -o size=16m tmpfs {tmp_path / 'mounted'} && echo ready && exec cat"
    with subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", mounts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as keeper:
        assert keeper.stdout is not None
        if keeper.stdout.readline() != b"ready\n":
            pytest.skip("needs Linux namespaces")
        yield Path(f"/proc/{keeper.pid}/root{tmp_path}/mounted")
        keeper.kill()


def fill(disk: Path) -> None:
    """Take the last byte of a disk."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def at_steps(monkeypatch: pytest.MonkeyPatch, actions: dict[int, object]) -> None:
    """Call functions at the beginning of steps."""
    usual = Pretraining.begin

    def begin(self: Pretraining, model: torch.nn.Module, now: int) -> None:
        usual(self, model, now)
        if now in actions:
            actions[now]()

    monkeypatch.setattr(Pretraining, "begin", begin)


def events_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_costs_a_checkpoint_and_neither_the_run_nor_an_event(
    asynchronous: bool, small_disk: Path, train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_disk / "run"

    def make_room() -> None:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        assert artifacts.verify(run / "checkpoints" / "step-000010")
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000010"]
        (small_disk / "filler").unlink()

    at_steps(monkeypatch, {12: lambda: fill(small_disk), 25: make_room})
    settings = changed(train_settings, checkpoints__every=10, checkpoints__asynchronous=asynchronous)
    train(settings, output_dir=run, data__cache_dir=tmp_path / "tokens")
    assert sorted(steps_of(run)) == [10, 30, 40]
    assert sorted(losses(run)) == list(range(1, 41))
    lost = [event for event in events_of(run) if event["event"] == "checkpoint.not_saved"]
    assert [event["step"] for event in lost] == [20]
    assert "the disk is full" in str(lost[0]["reason"])
    assert all(artifacts.verify(run / "checkpoints" / f"step-{step:06d}") for step in (10, 30, 40))


def test_a_last_checkpoint_that_cannot_be_saved_ends_the_run_in_one_line(
    small_disk: Path, train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_disk / "run"
    at_steps(monkeypatch, {12: lambda: fill(small_disk)})
    with pytest.raises(CheckpointError, match=r"step-000020 was not saved: the disk is full .*; make room, and go on"):
        train(
            train_settings,
            output_dir=run,
            data__cache_dir=tmp_path / "tokens",
            checkpoints__every=10,
            training__steps=20,
        )
    assert steps_of(run) == [10]
    assert artifacts.verify(run / "checkpoints" / "step-000010")


FULL_FOR_ONE = """
import os, resource, runpy
if os.environ["RANK"] == "1":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
runpy.run_path({launcher!r}, run_name="__main__")
"""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_is_full_for_one_of_two_processes_is_reported_by_the_main_one(
    asynchronous: bool, train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sharding.FLAG, "true")
    settings = changed(train_settings, training__steps=4, checkpoints__every=2, validation__every=4)
    settings = changed(settings, training__num_processes=2, checkpoints__asynchronous=asynchronous)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    (tmp_path / "full.py").write_text(FULL_FOR_ONE.format(launcher=str(LAUNCHER)))
    started = processes.start_all(tmp_path / "full.py", ["--config", str(tmp_path / "config.yaml")], tmp_path)
    for process in started:
        process.join(120)
    run = tmp_path / "run"
    assert [process.exitcode for process in started] == [2, 2]
    assert sorted(losses(run)) == [1, 2, 3, 4]
    lost = [event for event in events_of(run) if event["event"] == "checkpoint.not_saved"]
    assert [event["step"] for event in lost] == [2]
    assert str(lost[0]["reason"]).startswith("process 1: the disk is full")
    assert not list((run / "checkpoints").iterdir())
    said = [(tmp_path / f"said-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert "step-000004 was not saved: process 1: the disk is full" in said[0][-1]
    assert "Traceback" not in "\n".join(said[0] + said[1])


def test_the_next_steps_do_not_wait_for_a_checkpoint_and_do_not_change_it(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(train_settings, checkpoints__every=10, checkpoints__keep_last=9)
    train(settings, output_dir=tmp_path / "waits")
    gone_on, usual = threading.Event(), saving.write

    def write_later(path: Path, parts: Sequence[Part]) -> str:
        assert gone_on.wait(60), "the steps wait for the checkpoint"
        return usual(path, parts)

    monkeypatch.setattr(saving, "write", write_later)
    at_steps(monkeypatch, {15: gone_on.set, 31: gone_on.clear, 35: gone_on.set})
    train(settings, output_dir=tmp_path / "goes on", checkpoints__asynchronous=True)
    for run in ("waits", "goes on"):
        assert sorted(steps_of(tmp_path / run)) == [10, 20, 30, 40]
    for number in (10, 20, 30, 40):
        found = [
            artifacts.verify(tmp_path / run / "checkpoints" / f"step-{number:06d}") for run in ("waits", "goes on")
        ]
        assert found[0].digest == found[1].digest


def learner_of(kind: str) -> Learner:
    model = Decoder(SHAPE)
    model.init_weights(0)
    if kind.startswith("fsdp"):
        sharding.shard(model, torch.device("cpu"))
    optimizer = make_optimizer(model, OptimConfig(name="muon", lr=0.01))
    wrapped = DistributedDataParallel(model) if kind == "ddp" else model
    return Learner(wrapped, optimizer, Guard(torch.device("cpu"), clip=1.0, spike_factor=None, scales=False))


def step(learner: Learner, seed: int) -> None:
    ids = torch.randint(97, (1, 17), generator=torch.Generator().manual_seed(seed))
    learner.model(ids[:, :-1], ids[:, 1:]).backward()
    learner.optimizer.step()
    learner.optimizer.zero_grad()


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Return weights and optimizer states, whole, by name."""
    module = snapshot._unwrapped(learner.model)
    found = [*module.state_dict().items(), *snapshot._optimizer_states(learner)]
    return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).clone() for name, t in found}


def save_and_load(rank: int, port: int, folder: Path, kinds: tuple[str, ...], *, loads: bool) -> None:
    """Save what a kind of run learned; or load what every kind saved, and compare it to the bit."""
    number = KINDS[kinds[0]]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(number))
    torch.set_num_threads(1)
    if number > 1:
        dist.init_process_group("gloo", rank=rank, world_size=number)
    for kind in kinds:
        if not loads:
            learner = learner_of(kind)
            step(learner, 1)
            taken = snapshot.take(learner, is_main=rank == 0)
            for name, parts in (("model", taken.weights), ("optimizer", taken.optimizer)):
                if kind.startswith("fsdp"):
                    write(folder / kind / name_of_file(name, rank, number), parts)
                elif rank == 0:
                    write(folder / kind / f"{name}.safetensors", parts)
            whole = state_of(learner)
            if rank == 0:
                torch.save(whole, folder / f"{kind}.pt")
            continue
        for other in sorted(path.stem for path in folder.glob("*.pt")):
            learner = learner_of(kind)
            step(learner, 2)
            with (
                opened(files_of(folder / other, "model")) as weights,
                opened(files_of(folder / other, "optimizer")) as states,
            ):
                snapshot.restore_weights(learner, weights)
                snapshot.restore_optimizer(learner, states)
            found, expected = state_of(learner), torch.load(folder / f"{other}.pt", weights_only=True)
            assert found.keys() == expected.keys(), (kind, other)
            assert all(torch.equal(found[name], expected[name]) for name in expected), (kind, other)
            step(learner, 3)
    if number > 1:
        dist.destroy_process_group()


def _save_and_load(rank: int, port: int, folder: Path, kinds: tuple[str, ...], loads: bool) -> None:
    save_and_load(rank, port, folder, kinds, loads=loads)


@pytest.mark.parametrize("most", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_any_kind_of_run_saved_every_other_loads_to_the_bit(most: int, tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / kind).mkdir()
    for loads in (False, True):
        for kinds in (("alone",), ("ddp", "fsdp"), ("fsdp of 4",))[: 1 + most // 2]:
            together(_save_and_load, tmp_path, kinds, loads, processes=KINDS[kinds[0]])
    assert [len(files_of(tmp_path / kind, "model")) for kind in KINDS] == [1, 1, 2, 4 * (most == 4)]
    expected = torch.load(tmp_path / "fsdp.pt", weights_only=True)
    found = {name: torch.zeros_like(tensor) for name, tensor in expected.items() if "/" not in name}
    with pytest.warns(UserWarning, match="single process"):
        load_by_torch(found, storage_reader=HuggingFaceStorageReader(str(tmp_path / "fsdp" / "model")))
    assert all(torch.equal(found[name], expected[name]) for name in found), "torch's own reader reads them"


def test_rows_that_are_missing_or_of_two_checkpoints_are_refused(tmp_path: Path) -> None:
    rows = torch.arange(12.0).reshape(6, 2)
    for process, (first, last) in enumerate(((0, 3), (3, 6))):
        write(tmp_path / name_of_file("model", process, 2), [Part("w", rows[first:last], first, 6)])
    with opened(files_of(tmp_path, "model")) as tensors:
        assert torch.equal(tensors.read("w"), rows)
        assert torch.equal(tensors.read("w", 2, 3), rows[2:5])
    for files in (
        files_of(tmp_path, "model")[:1],
        files_of(tmp_path, "model")[1:],
        files_of(tmp_path, "model")[:1] * 2,
    ):
        with pytest.raises(CheckpointError, match="w is not whole"), opened(files):
            pass


@pytest.fixture(scope="module")
def sharded_run(
    dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A run of two FSDP processes, with checkpoints at steps 2 and 4 of 6."""
    folder = tmp_path_factory.mktemp("sharded")
    settings = {
        "model": model_file,
        "output_dir": folder / "run",
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 32},
        "training": {"steps": 6, "batch_sequences": 2, "mixed_precision": "no", "num_processes": 2, "stop_at_step": 4},
        "validation": {"every": 6, "windows": 2},
        "checkpoints": {"every": 2, "asynchronous": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sharding.FLAG, "true")
        processes.launch(LAUNCHER, ["--config", str(folder / "config.yaml")], folder)
    return changed(settings, training__num_processes=1, training__stop_at_step=5)


class RunsCode:
    """A pickle of it writes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def flip_four(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(len(data) - 64, len(data) - 60):
        data[place] ^= 0x55
    path.write_bytes(data)


DAMAGES = {
    "four bytes of the weights": lambda new, _: flip_four(new / "model" / "00002-of-00002.safetensors"),
    "four bytes of the optimizer": lambda new, _: flip_four(new / "optimizer" / "00001-of-00002.safetensors"),
    "a part of another step": lambda new, old: shutil.copy(
        old / "model" / "00001-of-00002.safetensors", new / "model" / "00001-of-00002.safetensors"
    ),
    "a truncated part": lambda new, _: os.truncate(new / "optimizer" / "00002-of-00002.safetensors", 4096),
    "a missing process": lambda new, _: (new / "model" / "00002-of-00002.safetensors").unlink(),
    "a process too many": lambda new, _: shutil.copy(
        new / "model" / "00002-of-00002.safetensors", new / "model" / "00003-of-00003.safetensors"
    ),
    "whole weights beside the parts": lambda new, _: shutil.copy(
        new / "model" / "00001-of-00002.safetensors", new / "model.safetensors"
    ),
    "random states of another step": lambda new, _: (new / "random_states_1.json").write_text("{}\n"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_no_damage_of_a_sharded_checkpoint_is_loaded(name: str, sharded_run: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sharded_run["output_dir"], run)
    new, old = (run / "checkpoints" / f"step-{step:06d}" for step in (4, 2))
    DAMAGES[name](new, old)
    with pytest.raises(CheckpointError, match="step-000004"):
        train(sharded_run, output_dir=run, training__resume_from=new)
    with pytest.raises(CheckpointError, match="step-000004"):
        train(sharded_run, output_dir=tmp_path / "other", initial=new)


@pytest.mark.parametrize("file", ["optimizer.bin", ".metadata", "random_states_0.pkl", "model.safetensors"])
@pytest.mark.parametrize("replaces", [True, False])
def test_a_foreign_pickle_in_a_sealed_checkpoint_runs_no_code(
    file: str, replaces: bool, sharded_run: Settings, tmp_path: Path
) -> None:
    """Whoever made it sealed it: every digest is right."""
    mark, new = tmp_path / "mark", tmp_path / "run" / "checkpoints" / "step-000004"
    old = artifacts.load(Path(sharded_run["output_dir"]) / "checkpoints" / "step-000004")
    with artifacts.create(new, kind=old.kind, config=old.config, inputs=old.inputs) as draft:
        shutil.copytree(old.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        if replaces:
            shutil.rmtree(draft.path / "optimizer")
            shutil.rmtree(draft.path / "model")
        (draft.path / file).write_bytes(pickle.dumps(RunsCode(mark)))
        draft.counts |= old.counts
    if replaces or file == "model.safetensors":
        with pytest.raises(CheckpointError, match="step-000004"):
            train(sharded_run, output_dir=tmp_path / "run", training__resume_from=new)
    else:
        train(sharded_run, output_dir=tmp_path / "run", training__resume_from=new)
    assert not mark.exists()
    pickle.loads((new / file).read_bytes())
    assert mark.exists(), "the pickle would have run"


def test_states_of_another_optimizer_are_refused(sharded_run: Settings, tmp_path: Path) -> None:
    shutil.copytree(sharded_run["output_dir"], tmp_path / "run")
    with pytest.raises(CheckpointError, match="the states are those of AdamW, and this run has Muon"):
        train(sharded_run, output_dir=tmp_path / "run", training__resume_from="latest", optim__name="muon")


def test_a_checkpoint_of_the_format_before_is_refused_in_one_line(sharded_run: Settings, tmp_path: Path) -> None:
    old = artifacts.load(Path(sharded_run["output_dir"]) / "checkpoints" / "step-000004")
    new = tmp_path / "run" / "checkpoints" / "step-000004"
    with artifacts.create(new, kind=old.kind, config=old.config, inputs=old.inputs) as draft:
        shutil.copytree(old.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        (draft.path / "progress.json").write_text('{"step": 4, "guard": [0, 0, 1, 0], "sharded": true}\n')
    with pytest.raises(CheckpointError, match="pickles, which are not read: start a new run from its weights"):
        train(sharded_run, output_dir=tmp_path / "run", training__resume_from="latest")
