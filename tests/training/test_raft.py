"""RA-FT: what it trains on, that it resumes to the bit, and that its checkpoints are for readers alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.grounding.corpus import ACL, make_index
from tests.training.test_resume import Settings, changed, losses, torchrun, weights
from tests.training.test_sft import events, talk, write

from ibidem import artifacts
from ibidem.accounts import this_user
from ibidem.cli import main
from ibidem.config import build, read_yaml
from ibidem.data.blend import BlendConfig, blend
from ibidem.data.shards import load_dataset
from ibidem.errors import AccessDenied, CheckpointError, ConfigError
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.doc_qa import doc_qa
from ibidem.grounding.ask import open_answerer
from ibidem.grounding.config import GroundAskConfig, GroundForgetConfig
from ibidem.grounding.encoder import open_encoder
from ibidem.grounding.forgetting import forget
from ibidem.grounding.head import open_head
from ibidem.inference.models import open_model
from ibidem.lineage import walk
from ibidem.modeling.heads import load_reward_model
from ibidem.readers import readers_of
from ibidem.runs import newest
from ibidem.serving.run_history import open_run
from ibidem.training.config import HeadConfig, TrainConfig
from ibidem.training.head import train_head
from ibidem.training.raft import TRAINING_SET, raft
from ibidem.training.rlhf.config import DpoConfig, RaftConfig, RewardConfig, SftConfig
from ibidem.training.rlhf.dpo_trainer import dpo
from ibidem.training.rlhf.reward_model import reward
from ibidem.training.rlhf.sft_pipeline import sft
from ibidem.training.synthesize import SynthesizeConfig, synthesize
from ibidem.training.train import train

LAUNCHER = REPOSITORY / "src" / "training" / "raft.py"
OURS = ACL.replace("[dev-1, dev-2]", f"[dev-1, dev-2, {this_user()}]")
"""Rules under which the user who runs the tests may read what dev-1 may."""


@pytest.fixture(scope="session")
def base(dataset: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose context holds some passages."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "long.py").write_text(
        "from ibidem.modeling.config import ModelConfig\n"
        "MODEL = ModelConfig(vocab_size=512, width=32, layers=2, heads=2, ffn_hidden=64, context=448)\n"
    )
    settings = {
        "model": folder / "long.py",
        "output_dir": folder / "run",
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 64},
        "training": {"steps": 2, "batch_sequences": 2, "mixed_precision": "no"},
        "validation": {"every": 2, "windows": 2, "prompts": []},
    }
    train(build(TrainConfig, settings))
    return folder / "run" / "checkpoints" / "step-000002"


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> Settings:
    return {
        "initial": base,
        "index": make_index(tmp_path),
        "principal": "dev-1",
        "output_dir": tmp_path / "run",
        "examples": {"distractors": 1},
        "training": {"steps": 4, "batch_sequences": 4, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 3e-3, "warmup_steps": 1},
        "validation": {"every": 4, "samples": 0},
        "checkpoints": {"every": 2},
    }


@pytest.fixture(scope="session")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was tuned on documents that dev-1 may read, and whoever runs the tests may not."""
    folder = tmp_path_factory.mktemp("tuned")
    settings = {
        "initial": base,
        "index": make_index(folder),
        "principal": "dev-1",
        "output_dir": folder / "run",
        "examples": {"distractors": 1},
        "training": {"steps": 1, "batch_sequences": 2, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "validation": {"every": 1, "samples": 0, "windows": 2},
    }
    raft(build(RaftConfig, settings))
    return newest(folder / "run")


def run(settings: Settings, **changes: object) -> str:
    return raft(build(RaftConfig, changed(settings, **changes)))


def test_the_result_knows_its_training_set_its_readers_and_stays_private(settings: Settings) -> None:
    said = run(settings, validation__samples=1, held_out_share=0.2)
    last = settings["output_dir"] / "checkpoints" / "step-000004"
    assert said == f"{last}: step 4 of 4"
    checkpoint = artifacts.verify(last, kind="checkpoint")
    training_set = artifacts.load(settings["output_dir"] / TRAINING_SET)
    assert checkpoint.digest_of("data") == training_set.digest
    assert readers_of(checkpoint.config) == readers_of(training_set.config)
    assert checkpoint.config["readers"] == {"read": ["dev-1", "dev-2"], "deny": ["engineering"]}
    assert {state for _, state, _ in walk(last)} == {"ok", "source"}
    assert [folder.stat().st_mode & 0o077 for folder in (settings["output_dir"], last, training_set.path)] == [0, 0, 0]
    assert events(settings["output_dir"], "train.sample")
    assert events(settings["output_dir"], "train.measured")


def test_forgetting_names_the_checkpoints_that_were_tuned_on_the_document(settings: Settings) -> None:
    run(settings)
    said = forget(GroundForgetConfig(index=settings["index"], path="handbook", artifacts=(settings["output_dir"],)))
    for name in (TRAINING_SET, "checkpoints/step-000004"):
        assert str(settings["output_dir"] / name) in said


def test_a_stopped_run_resumes_to_the_bit_and_makes_no_other_set(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "whole")
    run(settings, training__stop_at_step=2)
    before = artifacts.load(settings["output_dir"] / TRAINING_SET)
    run(settings, training__resume_from="latest")
    assert weights(settings["output_dir"], 4) == weights(tmp_path / "whole", 4)
    assert artifacts.load(settings["output_dir"] / TRAINING_SET).volatile == before.volatile


def test_contrastive_batches_on_its_passages_are_in_the_same_loop_and_resume_to_the_bit(
    settings: Settings, tmp_path: Path
) -> None:
    with_contrast = changed(settings, contrast__weight=0.5)
    run(with_contrast, output_dir=tmp_path / "whole")
    run(with_contrast, training__stop_at_step=2)
    run(with_contrast, training__resume_from="latest")
    assert weights(settings["output_dir"], 4) == weights(tmp_path / "whole", 4)
    assert all(event["contrast/loss"] > 0 for event in events(settings["output_dir"], "train.step"))
    run(settings, output_dir=tmp_path / "without")
    assert weights(tmp_path / "without", 4) != weights(tmp_path / "whole", 4)


def test_a_run_does_not_go_on_with_other_permissions(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run(settings, training__stop_at_step=2)
    (settings["index"].parent / "acl.yaml").write_text(ACL.replace("[dev-1, dev-2]", "[dev-1]"))
    file = settings["index"].parent / "config.json"
    file.write_text(json.dumps(changed(settings, training__resume_from="latest"), default=str))
    assert main(["raft", "--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "the index has other permissions than the training set was made with, so the training cannot go on" in line


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    whole = changed(settings, training__steps=30, checkpoints__every=5, validation__every=30)
    run(whole, output_dir=tmp_path / "whole")
    file = tmp_path / "config.json"
    again = changed(whole, training__resume_from="latest", output_dir=tmp_path / "killed")
    file.write_text(json.dumps(again, default=str))
    process = subprocess.Popen(
        [sys.executable, str(LAUNCHER), "--config", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = tmp_path / "killed" / "checkpoints" / "step-000005" / "manifest.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert first.exists()
    run(again)
    assert weights(tmp_path / "killed", 30) == weights(tmp_path / "whole", 30)


@pytest.mark.slow
def test_two_processes_train_what_one_does(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    done = torchrun(
        changed(settings, training__num_processes=2), tmp_path, "--output-dir", str(tmp_path / "two"), launcher=LAUNCHER
    )
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-5)


def refused(act: Callable[[], object], who: str) -> None:
    with pytest.raises(AccessDenied, match=f"made from private documents, and {who}.* is not among their readers"):
        act()


def test_adapters_tuned_on_documents_are_for_their_readers_and_resume_to_the_bit(
    settings: Settings, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    adapted = changed(settings, lora__rank=2)
    run(adapted, output_dir=tmp_path / "whole")
    run(adapted, training__stop_at_step=2)
    run(adapted, training__resume_from="latest")
    folders = [output / "checkpoints" / "step-000004" for output in (settings["output_dir"], tmp_path / "whole")]
    for name in ("adapter_model.safetensors", "model.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    last = artifacts.verify(folders[0], kind="checkpoint")
    assert last.config["readers"] == {"read": ["dev-1", "dev-2"], "deny": ["engineering"]}
    assert last.path.stat().st_mode & 0o077 == 0
    refused(lambda: open_model(last.path), this_user())
    refused(lambda: run(adapted, initial=last.path, principal="hr", output_dir=tmp_path / "next"), "hr")
    assert open_model(last.path, principal="dev-2").digest == last.digest


def test_whoever_is_no_reader_is_refused_wherever_a_checkpoint_is_opened(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    me, index = this_user(), tuned.parents[2] / "index"
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}])
    about = {"initial": tuned, "output_dir": tmp_path / "run", "data": pairs, "training": {"steps": 1}}
    for act in (
        lambda: open_model(tuned),
        lambda: open_encoder(tuned),
        lambda: sft(build(SftConfig, about)),
        lambda: dpo(build(DpoConfig, about)),
        lambda: reward(build(RewardConfig, about)),
    ):
        refused(act, me)
    asked = write(tmp_path / "q.jsonl", [{"question": "How long is leave?", "answers": ["30 days"]}])
    places = {"checkpoint": tuned, "index": index, "data": asked, "output_dir": tmp_path / "qa"}
    for name in ("ada", "hr", "Dev-1"):
        refused(lambda name=name: open_answerer(tuned, k=2, max_tokens=8, principal=name), name)
        refused(lambda name=name: doc_qa(build(DocQaConfig, {**places, "principal": name})), name)
    for words in (
        ["generate", "--checkpoint", str(tuned), "--prompt", "Hi"],
        ["evaluate", "perplexity", "--checkpoint", str(tuned), "--data", str(asked)],
        ["ground", "ask", "--index", str(index), "--principal", "ada", "--question", "Leave?", "--model", str(tuned)],
        ["raft", "--initial", str(tuned), "--index", str(index), "--principal", "hr", "--output-dir",
         str(tmp_path / "r"), "--training.steps", "1"],
    ):  # fmt: skip
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not among their readers" in line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "r").exists()
    monkeypatch.setattr("ibidem.accounts.this_user", lambda: "dev-2")
    assert open_model(tuned).digest == artifacts.load(tuned).digest


def test_readers_answer_with_it(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tuned.parents[2] / "index"
    words = ["--index", str(index), "--question", "How long is leave?", "--model", str(tuned), "--max-tokens", "8"]
    assert main(["ground", "ask", "--principal", "dev-2", *words]) == 0
    assert capsys.readouterr().out
    answerer = open_answerer(tuned, k=2, max_tokens=8, principal="dev-1")
    assert answerer.is_ours


def test_whatever_is_trained_from_it_has_its_readers(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibidem.accounts.this_user", lambda: "dev-2")
    pairs = [{"prompt": f"Which is {n}?", "chosen": f"It is {n}", "rejected": f"It is not {n}"} for n in range(12)]
    talks = [{"messages": talk(f"Which is {n}?", f"It is {n}")} for n in range(12)]
    loop = {"steps": 1, "batch_sequences": 2, "micro_batch_sequences": 2, "mixed_precision": "no"}
    common = {"initial": tuned, "training": loop, "validation": {"windows": 2}}
    for number, (config, start, rows) in enumerate(
        [(SftConfig, sft, talks), (DpoConfig, dpo, pairs), (RewardConfig, reward, pairs)]
    ):
        data = write(tmp_path / f"{number}.jsonl", rows)
        samples = {} if config is RewardConfig else {"samples": 0}
        changes = {"data": data, "output_dir": tmp_path / str(number), "validation": {"windows": 2, **samples}}
        start(build(config, {**common, **changes}))
        made = artifacts.load(newest(tmp_path / str(number)))
        assert readers_of(made.config) == readers_of(artifacts.load(tuned).config)
        assert made.path.stat().st_mode & 0o077 == 0
        assert (tmp_path / str(number)).stat().st_mode & 0o077 == 0  # its events, too
    assert open_run(tmp_path / "0").stages_before
    monkeypatch.setattr("ibidem.accounts.this_user", lambda: "eve")
    refused(lambda: open_run(tmp_path / "0"), "eve")
    refused(lambda: load_reward_model(tmp_path / "2"), "eve")
    refused(lambda: sft(build(SftConfig, {**common, "initial": tmp_path / "0", "output_dir": tmp_path / "3",
                                          "data": tmp_path / "0.jsonl"})), "eve")  # fmt: skip


def test_the_files_of_a_training_set_are_no_data_of_another_run(tuned: Path, base: Path, tmp_path: Path) -> None:
    examples = tuned.parents[1] / TRAINING_SET / "examples.jsonl"
    with pytest.raises(AccessDenied, match="part of a training-set made from private documents"):
        sft(build(SftConfig, {"initial": base, "data": examples, "output_dir": tmp_path / "run",
                              "training": {"steps": 1, "batch_sequences": 2, "micro_batch_sequences": 2}}))  # fmt: skip
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_a_private_model_wrote_has_its_readers_when_the_model_is_gone(
    tuned: Path, base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibidem.accounts.this_user", lambda: "dev-2")
    copy = tmp_path / "copy"
    shutil.copytree(tuned, copy)
    for name, model in (("written", copy), ("public", base)):
        synthesize(build(SynthesizeConfig, {"from": dataset, "output_dir": tmp_path / name, "kinds": ["refuse"],
                                            "number": 20, "model": model, "instructions": 1, "max_tokens": 8,
                                            "workers": 1}))  # fmt: skip
    shutil.rmtree(copy)
    shares = {"datasets": {"a": {"path": tmp_path / "written"}}, "shares": {"instruction": 1.0}}
    blend(build(BlendConfig, {**shares, "output_dir": tmp_path / "blend"}))
    loop = {"steps": 1, "batch_sequences": 2, "micro_batch_sequences": 2, "mixed_precision": "no"}
    sft(build(SftConfig, {"initial": base, "data": tmp_path / "blend", "output_dir": tmp_path / "run",
                          "training": loop, "validation": {"windows": 2, "samples": 0}}))  # fmt: skip
    wanted = readers_of(artifacts.load(tuned).config)
    for path in (tmp_path / "written", tmp_path / "blend", newest(tmp_path / "run")):
        assert readers_of(artifacts.load(path).config) == wanted
        assert path.stat().st_mode & 0o077 == 0
    assert readers_of(artifacts.load(tmp_path / "public").config) is None
    monkeypatch.setattr("ibidem.accounts.this_user", lambda: "eve")
    refused(lambda: load_dataset(tmp_path / "written"), "eve")


def test_a_run_that_is_resumed_keeps_its_readers_though_what_it_came_from_is_gone(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Path, tokenizer_dir: Path
) -> None:
    monkeypatch.setattr("ibidem.accounts.this_user", lambda: "dev-2")
    copy = tmp_path / "copy"
    shutil.copytree(tuned, copy)
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(artifacts.load(copy).config["model"]))
    settings = {
        "model": shape, "output_dir": tmp_path / "run", "initial": copy,
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 32},
        "training": {"steps": 2, "batch_sequences": 2, "mixed_precision": "no", "stop_at_step": 1},
        "validation": {"windows": 2, "prompts": []},
    }  # fmt: skip
    train(build(TrainConfig, settings))
    shutil.rmtree(copy)
    rest = changed(settings, training__stop_at_step=None, training__resume_from="latest", initial=None)
    train(build(TrainConfig, rest))
    assert artifacts.load(newest(tmp_path / "run")).config["readers"] == {
        "read": ["dev-1", "dev-2"],
        "deny": ["engineering"],
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"principal": "Dev-1"}, "no passage that Dev-1 may read"),
        ({"index": "elsewhere"}, "elsewhere"),
        ({"training__batch_sequences": 3}, "does not divide"),
        ({"questions": "none.jsonl"}, "none.jsonl"),
    ],
)
def test_bad_input_is_one_line(
    settings: Settings, changes: dict[str, object], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acl = settings["index"].parent / "acl.yaml"
    acl.write_text(ACL.replace("read: [everyone]", "read: [engineering]"))
    (tmp_path / "config.json").write_text(json.dumps(changed(settings, **changes), default=str))
    assert main(["raft", "--config", str(tmp_path / "config.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (settings["output_dir"] / "checkpoints").exists()


def test_a_context_that_is_too_short_for_a_passage_is_refused(settings: Settings, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="not even one passage fits into the model's context of 64 tokens"):
        run(settings, initial=checkpoint)


def test_the_shipped_configuration_is_understood() -> None:
    config = build(RaftConfig, read_yaml(REPOSITORY / "configs" / "training" / "raft.yaml"))
    assert config.principal == config.reader == "dev-1"


def test_ask_shows_what_training_showed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template's ids of a prompt are the same in both."""
    from ibidem.grounding import training_set
    from ibidem.grounding.ask import prompt, reply_to
    from ibidem.inference.models import OwnModel

    run(settings)
    seen = []
    whole = OwnModel.respond
    monkeypatch.setattr(
        OwnModel, "respond", lambda self, turns, sampling: seen.extend(turns) or whole(self, turns, sampling)
    )
    config = GroundAskConfig(
        index=settings["index"], principal="dev-1", question="How long is leave?", model=settings["output_dir"],
        max_tokens=4, k=2,
    )  # fmt: skip
    found = reply_to(config)
    assert seen == [prompt("How long is leave?", found.passages, is_ours=True)]
    trained = next(training_set.read_conversations(artifacts.load(settings["output_dir"] / TRAINING_SET)))
    assert [part.kind for part in trained[0].parts][-1] == "text"
    assert trained[0].parts[-1].text.split("\n")[0] == seen[0][0].parts[-1].text.split("\n")[0]


def test_contrastive_batches_are_made_of_the_chunks_of_the_training_set(settings: Settings, tmp_path: Path) -> None:
    run(settings, contrast={"weight": 0.5})
    run(settings, output_dir=tmp_path / "plain")
    (with_them, plain) = (events(tmp_path / name, "train.step") for name in ("run", "plain"))
    assert with_them[0]["loss"] == pytest.approx(plain[0]["loss"] + 0.5 * with_them[0]["contrast/loss"], rel=1e-4)
    assert with_them[0]["contrast/loss"] > 0
    assert "contrast/loss" not in plain[0]
    last = artifacts.load(newest(tmp_path / "run"))
    assert open_model(last.path, principal="dev-1").digest == last.digest


def test_a_head_of_private_documents_is_for_their_readers_alone(
    settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    run(settings)
    chunks = tmp_path / "run" / TRAINING_SET
    about = {
        "initial": checkpoint,
        "data": chunks,
        "output_dir": tmp_path / "head",
        "held_out_share": 0.5,
        "training": {"steps": 1, "batch_sequences": 2, "micro_batch_sequences": 2},
    }
    refused(lambda: train_head(build(HeadConfig, about)), this_user())
    refused(lambda: train_head(build(HeadConfig, {**about, "principal": "hr"})), "hr")
    train_head(build(HeadConfig, {**about, "principal": "dev-1"}))
    made = artifacts.load(newest(tmp_path / "head"))
    assert readers_of(made.config) == readers_of(artifacts.load(chunks).config)
    refused(lambda: open_head(tmp_path / "head"), this_user())
    assert open_head(tmp_path / "head", principal="dev-2").digest == made.digest


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.5), (0.5, 0.0)])
def test_contrastive_batches_are_not_begun_or_ended_within_a_run(
    before: float, after: float, settings: Settings
) -> None:
    run(settings, contrast={"weight": before}, training__stop_at_step=2)
    with pytest.raises(CheckpointError, match=r"step-000002: its weights are not those of this run's model") as error:
        run(settings, contrast={"weight": after}, training__resume_from="latest")
    assert "\n" not in str(error.value)
