"""The whole journey, as small as it gets."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

from ibidem import artifacts, jsonl, log
from ibidem.data import shards
from ibidem.demo import HEAD, HEAD_MEASURED, PRACTICE, DemoConfig, _documents, demo
from ibidem.grounding import search
from ibidem.lineage import walk

SHAPE = """\
from ibidem.modeling.config import ModelConfig
MODEL = ModelConfig(vocab_size=4096, width=32, layers=2, heads=2, ffn_hidden=64, context=512)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DemoConfig, list[str]]]:
    """A journey of a model that learns next to nothing from short answers, and what its stages said."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "small.py").write_text(SHAPE)
    config = DemoConfig(
        output_dir=folder / "demo",
        model=folder / "small.py",
        package_cap_bytes=60_000,
        steps=3,
        traces=40,
    )
    events: list[log.Record] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ibidem.demo.ANSWER_TOKENS", 8)
        patch.setattr("ibidem.demo.WINDOW", 128)
        patch.setitem(PRACTICE, "rollout", PRACTICE["rollout"] | {"max_tokens": 8})
        patch.setitem(HEAD, "steps", 2)
        patch.setitem(HEAD_MEASURED, "validation", {"every": 2, "windows": 32})
        with log.showing(events.append):
            demo(config)
        yield config, [each["said"] for each in events if each["event"] == "demo"]


@pytest.fixture(scope="module")
def journey(told: tuple[DemoConfig, list[str]]) -> DemoConfig:
    return told[0]


def test_the_journey_ends_with_a_page_that_traces_back_to_the_packages(journey: DemoConfig) -> None:
    out = journey.output_dir
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "chardet" in page
    assert "LGPL" in page
    result = json.loads((out / "perplexity.json").read_text())
    (checkpoint,) = out.glob("pretrain-*/checkpoints/step-000003")
    assert result["checkpoint_digest"] == artifacts.verify(checkpoint).digest
    states = [(state, node) for _, state, node in walk(checkpoint)]
    assert {state for state, _ in states} == {"ok", "source"}
    assert any(getattr(node, "name", "") == "installed-packages" for _, node in states)


def test_the_gate_blocks_the_tiny_model_and_says_why(journey: DemoConfig) -> None:
    record = json.loads((journey.output_dir / "gate" / "gate.json").read_text())
    assert record["decision"] == "BLOCK"
    verdicts = {each["criterion"]: each for each in record["criteria"]}
    assert verdicts["code.human-eval"]["verdict"] == "FAIL"
    assert verdicts["code.human-eval"]["items"] > 150
    assert "no evidence" not in verdicts["documents.citations"]["reason"]
    assert all(each["verdict"] != "PASS" and each["reason"] for each in verdicts.values())
    assert "must not be released" in (journey.output_dir / "gate" / "gate.html").read_text()


def test_the_model_is_tuned_on_conversations_and_on_problems_that_it_is_never_rewarded_for(journey: DemoConfig) -> None:
    out = journey.output_dir
    made = artifacts.verify(out / "conversations")
    sources = [artifacts.load(out / name) for name in ("traces", "solved")]
    assert {item.digest for item in made.inputs} == {each.digest for each in sources}
    assert made.counts["kept"] == sum(each.counts["kept"] for each in sources)
    names = [row["code"].split("(")[0] for row in jsonl.read(out / "problems.jsonl", "problems")]
    rows = (row for path in shards.shard_paths(out / "solved") for row in shards.read_rows(path, ["text"]))
    solved = "".join(row["text"] for row in rows)
    assert len(names) >= 50
    assert solved.count("def ") > 10
    assert not any(f"{name}(" in solved for name in names)


def test_a_model_that_solves_nothing_is_judged_as_it_is_after_sft(told: tuple[DemoConfig, list[str]]) -> None:
    out, (reason,) = told[0].output_dir, [line for line in told[1] if "left out" in line]
    assert "there is nothing to learn: 0.00 % pass all tests" in reason
    assert "\n" not in reason
    (checkpoint,) = out.glob("sft-*/checkpoints/step-000001")
    record = json.loads((out / "gate" / "gate.json").read_text())
    assert record["checkpoint_digest"] == artifacts.load(checkpoint).digest
    assert f"<code>{checkpoint.parents[1].name}</code>" in (out / "report.html").read_text(encoding="utf-8")


def test_two_principals_are_told_what_each_may_read_of_this_documentation(told: tuple[DemoConfig, list[str]]) -> None:
    page = (told[0].output_dir / "report.html").read_text(encoding="utf-8")
    section = page.split('<section id="documents">')[1].split("</section>")[0]
    ada, guest = section.split("Shown to guest")[:2]
    assert "extending.md" in ada
    assert "supported" in ada
    assert "No passage that you may read answers this." in guest
    assert any("no such chunk, or guest may not read it" in line for line in told[1])


def test_a_chunk_that_the_guest_can_open_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "show", lambda _config: "shown")
    with pytest.raises(AssertionError, match="guest may read chunk"):
        _documents(tmp_path)


def test_the_benchmark_of_the_demo_knows_its_stages(told: tuple[DemoConfig, list[str]]) -> None:
    stages = runpy.run_path(str(REPOSITORY / "benchmarks" / "demo_stages.py"))["STAGES"]
    assert len(stages) == len(told[1]) + 1  # the last one ends with the demo


def test_the_second_time_finds_everything_done(journey: DemoConfig) -> None:
    decided = journey.output_dir / "gate" / "manifest.json"  # a decision is of its day
    manifests = [path for path in journey.output_dir.rglob("manifest.json") if path != decided]
    before = {path: path.stat().st_mtime_ns for path in manifests}
    said = demo(journey)
    assert "report.html" in said
    assert {path: path.stat().st_mtime_ns for path in manifests} == before
    assert len(manifests) >= 4
