"""A session takes any objective: its steps begin, its figures are logged, its state comes back."""

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.artifacts import Input
from ibidem.config import build
from ibidem.errors import ArtifactError, CheckpointError
from ibidem.modeling.config import read_model_config
from ibidem.modeling.heads import ValueDecoder
from ibidem.modeling.log_probabilities import Scoring
from ibidem.modeling.modeling_custom import Decoder
from ibidem.runs import folder_of
from ibidem.training import session
from ibidem.training.config import SessionConfig, TrainConfig
from ibidem.training.objective import ObjectiveState
from ibidem.training.processes import start_accelerator
from ibidem.training.train import train

Settings = dict[str, Any]


class Counting:
    """Fit one constant batch; remember how often a step began, and a running mean of the loss."""

    def __init__(self) -> None:
        self.begun = 0
        self.mean = torch.zeros(1)
        self.calls: list[str] = []

    def check(self) -> None:
        self.calls.append("check")

    def begin(self, model: nn.Module, step: int) -> None:
        assert torch.is_grad_enabled()
        self.begun += 1
        self.calls.append(f"begin {step}")

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        ids = (torch.arange(16) * (step + 3) % 512)[None]
        loss = model(ids[:, :-1], ids[:, 1:])
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        self.calls.append(f"loss {step}.{micro}")
        return loss, 15

    def figures(self) -> dict[str, float]:
        return {"mean": float(self.mean), "begun": self.begun}

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        return {"held_out": float(step)}

    def state(self) -> ObjectiveState:
        return ObjectiveState({"mean": self.mean}, {"begun": self.begun})

    def restore(self, state: ObjectiveState) -> None:
        self.mean, self.begun = state.tensors["mean"], state.values["begun"]

    def close(self) -> None:
        self.calls.append("close")


class Valuing(Counting):
    """Fit the constant batch, and its token numbers with the values."""

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        ids = (torch.arange(16) * (step + 3) % 512)[None]
        scores = model(ids[:, :-1], ids[:, 1:], scoring=Scoring())
        return (scores.values_N - torch.arange(15)).square().sum() - scores.log_probs_N.sum(), 15


def settings(tmp_path: Path, name: str, **training: object) -> SessionConfig:
    return build(
        SessionConfig,
        {
            "output_dir": tmp_path / name,
            "training": {"steps": 6, "batch_sequences": 2, "mixed_precision": "no", **training},
            "checkpoints": {"every": 3},
        },
    )


def run(config: SessionConfig, model_file: Path, tokenizer_dir: Path, *, objective: Counting | None = None) -> Counting:
    shape = read_model_config(model_file)
    objective = objective or Counting()

    def build_model() -> Decoder:
        model = ValueDecoder(shape) if isinstance(objective, Valuing) else Decoder(shape)
        model.init_weights(0)
        return model

    tokenizer = artifacts.load(tokenizer_dir).as_input("tokenizer", of=folder_of(config.output_dir, 0))
    made = session.Provenance([tokenizer, Input("data", "sha256:0", "x", is_artifact=False)], tokenizer_dir, shape, {})
    session.run(objective, config, start_accelerator(config), made, build=build_model, tokens_per_step=30)
    return objective


def events(run_dir: Path, name: str) -> list[Settings]:
    rows = [json.loads(line) for line in (run_dir / log.EVENTS).read_text().splitlines()]
    return [row for row in rows if row["event"] == name]


def test_a_step_begins_once_before_its_micro_batches_and_its_figures_are_logged(
    model_file: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    objective = run(settings(tmp_path, "run", steps=2), model_file, tokenizer_dir)
    assert objective.calls == ["check", "begin 0", "loss 0.0", "loss 0.1", "begin 1", "loss 1.0", "loss 1.1", "close"]
    steps = events(tmp_path / "run", "train.step")
    assert [row["begun"] for row in steps] == [1, 2]
    assert steps[-1]["mean"] == pytest.approx(float(objective.mean))


def test_the_model_is_freed_before_the_group_of_processes(
    model_file: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[nn.Module]] = []
    are_freed: list[bool] = []
    begin = Counting.begin
    monkeypatch.setattr(
        Counting, "begin", lambda self, model, step: (models.append(weakref.ref(model)), begin(self, model, step))
    )
    monkeypatch.setattr(Accelerator, "end_training", lambda _: are_freed.extend(each() is None for each in models))
    run(settings(tmp_path, "run", steps=2), model_file, tokenizer_dir)
    assert are_freed == [True, True]


def test_an_objective_resumes_with_its_state_to_the_bit(model_file: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    whole = run(settings(tmp_path, "whole"), model_file, tokenizer_dir)
    run(settings(tmp_path, "parts", stop_at_step=3), model_file, tokenizer_dir)
    parts = run(settings(tmp_path, "parts", resume_from="latest"), model_file, tokenizer_dir)
    assert parts.begun == whole.begun == 6
    assert torch.equal(parts.mean, whole.mean)
    folders = [folder_of(tmp_path / name, 6) for name in ("whole", "parts")]
    assert load_file(folders[0] / "objective.safetensors")["mean"].equal(whole.mean)
    assert artifacts.load(folders[0]).digest == artifacts.load(folders[1]).digest


def test_a_value_head_is_trained_saved_and_resumed_to_the_bit(
    model_file: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    for name, training in (("whole", {}), ("parts", {"stop_at_step": 3}), ("parts", {"resume_from": "latest"})):
        run(settings(tmp_path, name, **training), model_file, tokenizer_dir, objective=Valuing())
    folders = [folder_of(tmp_path / name, 6) for name in ("whole", "parts")]
    assert load_file(folders[0] / "model.safetensors")["value_1D"].all()
    assert artifacts.load(folders[0]).digest == artifacts.load(folders[1]).digest


def test_pretraining_keeps_no_state_of_its_own(checkpoint: Path) -> None:
    assert not [name for name in artifacts.load(checkpoint).files if name.startswith("objective")]


def test_a_run_starts_from_the_weights_of_an_initial_checkpoint(
    train_settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    train_settings["training"] |= {"steps": 1}
    train_settings["optim"] = {"lr": 1e-12, "warmup_steps": 0}
    train(build(TrainConfig, train_settings | {"initial": checkpoint}))
    last = folder_of(tmp_path / "run", 1)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, last))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    (initial,) = [item for item in artifacts.load(last).inputs if item.role == "initial"]
    assert initial.digest == artifacts.load(checkpoint).digest
    assert (last / initial.name).resolve() == checkpoint.resolve()


def test_a_resumed_run_goes_on_from_its_own_weights(train_settings: Settings, checkpoint: Path, tmp_path: Path) -> None:
    given = train_settings | {"initial": checkpoint}
    for name, stops in (("whole", [6]), ("parts", [3, 6])):
        for stop in stops:
            training = train_settings["training"] | {"steps": 6, "stop_at_step": stop, "resume_from": "latest"}
            train(build(TrainConfig, given | {"output_dir": tmp_path / name, "training": training}))
    digests = {artifacts.load(folder_of(tmp_path / name, 6)).digest for name in ("whole", "parts")}
    assert len(digests) == 1


def test_an_initial_checkpoint_of_another_shape_is_refused(
    train_settings: Settings, checkpoint: Path, model_file: Path, tmp_path: Path
) -> None:
    wider = tmp_path / "wider.py"
    wider.write_text(model_file.read_text().replace("width=32", "width=64"))
    with pytest.raises(CheckpointError, match="another shape"):
        train(build(TrainConfig, train_settings | {"initial": checkpoint, "model": wider}))


def test_a_resumed_run_keeps_its_initial_checkpoint_and_refuses_another(
    train_settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    train_settings["training"] |= {"steps": 6, "stop_at_step": 3}
    train(build(TrainConfig, train_settings | {"initial": checkpoint}))
    train_settings["training"] |= {"stop_at_step": None, "resume_from": "latest"}
    with pytest.raises(CheckpointError, match="other weights"):
        train(build(TrainConfig, train_settings | {"initial": folder_of(tmp_path / "run", 3)}))
    train(build(TrainConfig, train_settings))
    assert artifacts.load(folder_of(tmp_path / "run", 6)).digest_of("initial") == artifacts.load(checkpoint).digest


def test_a_wrong_initial_checkpoint_or_folder_is_refused_before_data_are_read(
    train_settings: Settings, tokenizer_dir: Path, tmp_path: Path
) -> None:
    for changes in ({"initial": tmp_path / "nowhere"}, {"output_dir": tokenizer_dir / "run"}):
        with pytest.raises(ArtifactError):
            train(build(TrainConfig, train_settings | {"data": {"dataset": "no", "tokenizer": "no"}} | changes))


def test_the_eta_counts_only_the_steps_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    shown: list[Settings] = []
    monkeypatch.setattr(log, "_sinks", [shown.append])
    with log.progress("train", 1000, "steps", start=900) as bar:
        now += 50
        bar.advance(4)
    assert shown[-1]["per_second"] == pytest.approx(0.08)
    assert shown[-1]["eta_s"] == pytest.approx(96 / 0.08)
    assert shown[0]["eta_s"] is None


@pytest.mark.parametrize(("recorded", "named"), [({}, "unnamed"), ({"order": "feistel-8"}, "feistel-8")])
def test_a_checkpoint_that_was_trained_in_another_order_is_not_gone_on_with(
    recorded: dict[str, str], named: str, train_settings: Settings, tmp_path: Path
) -> None:
    train_settings["training"] |= {"steps": 2, "stop_at_step": 1}
    train(build(TrainConfig, train_settings))
    made = artifacts.load(folder_of(tmp_path / "run", 1))
    assert made.config["order"] == "feistel-24"
    (other := tmp_path / "other" / "checkpoints" / "step-000001").parent.mkdir(parents=True)
    with artifacts.create(
        other,
        kind=made.kind,
        config={key: value for key, value in made.config.items() if key != "order"} | recorded,
        inputs=[artifacts.load(made.path / item.name).as_input(item.role, of=other) for item in made.inputs],
    ) as draft:
        draft.counts |= made.counts
        shutil.copytree(made.path, draft.path, dirs_exist_ok=True)
        (draft.path / artifacts.MANIFEST).unlink()
    train_settings["training"] |= {"stop_at_step": None, "resume_from": "latest"}
    with pytest.raises(CheckpointError, match=rf"another order of its data \({named}, not feistel-24\).* --initial$"):
        train(build(TrainConfig, train_settings | {"output_dir": tmp_path / "other"}))
    train(build(TrainConfig, train_settings))
