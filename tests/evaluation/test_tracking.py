"""`--trackers`: the figures of an evaluation reach the trackers, and change nothing of the evidence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.evaluation.bundle import lines, problems

from ibidem import artifacts, trackers
from ibidem.cli import main
from ibidem.config import build
from ibidem.errors import ConfigError
from ibidem.evaluation.config import DashboardConfig, HumanEvalConfig, PerplexityConfig
from ibidem.evaluation.dashboard import dashboard
from ibidem.evaluation.human_eval import human_eval
from ibidem.evaluation.perplexity import evaluate
from ibidem.training.config import TrainConfig
from ibidem.training.train import train

TENSORBOARD = ("tensorboard",)
PEERS = os.environ.get("PEERS_PYTHON", sys.executable)
SEND = """
import sys
from pathlib import Path
from ibidem.trackers import Point, send
about = {"checkpoint_digest": "sha256:0123", "k": [1, 10]}
send(("wandb",), Path(sys.argv[1]), model="some/run", task="mbpp", about=about, points=[Point(40, {"pass@1": 0.25})])
"""


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the curves of one run of TensorBoard: (step, value), by the name of the figure."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = EventAccumulator(str(folder))
    run.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in run.Scalars(tag)]
        for tag in run.Tags()["scalars"]
    }


def code(folder: Path, checkpoint: Path, output: Path, right: int, **more: object) -> dict[str, bytes]:
    """Judge three completions, of which so many are right; return the files of the evidence but its times."""
    digest = artifacts.load(checkpoint).digest
    rows = [
        {"task_id": f"T/{n}", "completion": f"    return a + {n if n < right else -1}\n", "checkpoint": digest}
        for n in range(3)
    ]
    config = HumanEvalConfig(
        checkpoint=checkpoint,
        samples=lines(folder / "samples.jsonl", rows),
        problems=str(problems(folder, 3)),
        output_dir=output,
        **more,
    )
    human_eval(config)
    manifest = json.loads((output / artifacts.MANIFEST).read_text())
    files = {path.name: path.read_bytes() for path in output.iterdir() if path.name != artifacts.MANIFEST}
    return files | {"digest": manifest["digest"].encode()}


@pytest.fixture(scope="module")
def run(dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("tracked") / "small"
    settings = {
        "model": model_file,
        "output_dir": folder,
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 64},
        "training": {"steps": 20, "batch_sequences": 2, "mixed_precision": "no"},
        "validation": {"every": 20, "windows": 2, "prompts": []},
        "checkpoints": {"every": 10},
    }
    train(build(TrainConfig, settings))
    return folder


def test_the_evaluations_of_a_runs_checkpoints_are_a_curve(run: Path, tmp_path: Path) -> None:
    for step, right in ((10, 1), (20, 3)):
        checkpoint = run / "checkpoints" / f"step-{step:06d}"
        code(tmp_path, checkpoint, tmp_path / "results" / f"{step}", right, trackers=TENSORBOARD)
    found = scalars(tmp_path / "results" / "ibidem" / run.parent.name / "small")
    assert found == {"human-eval/items": [(10, 3), (20, 3)], "human-eval/pass@1": [(10, 1 / 3), (20, 1)]}


def test_trackers_change_nothing_of_the_evidence(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000010"
    plain = code(tmp_path, checkpoint, tmp_path / "plain", 2)
    assert not (tmp_path / "ibidem").exists()
    tracked = code(tmp_path, checkpoint, tmp_path / "tracked", 2, trackers=TENSORBOARD)
    assert tracked == plain
    artifacts.verify(tmp_path / "tracked")


def test_figures_of_a_result_that_was_finished_before_are_sent(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = run / "checkpoints" / "step-000020"
    first = code(tmp_path, checkpoint, tmp_path / "out", 2)
    monkeypatch.setattr("ibidem.evaluation.coding._judge", None)  # nothing is judged again
    assert code(tmp_path, checkpoint, tmp_path / "out", 2, trackers=TENSORBOARD) == first
    found = scalars(tmp_path / "ibidem" / run.parent.name / "small")
    assert found["human-eval/pass@1"] == [(20, 2 / 3)]


def test_perplexity_is_tracked_beside_its_file(run: Path, dataset: Path, tmp_path: Path) -> None:
    asked = {"checkpoint": run, "data": dataset, "max_documents": 3, "max_chars": 100, "trackers": TENSORBOARD}
    with pytest.raises(ConfigError, match="--output"):
        evaluate(PerplexityConfig(**asked))
    result = evaluate(PerplexityConfig(**asked, output=tmp_path / "p.json"))
    found = scalars(tmp_path / "ibidem" / run.parent.name / "small")
    assert found["perplexity/bits_per_byte"] == [(20, result["bits_per_byte"])]
    assert found["perplexity/perplexity"] == [(20, result["perplexity"])]


def test_a_dashboard_is_one_curve_for_each_run(run: Path, hf_model: Path, dataset: Path, tmp_path: Path) -> None:
    checkpoints = [run / "checkpoints" / f"step-{step:06d}" for step in (20, 10)]
    config = {"data": (dataset,), "max_documents": 3, "max_chars": 60, "output_dir": tmp_path / "board"}
    dashboard(DashboardConfig(**config, checkpoint=(*checkpoints, hf_model), trackers=TENSORBOARD))
    rows = json.loads((tmp_path / "board" / "dashboard.json").read_text())
    of_step = {row["step"]: row["bits_per_byte"] for row in rows if row["aspect"] == "all"}
    name = f"dashboard/bits_per_byte{dataset}/all/all"
    found = scalars(tmp_path / "board" / "ibidem" / run.parent.name / "small")
    assert found[name] == [(10, of_step[10]), (20, of_step[20])]
    (other,) = (tmp_path / "board" / "ibidem").glob("model *")
    assert [step for step, _ in scalars(other)[name]] == [0]


@pytest.mark.parametrize(
    "command",
    [
        ["human-eval", "--checkpoint", "x", "--output-dir", "out"],
        ["mbpp", "--problems", "PROBLEMS", "--checkpoint", "x", "--output-dir", "out"],
        ["mmlu", "--checkpoint", "x", "--data", "x", "--output-dir", "out"],
        ["doc-qa", "--checkpoint", "x", "--data", "x", "--output-dir", "out"],
        ["refusals", "--checkpoint", "x", "--prompts", "x", "--output-dir", "out"],
        ["ratings", "--responses", "x", "--ratings", "x", "--output-dir", "out"],
        ["perplexity", "--checkpoint", "x", "--data", "x"],
        ["dashboard", "--checkpoint", "x", "--data", "x", "--output-dir", "out"],
    ],
)
def test_a_tracker_that_is_missing_is_said_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise trackers.metadata.PackageNotFoundError(name)

    row = {"task_id": 11, "text": "Add.", "code": "def f():\n    pass", "test_list": ["assert f() is None"]}
    file = lines(tmp_path / "mbpp.jsonl", [row | {"test_setup_code": "", "challenge_test_list": []}])
    monkeypatch.setattr(trackers.metadata, "distribution", missing)
    words = [str(file) if word == "PROBLEMS" else word for word in command]
    assert main(["evaluate", *words, "--trackers", "wandb"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "ibidem: trackers: wandb is not installed; pip install -c constraints.txt wandb"
    )


def test_a_folder_named_wandb_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="wandb is not installed"):
        trackers.check(["wandb"])


def test_a_checkpoint_is_the_same_with_trackers(train_settings: dict, tmp_path: Path) -> None:
    train_settings["training"] |= {"steps": 2}
    digests = set()
    for names in ((), TENSORBOARD):
        output = tmp_path / f"run{len(names)}"
        cache = train_settings["data"] | {"cache_dir": tmp_path / "tokens"}
        train(build(TrainConfig, train_settings | {"trackers": names, "output_dir": output, "data": cache}))
        digests.add(artifacts.load(output / "checkpoints" / "step-000002").digest)
    assert len(digests) == 1


@pytest.mark.parametrize(("variables", "mode"), [({}, "offline"), ({"WANDB_MODE": "online"}, "online")])
def test_wandb_is_offline_unless_the_user_says_otherwise(
    variables: dict[str, str], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert trackers.wandb_options(tmp_path) == {"dir": str(tmp_path), "mode": mode}


@pytest.mark.peer
def test_wandb_keeps_the_figures_offline(tmp_path: Path) -> None:
    """PEERS_PYTHON names a Python that has this project's dependencies and wandb."""
    if subprocess.run([PEERS, "-c", "import wandb"], capture_output=True, check=False).returncode:
        pytest.skip("wandb is not installed; name a Python that has it in PEERS_PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(
        [PEERS, "-c", SEND, str(tmp_path / "results")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("results/wandb/offline-run-*/run-*.wandb")
    data = file.read_bytes()
    for text in ("mbpp/pass@1", "0.25", "some/run", "checkpoint_digest", "sha256:0123", "[1, 10]"):
        assert text.encode() in data, text
