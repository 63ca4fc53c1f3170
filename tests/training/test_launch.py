"""The files of configs/accelerate start one program, which trains, saves and resumes the same under each of them."""

import json
import re
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate.commands.launch import launch_command_parser
from tests import processes
from tests.conftest import REPOSITORY
from tests.processes import together
from tests.training.test_resume import LAUNCHER, Settings, changed, losses
from torch.distributed import run as torchrun
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile

from ibidem.config import build, parse
from ibidem.errors import ConfigError
from ibidem.modeling import initialization, tensor_files
from ibidem.modeling.checkpoint import load_model, load_weights
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.heads import RewardModel, ValueDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import sharding
from ibidem.training.config import LoopConfig, TrainConfig
from ibidem.training.processes import start_accelerator

FILES = REPOSITORY / "configs" / "accelerate"
EXACT = 1e-6
"""Relative difference of losses: one unit of float32 in the last place is 6e-8 to 1.2e-7."""


class Start(NamedTuple):
    """A file of configs/accelerate, the number of processes, and over how many the weights are divided."""

    file: str
    processes: int
    wrapper: str
    shards: int = 1


STARTS = {
    "one": Start("single", 1, "one process"),
    "ddp": Start("ddp", 2, "DDP"),
    "fsdp": Start("fsdp", 2, "FSDP", 2),
    "fsdp of 4": Start("fsdp", 4, "FSDP", 4),
    "2 x 2": Start("fsdp", 4, "FSDP", 2),
    "zero3": Start("deepspeed-zero3", 2, "FSDP", 2),
}


def environment_of(file: str) -> dict[str, str]:
    """Return what `accelerate launch --config_file configs/accelerate/FILE.yaml` sets in the environment."""
    from accelerate.commands import launch as command
    from accelerate.utils import launch

    prepared: dict[str, Callable[[Namespace], Mapping[str, str]]] = {
        "simple_launcher": lambda asked: launch.prepare_simple_launcher_cmd_env(asked)[1],
        "multi_gpu_launcher": launch.prepare_multi_gpu_env,
        "deepspeed_launcher": lambda asked: launch.prepare_deepspeed_cmd_env(asked)[1],
    }
    found: list[Mapping[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, prepare in prepared.items():
            patch.setattr(command, name, lambda asked, prepare=prepare: found.append(prepare(asked)))
        command.launch_command(
            launch_command_parser().parse_args(
                ["--config_file", str(FILES / f"{file}.yaml"), "--main_process_port", "0", "train.py"]
            )
        )
    (environment,) = found
    return {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def started(start: Start, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as a file of configs/accelerate starts it, with gloo."""
    shards = start.shards if start.shards not in {1, start.processes} else None
    settings = changed(settings, training__num_processes=start.processes, training__shard_processes=shards)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    with monkeypatch.context() as patch:
        for name, value in environment_of(start.file).items():
            patch.setenv(name, value)
        processes.launch(LAUNCHER, ["--config", str(folder / "config.yaml")], folder, start.processes)


@pytest.fixture
def settings(train_settings: Settings, tmp_path: Path) -> Settings:
    """Twenty steps of four windows, one at a time."""
    changes = {"training__steps": 20, "checkpoints__every": 10, "validation__every": 20, "validation__windows": 3}
    changes |= {"training__micro_batch_sequences": 1, "training__resume_from": "latest"}
    return changed(train_settings, **changes, data__cache_dir=tmp_path / "tokens")


def test_every_file_is_tried_here() -> None:
    assert {start.file for start in STARTS.values()} == {path.stem for path in FILES.glob("*.yaml")}


@pytest.mark.parametrize(
    "name", ["ddp", "fsdp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero3", "2 x 2", "fsdp of 4"))]
)
def test_twenty_steps_of_several_processes_have_the_losses_of_one(
    name: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("one", name):
        started(STARTS[each], changed(settings, output_dir=tmp_path / each), tmp_path, monkeypatch)
        events = [json.loads(line) for line in (tmp_path / each / "events.jsonl").read_text().splitlines()]
        told = next(event for event in events if event["event"] == "train.started")
        assert (told["processes"], told["wrapper"], told["shards"]) == STARTS[each][1:]
    one, several = losses(tmp_path / "one"), losses(tmp_path / name)
    assert len(one) == 20
    assert several == pytest.approx(one, rel=EXACT)
    assert one[20] < 0.95 * one[1], "it learns"
    files = tensor_files.files_of(tmp_path / name / "checkpoints" / "step-000020", "model")
    assert len(files) == STARTS[name].shards
    assert {path.stem[-3:] for path in files} <= {f"00{STARTS[name].shards}", "del"}


@pytest.mark.slow
@pytest.mark.parametrize("before", STARTS)
def test_a_checkpoint_of_every_kind_goes_on_under_every_other(
    before: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(STARTS["one"], changed(settings, output_dir=tmp_path / "whole"), tmp_path, monkeypatch)
    first = changed(settings, output_dir=tmp_path / "first", training__stop_at_step=10)
    started(STARTS[before], first, tmp_path, monkeypatch)
    for after, start in STARTS.items():
        shutil.copytree(tmp_path / "first", tmp_path / after)
        started(start, changed(settings, output_dir=tmp_path / after), tmp_path, monkeypatch)
        assert losses(tmp_path / after) == pytest.approx(losses(tmp_path / "whole"), rel=EXACT)
        load_model(tmp_path / after / "checkpoints" / "step-000020")


SHAPE = ModelConfig(vocab_size=997, width=32, layers=2, heads=2, ffn_hidden=80, context=16, tied=False)
KINDS = {"decoder": Decoder, "values": ValueDecoder, "reward": lambda shape: RewardModel(Decoder(shape))}


def divided(rank: int, port: int, out: Path, kind: str, world: int, shard_processes: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), sharding.FLAG: "true"}.items():
            patch.setenv(name, value)
        patch.setenv("WORLD_SIZE", str(world))
        patch.setattr(initialization, "BLOCK", 1024)
        dist.init_process_group("gloo", rank=rank, world_size=world)
        init_device_mesh("cpu", (world,))  # what only the first mesh takes is not the model's
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as memory:
            with sharding.without_memory():
                model = KINDS[kind](SHAPE)
            training = LoopConfig(steps=1, batch_sequences=1, seed=7, shard_processes=shard_processes)
            sharding.divide(model, torch.device("cpu"), training)
        parts = [
            tensor_files.part_of(name, tensor)
            for name, tensor in model.state_dict().items()
            if sharding.is_saved_here(tensor, is_main=rank == 0)
        ]
        if parts:
            tensor_files.write(out / tensor_files.name_of_file("model", rank, sharding.shards_of(model)), parts)
        memory.export_chrome_trace(str(out / f"trace-{rank}.json"))
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "world", "shard_processes"),
    [
        ("decoder", 2, None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("values", 3, None), ("reward", 2, None), ("decoder", 4, 2), ("decoder", 5, None))
        ),
    ],
)
def test_initial_weights_are_the_same_for_any_number_of_processes_none_of_which_holds_them_all(
    kind: str, world: int, shard_processes: int | None, tmp_path: Path
) -> None:
    together(divided, tmp_path, kind, world, shard_processes, processes=world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialization, "BLOCK", 1024)
        alone, found = KINDS[kind](SHAPE), KINDS[kind](SHAPE)
        alone.init_weights(7)
    load_weights(found, tmp_path)
    for name, expected in alone.state_dict().items():
        assert torch.equal(found.state_dict()[name], expected), name
    own = 4 * SHAPE.parameters / (shard_processes or world)
    padded = own * SHAPE.vocab_size * SHAPE.width / SHAPE.parameters  # FSDP pads one parameter at a time
    for rank in range(world):
        events = json.loads((tmp_path / f"trace-{rank}.json").read_text())["traceEvents"]
        held = [event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]"]
        assert 0.9 * own < max(held) - min(held) < 1.15 * own + padded


def test_no_block_of_rows_is_drawn_twice() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialization, "BLOCK", 64)
        model = Decoder(SHAPE)
        model.init_weights(0)
        other = Decoder(SHAPE)
        other.init_weights(1)
    rows = [
        row for name, tensor in model.named_parameters() if tensor.dim() == 2 for row in tensor.flatten().view(-1, 16)
    ]
    rows += list(other.embedding.weight_VD.flatten().view(-1, 16))
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    flat = torch.cat([tensor.flatten() for name, tensor in model.named_parameters() if name.endswith("weight_VD")])
    assert flat.std().item() == pytest.approx(0.02, rel=0.02)
    assert flat.mean().item() == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({sharding.FLAG: "true"}, r"training.shard_processes=3 does not divide the 4 processes; give a divisor"),
        ({sharding.DEEPSPEED: "true"}, r"training.shard_processes=3 does not divide the 4 processes"),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, "zero_stage: 2: this is not done here; use configs/accelerate/fsdp"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}, "offload_param_device: nvme: this is not done here"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: true: this is not done here"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "megatron_lm_config: true: this is not done here"),
    ],
)
def test_what_the_launcher_asks_for_and_is_not_done_is_one_line_before_any_process_meets_another(
    variables: dict[str, str], said: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "4", **variables}.items():
        monkeypatch.setenv(name, value)
    config = build(TrainConfig, changed(settings, training__shard_processes=3))
    with pytest.raises(ConfigError, match=said) as refused:
        start_accelerator(config)
    assert "\n" not in str(refused.value)


def test_a_model_that_each_process_would_train_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    model, check = Decoder(SHAPE), partial(pytest.raises, ConfigError)
    with check(match="DDP was asked for, but the model is a Decoder: start it as docs/cluster.md says"):
        sharding.check_wrapper(model)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(sharding.FLAG, "true")
    with check(match="FSDP was asked for, but the model is a Decoder"):
        sharding.check_wrapper(model)


STUBS = {
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "scontrol": "echo node-0; echo node-1",
    "accelerate": 'printf "%s\\n" "$@" > "$SAID"',
    "torchrun": 'printf "%s\\n" "$@" > "$SAID"',
}
"""Programs of a cluster, which the scripts of a page are run with; two of them say what they were given."""


def scripts_of_the_page() -> list[str]:
    """Return the scripts in docs/cluster.md that start a training; what SkyPilot runs is one of them."""
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    blocks = re.findall(r"```(bash|yaml)\n(.*?)```", page, re.DOTALL)
    scripts = [text if kind == "bash" else yaml.safe_load(text)["run"] for kind, text in blocks]
    return [script for script in scripts if "ibidem train" in script]


@pytest.mark.parametrize("place", range(3))
def test_the_scripts_of_the_page_on_clusters_start_a_training_that_is_understood(place: int, tmp_path: Path) -> None:
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[0-1]", "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "7"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SAID": str(tmp_path / "said"), "HEAD": "node-0"} | slurm
    environment["SKYPILOT_NUM_GPUS_PER_NODE"] = "8"
    script = scripts_of_the_page()[place]
    done = subprocess.run(["bash", "-eu", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().splitlines()
    if said[0] == "launch":
        asked = launch_command_parser().parse_args(said[1:])
        assert (REPOSITORY / asked.config_file).is_file()
        number = asked.num_processes
    else:
        asked = torchrun.get_args_parser().parse_args(said)
        number = int(asked.nnodes) * int(asked.nproc_per_node)
    assert asked.module
    command = [asked.training_script, *asked.training_script_args]
    assert command[:2] == ["ibidem", "train"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        config = parse(TrainConfig, command[2:])
    assert config.training.resume_from is not None
    assert config.training.num_processes in {None, number}
    assert number % (config.training.shard_processes or 1) == 0
