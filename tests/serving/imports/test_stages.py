"""An imported checkpoint goes through the stages like any other, and what is made from it says where it came from."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.evaluation import bundle
from tests.serving.imports.foreign import IDS, make_model
from tests.training.rlhf.preference_data import pairs_dataset, rows

from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build
from ibidem.conversation import Turn
from ibidem.errors import CheckpointError
from ibidem.evaluation.gate.config import GateConfig
from ibidem.evaluation.gate.pin import pins_of
from ibidem.modeling.checkpoint import IMPORTED, TOKENIZER_DIR, WEIGHTS
from ibidem.serving.config import ImportConfig
from ibidem.serving.imports.import_model import run
from ibidem.serving.server.own_model import OwnSpeaker
from ibidem.serving.server.speech import Said, SamplingParams
from ibidem.training.state import steps_done

SHORT = ["--training.batch-sequences", "4", "--training.mixed-precision", "no", "--quiet"]
STEP = "checkpoints/step-000000"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a Qwen3 with wide heads, an output matrix of its own, and spare rows."""
    root = tmp_path_factory.mktemp("imported")
    make_model(root / "m", "Qwen3", vocab_size=IDS + 100, max_position_embeddings=256)
    return run(ImportConfig(from_=root / "m", output_dir=root / "run")).path.parents[1]


@pytest.fixture(scope="module")
def tuned(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What SFT makes of it."""
    root = tmp_path_factory.mktemp("tuned")
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    chats = [[{"role": "user", "content": w}, {"role": "assistant", "content": w * 2}] for w in words]
    (root / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    flags = ["--initial", str(imported), "--data", str(root / "chats.jsonl"), "--output-dir", str(root / "run")]
    more = ["--training.steps", "2", "--validation.sample-tokens", "4", "--held-out-share", "0.2"]
    assert main(["sft", *flags, *more, *SHORT]) == 0
    return root / "run"


def last_of(folder: Path) -> artifacts.Artifact:
    return artifacts.load(max((folder / "checkpoints").glob("step-*")))


def test_conversations_tune_it_and_its_origin_stays(imported: Path, tuned: Path) -> None:
    before, after = last_of(imported), last_of(tuned)
    assert after.config["model"] == before.config["model"]
    assert after.config[IMPORTED] == before.config[IMPORTED]
    weights, initial = (load_file(each.path / WEIGHTS) for each in (after, before))
    assert weights.keys() == initial.keys() >= {"head.weight_VD", "blocks.0.attention.out.weight"}
    assert all((weights[name] != initial[name]).any() for name in initial)


def test_preferences_tune_it(tuned: Path, tmp_path: Path) -> None:
    pairs = pairs_dataset(tmp_path / "pairs", rows()[:40])
    words = ["--initial", str(tuned), "--data", str(pairs), "--output-dir", str(tmp_path / "run")]
    assert main(["dpo", *words, "--training.steps", "2", "--validation.sample-tokens", "4", *SHORT]) == 0
    assert last_of(tmp_path / "run").config[IMPORTED]["license"] == "MIT"


def test_pretraining_goes_on_from_it_with_its_shape_and_tokenizer(
    imported: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(imported), "--data.dataset", str(dataset), "--data.context", "64"]
    more = ["--data.tokenizer", str(imported / STEP / TOKENIZER_DIR), "--output-dir", str(tmp_path / "run")]
    assert main(["train", *words, *more, "--initial", str(imported), "--training.steps", "3", *SHORT]) == 0
    made = last_of(tmp_path / "run")
    assert made.config[IMPORTED]["architecture"] == "Qwen3ForCausalLM"
    assert made.counts["bits_per_byte"] > 0
    capsys.readouterr()
    anew = [*words, *more[:2], "--output-dir", str(tmp_path / "new"), "--training.steps", "3", *SHORT]
    assert main(["train", *anew]) == 2
    assert "train it with --vocab-size" in capsys.readouterr().err
    assert main(["plan", *anew]) == 0
    assert f"{last_of(imported).counts['parameters']:,}" in capsys.readouterr().out


def test_a_training_is_not_resumed_from_it_in_one_line(
    imported: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(imported), "--data.dataset", str(dataset), "--data.context", "64"]
    more = ["--data.tokenizer", str(imported / STEP / TOKENIZER_DIR), "--output-dir", str(tmp_path / "run")]
    flags = ["--training.resume-from", str(imported), "--training.steps", "3"]
    assert main(["train", *words, *more, *flags, *SHORT]) == 2
    assert "was trained on other data, or from other weights (--initial)" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no training is to be resumed; start one from it with --initial"):
        steps_done(last_of(imported))


def test_it_completes_answers_speaks_and_is_scored(
    imported: Path, tuned: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = ["--temperature", "0", "--max-tokens", "8", "--quiet"]
    assert main(["generate", "--checkpoint", str(imported), "--prompt", "def add(", *greedy]) == 0
    assert capsys.readouterr().out.startswith("def add(")
    assert main(["generate", "--checkpoint", str(tuned), "--prompt", "two", "--chat", *greedy]) == 0
    expected = capsys.readouterr().out.removeprefix("two\n\n").removesuffix("\n")

    async def said(speaker: OwnSpeaker) -> str:
        turns, how = (Turn.of("user", "two"),), SamplingParams(8, 0.0, 0.95, 0, ())
        speech = speaker.speak(turns, how, owner="", scope=None)
        return "".join([piece.text async for piece in speech if isinstance(piece, Said) and piece.kind == "text"])

    speaker = OwnSpeaker(tuned, slots=2)
    try:
        assert asyncio.run(said(speaker)) == expected
    finally:
        speaker.close()
    words = ["--checkpoint", str(imported), "--data", str(dataset), "--output", str(tmp_path / "out.json"), "--quiet"]
    assert main(["evaluate", "perplexity", *words]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["bits_per_byte"] > 0


# The gate


def decision(folder: Path, checkpoint: Path, **more: Any) -> dict[str, Any]:
    """Ask the gate about good evidence; the license is what remains to be asked."""
    criteria = {"answers": bundle.CRITERIA["answers"]}
    folder.mkdir()
    bundle.make_documents(folder, artifacts.load(checkpoint).digest)
    config = build(GateConfig, bundle.settings(folder, checkpoint, criteria=criteria))
    (folder / "pins.json").write_text(json.dumps(pins_of(config)[0]))
    return bundle.decide(folder, checkpoint, criteria=criteria, **more)


def license_in(record: dict[str, Any]) -> tuple[str, str, str]:
    (found,) = [each for each in record["criteria"] if each["criterion"] == "license of the weights"]
    return record["decision"], found["verdict"], found["reason"]


def licensed(folder: Path, name: str | None) -> Path:
    """Import a model under a license."""
    make_model(folder / "model", "Llama", num_hidden_layers=1)
    (folder / "model" / "README.md").write_text(f"---\nlicense: {name}\n---\n" if name else "")
    return run(ImportConfig(from_=folder / "model", output_dir=folder / "run")).path


def test_the_gate_asks_for_the_license_of_imported_weights(tmp_path: Path) -> None:
    verdicts = {}
    for name in ("apache-2.0", "cc-by-nc-4.0", "llama3.2", None):
        checkpoint = licensed(tmp_path / str(name), name)
        verdicts[name] = license_in(decision(tmp_path / f"gate-{name}", checkpoint))
    assert verdicts == {
        "apache-2.0": ("RELEASE", "PASS", "model is under Apache-2.0 (README.md: apache-2.0)"),
        "cc-by-nc-4.0": ("BLOCK", "FAIL", "model is under CC-BY-NC-4.0 (README.md: cc-by-nc-4.0)"),
        "llama3.2": (
            "BLOCK", "FAIL", "model is under LicenseRef-scancode-llama-3.2-license-2024 (README.md: llama3.2)",
        ),
        None: (
            "BLOCK", "FAIL",
            "the license of model is unknown (neither README.md nor config.json nor a license file states it); "
            "import it with --license if you know it",
        ),
    }  # fmt: skip


def test_the_policy_lists_the_licenses_and_no_exception_heals_one(tmp_path: Path) -> None:
    checkpoint = licensed(tmp_path / "m", "cc-by-nc-4.0")
    record = decision(tmp_path / "gate", checkpoint, weight_licenses=["CC-BY-NC-4.0"])
    assert license_in(record)[:2] == ("RELEASE", "PASS")
    for change, said in (
        ({"weight_licenses": ["Apach-2.0"]}, "did you mean Apache-2.0"),
        ({"weight_licenses": []}, "give at least one"),
        ({"exceptions": {"license of the weights": {}}}, "exceptions"),
    ):
        with pytest.raises(ValueError, match=said):
            build(GateConfig, bundle.settings(tmp_path / "gate", checkpoint, **change))


def test_what_is_trained_from_imported_weights_is_asked_too_even_when_they_are_gone(
    imported: Path, tuned: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(last_of(tuned).path, tmp_path / "copy"))  # its initial checkpoint is not there
    record = decision(tmp_path / "gate", copy, weight_licenses=["Apache-2.0"])
    assert license_in(record)[:2] == ("BLOCK", "FAIL")
    assert last_of(imported).config[IMPORTED]["name"] in license_in(record)[2]


def test_of_weights_that_were_trained_here_nothing_is_asked(checkpoint: Path, tmp_path: Path) -> None:
    record = decision(tmp_path / "gate", checkpoint, weight_licenses=["Apache-2.0"])
    assert record["decision"] == "RELEASE"
    assert [each["criterion"] for each in record["criteria"]] == ["answers"]
