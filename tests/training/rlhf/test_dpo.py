"""DPO: what it learns, its reference, that it resumes to the bit, and refuses what it cannot learn from."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.conftest import REPOSITORY
from tests.data.left_out import quarantined
from tests.training.rlhf.preference_data import events, figures, kill_and_resume, pairs_dataset, rows
from tests.training.test_resume import Settings, changed, flip, in_two, losses, weights

from ibidem import artifacts
from ibidem.config import build
from ibidem.conversation import Part, Turn
from ibidem.errors import DataError, IbidemError
from ibidem.modeling.checkpoint import load_model
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.rlhf.config import DpoConfig, RewardConfig
from ibidem.training.rlhf.dpo_trainer import dpo

LAUNCHER = REPOSITORY / "src" / "training" / "rlhf" / "dpo_trainer.py"


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs_dataset(tmp_path_factory.mktemp("pairs") / "pairs", rows())


@pytest.fixture
def settings(checkpoint: Path, pairs: Path, tmp_path: Path) -> Settings:
    return {
        "initial": checkpoint,
        "data": pairs,
        "output_dir": tmp_path / "run",
        "held_out_share": 0.2,
        "training": {"steps": 6, "batch_sequences": 8, "micro_batch_sequences": 4, "mixed_precision": "no"},
        "optim": {"lr": 1e-3, "warmup_steps": 1},
        "validation": {"every": 3, "sample_tokens": 4},
        "checkpoints": {"every": 3},
    }


def run(settings: Settings, **changes: object) -> str:
    return dpo(build(DpoConfig, changed(settings, **changes)))


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm"])
def test_held_out_preferences_are_learned(loss: str, settings: Settings, checkpoint: Path) -> None:
    said = run(settings, training__steps=40, validation__every=40, checkpoints__every=40, dpo__loss=loss)
    last = settings["output_dir"] / "checkpoints" / "step-000040"
    assert said == f"{last}: step 40 of 40"
    first, last_measured = events(settings["output_dir"], "train.measured")
    assert first["held_out_loss"] == pytest.approx(math.log(2), rel=1e-5), "the policy starts as the reference"
    assert last_measured["held_out_loss"] < 0.5
    assert last_measured["accuracy"] == 1
    assert last_measured["margin"] > 0
    roles = {item.role: item.digest for item in artifacts.verify(last, kind="checkpoint").inputs}
    assert set(roles) == {"data", "tokenizer", "initial"}
    assert roles["initial"] == artifacts.load(checkpoint).digest


def test_the_figures_are_those_of_the_field_and_fit_together(settings: Settings) -> None:
    run(settings, training__steps=2)
    first, second = events(settings["output_dir"], "train.step")
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert second["rewards/margins"] == pytest.approx(second["rewards/chosen"] - second["rewards/rejected"], abs=1e-6)
    assert 0 <= second["rewards/accuracies"] <= 1
    assert second["logps/chosen"] < 0
    assert second["logps/rejected"] < 0


def test_the_reference_is_what_the_initial_checkpoint_says_of_each_answer(settings: Settings, checkpoint: Path) -> None:
    run(settings, training__steps=1)
    reference = artifacts.verify(settings["output_dir"] / "reference", kind="reference")
    assert {item.role: item.digest for item in reference.inputs}["initial"] == artifacts.load(checkpoint).digest
    stored = load_file(reference.path / "reference.safetensors")
    model, _ = load_model(checkpoint)
    template = ChatTemplate(Tokenizer.load(checkpoint / "tokenizer"))
    expected = []
    for prompt, *answers, _ in rows():
        asked = template.prompt([Turn.of("user", prompt)])
        both = []
        for text in answers:
            said = template.answer([Part("text", text)])
            with torch.no_grad():
                logs = model.double().logits(torch.tensor([asked + said])).log_softmax(dim=-1)[0]
            both.append(sum(float(logs[len(asked) - 1 + at, number]) for at, number in enumerate(said)))
        expected.append(both)
    found = torch.cat([stored["train"], stored["held_out"]]).tolist()
    assert len(stored["held_out"]) > 0
    assert sorted(map(tuple, found)) == [pytest.approx(both, rel=1e-5) for both in sorted(map(tuple, expected))]


def test_the_reference_is_computed_once_and_again_if_it_is_damaged(settings: Settings) -> None:
    run(settings, training__stop_at_step=3)
    run(settings, training__resume_from="latest", training__stop_at_step=4)
    assert len(events(settings["output_dir"], "train.reference")) == 1
    flip(settings["output_dir"] / "reference" / "reference.safetensors")
    run(settings, training__resume_from="latest")
    assert len(events(settings["output_dir"], "train.reference")) == 2
    assert events(settings["output_dir"], "artifact.damaged")
    artifacts.verify(settings["output_dir"] / "reference")


def test_another_checkpoint_has_another_reference(settings: Settings, tmp_path: Path) -> None:
    run(settings, training__steps=3, validation__every=3)
    trained = settings["output_dir"] / "checkpoints" / "step-000003"
    run(settings, initial=trained, output_dir=tmp_path / "second")
    digests = {artifacts.load(folder / "reference").digest for folder in (settings["output_dir"], tmp_path / "second")}
    assert len(digests) == 2
    first = events(tmp_path / "second", "train.measured")[0]
    assert first["held_out_loss"] == pytest.approx(math.log(2), rel=1e-5)


def test_accumulation_is_one_batch_though_the_answers_differ_in_length(settings: Settings, tmp_path: Path) -> None:
    for size in (1, 8):
        run(settings, output_dir=tmp_path / str(size), training__micro_batch_sequences=size)
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
        one, eight = (figures(tmp_path / size, name) for size in ("1", "8"))
        assert one == pytest.approx(eight, rel=1e-4, abs=1e-5)
    assert figures(tmp_path / "1", "loss")[0] == pytest.approx(figures(tmp_path / "8", "loss")[0], rel=1e-6)


def test_stopping_and_resuming_changes_no_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "whole")
    run(settings, output_dir=tmp_path / "parts", training__stop_at_step=3)
    run(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    lasts = [tmp_path / name / "checkpoints" / "step-000006" for name in ("whole", "parts")]
    assert artifacts.load(lasts[0]).digest == artifacts.load(lasts[1]).digest


def test_a_killed_run_resumes_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, training__steps=40, checkpoints__every=5, validation__every=40)
    run(settings, output_dir=tmp_path / "whole")
    kill_and_resume(settings, LAUNCHER, tmp_path, at=5)
    assert weights(tmp_path / "killed", 40) == weights(tmp_path / "whole", 40)


def test_two_processes_train_what_one_does_and_resume_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    two = changed(settings, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        in_two(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=LAUNCHER)
    for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/rejected"):
        one, whole = (figures(tmp_path / folder, name) for folder in ("one", "whole"))
        assert one == pytest.approx(whole, rel=1e-4, abs=1e-5)
    references = [load_file(tmp_path / folder / "reference" / "reference.safetensors") for folder in ("one", "whole")]
    torch.testing.assert_close(references[0], references[1], rtol=1e-6, atol=1e-5)
    measured = [
        [each["held_out_loss"] for each in events(tmp_path / name, "train.measured")] for name in ("one", "whole")
    ]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "whole", 6) == weights(tmp_path / "parts", 6)


def test_pairs_that_say_nothing_or_do_not_fit_are_left_out_whole_and_counted(
    settings: Settings, tmp_path: Path
) -> None:
    bad = [
        ("Equal?", "Yes", "Yes", None),
        ("Empty?", "Yes", " \n", None),
        ("Nothing?", "", "No", None),
        ("Long?", "Yes", "word " * 200, None),
    ]
    run(settings, data=pairs_dataset(tmp_path / "data", [*rows(), *bad]))
    (counts,) = events(settings["output_dir"], "train.pairs")
    assert counts["left_out"] == {"equal answers": 1, "an empty answer": 2, "longer than the context": 1}
    assert counts["train"] + counts["held_out"] == len(rows())
    assert counts["held_out"] > 0


def test_data_without_a_usable_pair_are_one_line(settings: Settings, tmp_path: Path) -> None:
    data = pairs_dataset(tmp_path / "data", [("Equal?", "Yes", "Yes", None)])
    with pytest.raises(DataError, match=r"no pair to train on \(1 equal answers\)"):
        run(settings, data=data)
    with pytest.raises(DataError, match="leaves none to train on"):
        run(settings, held_out_share=0.9999)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "absent.jsonl"}, "data absent.jsonl: no such file or folder"),
        ({"initial": REPOSITORY}, "no artifact here .* expected a checkpoint"),
        ({"dpo__beta": 0}, "dpo.beta"),
        ({"dpo__loss": "hinge"}, "dpo.loss"),
        ({"dpo__label_smoothing": 0.5}, "dpo.label_smoothing"),
        ({"optim__z_loss": 1e-4}, "z_loss"),
    ],
)
def test_what_cannot_work_is_one_line(settings: Settings, change: dict, said: str) -> None:
    with pytest.raises(IbidemError, match=said):
        run(settings, **change)


def test_a_dataset_is_no_initial_checkpoint(settings: Settings, pairs: Path) -> None:
    with pytest.raises(IbidemError, match=r"this is a dataset.*checkpoint"):
        run(settings, initial=pairs)


def test_dropout_is_no_noise_in_the_log_ratios(settings: Settings, checkpoint: Path, tmp_path: Path) -> None:
    dropping = tmp_path / "dropping"
    made = artifacts.load(checkpoint)
    config = {**made.config, "model": {**made.config["model"], "dropout": 0.5}}
    with artifacts.create(dropping, kind="checkpoint", config=config, inputs=made.inputs) as draft:
        for name in made.files:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkpoint / name, draft.path / name)
        shutil.copy(checkpoint / "tokenizer" / "manifest.json", draft.path / "tokenizer" / "manifest.json")
    run(settings, initial=dropping, training__steps=1, validation__every=1)
    assert figures(settings["output_dir"], "loss")[0] == pytest.approx(math.log(2), rel=1e-5)


def test_a_file_of_pairs_is_preprocessed_and_its_bad_lines_are_quarantined(settings: Settings, tmp_path: Path) -> None:
    good = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected, _ in rows()]
    bad = [
        {"prompt": "Equal?", "chosen": "Yes", "rejected": "Yes"},
        {"prompt": "Empty?", "chosen": "", "rejected": "No"},
        {"prompt": "Alone?"},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in good + bad))
    run(settings, data=file)
    (counts,) = events(settings["output_dir"], "train.pairs")
    assert counts["train"] + counts["held_out"] == len(good)
    assert counts["left_out"] == {"quarantined": 3}
    (dataset,) = (settings["output_dir"] / "data").iterdir()
    assert [row["line"] for row in quarantined(dataset)] == [len(good) + number for number in (1, 2, 3)]


@pytest.mark.parametrize(("name", "kind"), [("dpo", DpoConfig), ("reward", RewardConfig)])
def test_the_shipped_configurations_are_valid(name: str, kind: type) -> None:
    tree = yaml.safe_load((REPOSITORY / "configs" / "training" / f"{name}.yaml").read_text())
    assert build(kind, tree).training.steps == 1000


def test_without_held_out_pairs_nothing_is_measured_and_it_is_said(settings: Settings) -> None:
    run(settings, held_out_share=0, training__steps=1)
    assert events(settings["output_dir"], "train.not_measured")
    assert "accuracy" not in events(settings["output_dir"], "train.measured")[-1]
