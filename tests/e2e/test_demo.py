"""The whole journey, as small as it gets."""

import json

import pytest
from tests.conftest import REPOSITORY

from ibidem import artifacts
from ibidem.demo import DemoConfig, demo
from ibidem.lineage import walk


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> DemoConfig:
    config = DemoConfig(
        output_dir=tmp_path_factory.mktemp("demo") / "demo",
        model=REPOSITORY / "configs" / "model" / "tiny.py",
        package_cap_bytes=60_000,
        steps=3,
        traces=40,
    )
    demo(config)
    return config


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


def test_the_second_time_finds_everything_done(journey: DemoConfig) -> None:
    decided = journey.output_dir / "gate" / "manifest.json"  # a decision is of its day
    manifests = [path for path in journey.output_dir.rglob("manifest.json") if path != decided]
    before = {path: path.stat().st_mtime_ns for path in manifests}
    said = demo(journey)
    assert "report.html" in said
    assert {path: path.stat().st_mtime_ns for path in manifests} == before
    assert len(manifests) >= 4
