"""SFT: what it learns, that it stops, resumes to the bit, and refuses what cannot be learned from."""

import gzip
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.training.rlhf.preference_data import kill_and_resume
from tests.training.test_resume import Settings, changed, in_two, losses, weights

from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build
from ibidem.data import shards
from ibidem.errors import ConfigError, DataError, IbidemError
from ibidem.lineage import walk
from ibidem.training import session
from ibidem.training.rlhf.config import SftConfig
from ibidem.training.rlhf.setup import set_up
from ibidem.training.rlhf.sft_pipeline import read, sft

LAUNCHER = REPOSITORY / "src" / "training" / "rlhf" / "sft_pipeline.py"
COLORS = ("red", "green", "blue", "gray", "white", "black", "brown", "pink")
THINGS = ("car", "door", "hat", "lamp", "shoe", "boat", "leaf", "bird", "coat", "ring")


def talk(asked: str, said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 questions about things of a color, answers of different lengths."""
    rng = random.Random(0)
    rows = [
        {"messages": talk(f"Which color has the {color} {thing}?", " ".join([color] * rng.randrange(1, 4)))}
        for color in COLORS
        for thing in THINGS
    ]
    return write(tmp_path_factory.mktemp("talks") / "talks.jsonl", rows)


@pytest.fixture
def settings(checkpoint: Path, talks: Path, tmp_path: Path) -> Settings:
    return {
        "initial": checkpoint,
        "data": talks,
        "output_dir": tmp_path / "run",
        "training": {"steps": 6, "batch_sequences": 8, "micro_batch_sequences": 4, "mixed_precision": "no"},
        "optim": {"lr": 3e-3, "warmup_steps": 1},
        "validation": {"every": 3, "sample_tokens": 4},
        "checkpoints": {"every": 3},
    }


def run(settings: Settings, **changes: object) -> str:
    return sft(build(SftConfig, changed(settings, **changes)))


def dataset_of(run: Path) -> artifacts.Artifact:
    """The dataset that was made from the file."""
    (folder,) = (run / "data").iterdir()
    return shards.load_dataset(folder)


def events(run: Path, name: str) -> list[dict]:
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == name]


def test_the_result_is_a_checkpoint_that_knows_what_it_was_made_from(settings: Settings, checkpoint: Path) -> None:
    said = run(settings)
    last = settings["output_dir"] / "checkpoints" / "step-000006"
    assert said == f"{last}: step 6 of 6"
    made = artifacts.verify(last, kind="checkpoint")
    inputs = {item.role: item for item in made.inputs}
    assert set(inputs) == {"data", "tokenizer", "initial"}
    assert inputs["initial"].digest == artifacts.load(checkpoint).digest
    assert inputs["data"].digest == dataset_of(settings["output_dir"]).digest
    assert [event["targets"] for event in events(settings["output_dir"], "train.step")]


def test_a_dataset_teaches_what_its_file_does(settings: Settings, tmp_path: Path) -> None:
    run(settings)
    dataset = dataset_of(settings["output_dir"])
    run(settings, data=dataset.path, output_dir=tmp_path / "again")
    assert weights(tmp_path / "again", 6) == weights(settings["output_dir"], 6)


def test_accumulation_is_one_batch_though_the_answers_differ_in_length(settings: Settings, tmp_path: Path) -> None:
    for size in (1, 8):
        run(settings, output_dir=tmp_path / str(size), training__micro_batch_sequences=size)
    one, eight = (events(tmp_path / size, "train.step") for size in ("1", "8"))
    assert len({event["targets"] for event in one}) > 1
    for name in ("loss", "grad_norm"):
        assert [event[name] for event in one] == pytest.approx([event[name] for event in eight], rel=1e-4)
    assert one[0]["loss"] == pytest.approx(eight[0]["loss"], rel=1e-6)


def test_two_processes_train_what_one_does_and_resume_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    two = changed(settings, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        in_two(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=LAUNCHER)
    one, whole = losses(tmp_path / "one"), losses(tmp_path / "whole")
    assert list(one.values()) == pytest.approx(list(whole.values()), rel=1e-5)
    measured = [
        [event["held_out_loss"] for event in events(tmp_path / name, "train.measured")] for name in ("one", "whole")
    ]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)
    assert losses(tmp_path / "parts") == whole
    assert weights(tmp_path / "whole", 6) == weights(tmp_path / "parts", 6)


def test_a_killed_run_resumes_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    whole = changed(settings, training__steps=40, checkpoints__every=5, validation__every=40)
    run(whole, output_dir=tmp_path / "whole")
    kill_and_resume(whole, LAUNCHER, tmp_path, at=5)
    assert weights(tmp_path / "killed", 40) == weights(tmp_path / "whole", 40)


def test_what_was_trained_to_stop_stops(settings: Settings) -> None:
    run(
        settings,
        training__steps=200,
        validation__every=200,
        validation__sample_tokens=30,
        validation__prompts=["Which color has the red car?", "Which color has the blue hat?"],
        checkpoints__every=200,
    )
    before, after = (events(settings["output_dir"], "train.sample")[part] for part in (slice(0, 2), slice(2, 4)))
    assert {event["finish"] for event in after} == {"turn"}
    assert {event["finish"] for event in before} == {"length"}
    loss = [event["held_out_loss"] for event in events(settings["output_dir"], "train.measured")]
    assert loss[-1] < 0.5 * loss[0]


def test_whole_prompts_are_held_out(settings: Settings, tmp_path: Path) -> None:
    rows = [
        {"messages": talk(f"Question {number}?", said)} for number in range(40) for said in ("yes", "no", "perhaps")
    ]
    rows += [{"messages": [*talk(f"Question {n}?", "why"), *talk(f"Since {n}", "yes")]} for n in range(40)]
    config = build(SftConfig, changed(settings, data=write(tmp_path / "d.jsonl", rows), held_out_share=0.3))
    setup = set_up(config)
    data = read(config, setup)
    sides = [{bytes(each.ids_S[: each.is_trained_S.argmax()]) for each in side} for side in (data.train, data.held_out)]
    assert not sides[0] & sides[1]
    assert len(data.held_out) % 4 == 0
    assert 0 < len(data.held_out) < len(data.train)


def test_what_is_too_long_is_left_out_whole_and_counted(settings: Settings, tmp_path: Path) -> None:
    rows = [{"messages": talk(f"Question {number}?", "yes")} for number in range(20)]
    rows.append({"messages": talk("A long one?", "word " * 200)})
    rows.append({"messages": [{"role": "user", "content": "Nobody answers?"}]})
    rows += [{"messages": talk("Question 3?", "yes")}, {"messages": [{"role": "judge", "content": "Order!"}]}]
    rows.append({"messages": [*talk("Two turns?", "yes"), {"role": "user", "content": "Thanks"}]})
    run(settings, data=write(tmp_path / "d.jsonl", rows))
    counts = events(settings["output_dir"], "train.conversations")[0]
    assert counts["left_out"] == {"longer than the context": 1, "no answer": 1, "quarantined": 1, "duplicate.exact": 1}
    assert counts["train"] + counts["held_out"] == 21


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "absent.jsonl"}, "data absent.jsonl: no such file or folder"),
        ({"data": REPOSITORY / "src"}, "a folder must be a preprocessed dataset"),
        ({"data": REPOSITORY / "README.md"}, "not a file of JSON lines, Parquet or Arrow"),
        ({"initial": REPOSITORY}, "no artifact here .* expected a checkpoint"),
        ({"training__batch_sequences": 6}, "micro_batch_sequences=4 does not divide batch_sequences=6"),
        ({"training__compile": True}, "conversations differ in length"),
        ({"held_out_share": 0.9999}, "leaves none to train on"),
        ({"file": {"column": "nope"}}, r"no column nope \(it has 'messages'\)"),
    ],
)
def test_what_cannot_work_is_one_line(settings: Settings, change: dict, said: str) -> None:
    with pytest.raises(IbidemError, match=said):
        run(settings, **change)


def test_a_file_without_conversations_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column chosen, .* \(it has 'words'\)"):
        run(settings, data=write(tmp_path / "a.jsonl", [{"words": "x"}]))
    with pytest.raises(DataError, match="no line is a JSON object"):
        run(settings, data=write(tmp_path / "b.jsonl", ["x", 3]))
    with pytest.raises(DataError, match=r"no conversation to train on \(1 no answer\)"):
        run(settings, data=write(tmp_path / "c.jsonl", [{"messages": talk("Hi", "")[:1]}]))


def test_a_damaged_or_strange_file_is_one_line(settings: Settings, tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps({"messages": talk("Hi", "Ho")}).encode() for _ in range(99)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.jsonl.gz").write_bytes(b"no")
    (tmp_path / "no.parquet").write_bytes(b"no no")
    for name in ("cut.jsonl.gz", "no.jsonl.gz", "no.parquet"):
        with pytest.raises(DataError, match=f"data .*{name}: cannot be read: "):
            run(settings, data=tmp_path / name)
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ConfigError, match=r"pipe\.jsonl: not a regular file"):
        run(settings, data=tmp_path / "pipe.jsonl")


def test_a_run_is_not_made_inside_the_checkpoints_of_another(settings: Settings) -> None:
    run(settings)
    with pytest.raises(ConfigError, match=r"inside the run .*; choose a folder outside of it"):
        run(settings, output_dir=settings["output_dir"] / "checkpoints")


def test_a_checkpoint_and_all_that_it_was_made_from_can_be_verified(settings: Settings, tmp_path: Path) -> None:
    run(settings)
    assert main(["verify", str(settings["output_dir"])]) == 0
    run(settings, initial=settings["output_dir"], output_dir=tmp_path / "next")
    assert main(["verify", str(tmp_path / "next")]) == 0


def test_a_resumed_run_of_other_data_is_refused_and_keeps_its_own(settings: Settings, tmp_path: Path) -> None:
    run(settings, training__stop_at_step=3)
    before = dataset_of(settings["output_dir"])
    other = write(tmp_path / "other.jsonl", [{"messages": talk(f"Question {number}?", "yes")} for number in range(20)])
    with pytest.raises(IbidemError, match="was trained on other data"):
        run(settings, data=other, training__resume_from="latest")
    assert artifacts.verify(before.path).digest == before.digest
    last = settings["output_dir"] / "checkpoints" / "step-000003"
    assert {state for _, state, _ in walk(last)} <= {"ok", "source"}


def test_a_file_is_held_to_the_law_and_a_removed_document_stays_out(settings: Settings, tmp_path: Path) -> None:
    rows = [{"messages": talk(f"Question {n}?", f"Write to ann{n}@firm.org about the matter.")} for n in range(20)]
    rows.append({"messages": talk("Whose fault is it?", "It is the fault of John Miller, he says.")})
    asked = {"data": write(tmp_path / "d.jsonl", rows)}
    run(settings, **asked)
    dataset = dataset_of(settings["output_dir"])
    texts = [row["text"] for path in shards.shard_paths(dataset.path) for row in shards.read_rows(path, ["text"])]
    assert len(texts) == 21
    assert not any("@firm.org" in text for text in texts)
    request = tmp_path / "requests.jsonl"
    request.write_text(json.dumps({"kind": "text", "value": "It is the fault of John Miller, he says."}) + "\n")
    assert main(["takedown", "apply", str(request), "--dataset", str(dataset.path), "--artifacts", str(tmp_path)]) == 0
    again = {**asked, "training__resume_from": "latest"}
    with pytest.raises(IbidemError, match=r"give them \(removals.requests\)"):
        run(settings, **again)
    with pytest.raises(IbidemError, match="was trained on other data"):
        run(settings, **{**again, "file": {"removals": {"requests": [request]}}})
    run(settings, **{**asked, "file": {"removals": {"requests": [request]}}, "output_dir": tmp_path / "new"})
    assert dataset_of(tmp_path / "new").counts["kept"] == 20


def test_the_manifest_names_the_checkpoint_whose_weights_were_loaded(
    settings: Settings, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(checkpoint.parent.parent, base)
    chosen = base / "checkpoints" / "step-000010"
    newer = base / "checkpoints" / "step-000020"
    load = session.load_weights

    def load_later(model: object, folder: Path) -> None:
        shutil.copytree(chosen, newer)  # the base run goes on meanwhile
        load(model, folder)
        assert folder == chosen

    monkeypatch.setattr(session, "load_weights", load_later)
    run(settings, initial=base)
    last = artifacts.load(settings["output_dir"] / "checkpoints" / "step-000006")
    (initial,) = [item for item in last.inputs if item.role == "initial"]
    assert (last.path / initial.name).resolve() == chosen.resolve()
