"""Pinning edits `pins` of a policy, and nothing else."""

from pathlib import Path

import pytest
import yaml

from ibidem.cli import main
from ibidem.evaluation.gate.pin import with_pins

PINS = {"a: b": {"benchmark": "sha256:0"}, "x #y": {"benchmark": "sha256:1", "labels": "sha256:2"}}
CRITERIA = "criteria:\n  code: {evidence: human-eval, task: human-eval, metric: pass@1, at_least: 0.5}\n"


@pytest.mark.parametrize(
    "text",
    [
        "pins: {a: {benchmark: c}}\nseed: 1\n",
        "seed: 1\npins:\n  a:\n    benchmark: c # z\n\n# about criteria\ncriteria: 1\n",
        "'pins':\n  a: {b: c}\nz: 1",
        "pins : \n  a: {b: c}\n",
        "pins: {\n  a: {b: c},\n}\nz: 1\n",
        "a: 1\r\npins:\r\n  k:\r\n    benchmark: q\r\nz: 2\r\n",
        "a: 1",
        "pins:\nz: 1\n",
        "pins: # none\n# hello\nz: 1\n",
        "pins:\n  a: # first\n    benchmark: c\n  # inside\n  b:\n    benchmark: d\n# after\n\nz: 3\n",
        "pins: {}  # empty\nz: 3\n",
    ],
)
def test_all_other_keys_and_comments_stay(text: str) -> None:
    before, after = (yaml.load(each, Loader=yaml.BaseLoader) for each in (text, with_pins(text, PINS)))
    assert after == {**before, "pins": PINS}
    kept = [line for line in text.splitlines() if line.startswith(("#", "z", "seed", "criteria"))]
    assert [line for line in with_pins(text, PINS).splitlines() if line in kept] == kept
    again = with_pins(with_pins(text, PINS), PINS)
    assert again == with_pins(again, PINS)


def test_a_policy_is_pinned_once_and_says_what_its_benchmarks_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "gate.yaml"
    policy.write_text(f"checkpoint: c # ours\noutput_dir: gate\n{CRITERIA}")
    assert main(["gate", "pin", "--policy", str(policy)]) == 0
    assert "human-eval: HumanEval, 164 problems" in capsys.readouterr().out
    pinned = policy.read_text()
    assert "checkpoint: c # ours\n" in pinned
    assert "benchmark: sha256:9345bdf8" in pinned
    assert main(["gate", "pin", "--policy", str(policy)]) == 0
    assert policy.read_text() == pinned


def test_a_linked_policy_is_pinned_where_it_is_and_keeps_its_mode(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"checkpoint: c\noutput_dir: gate\npins:\n{CRITERIA}")
    policy.chmod(0o640)
    (tmp_path / "link.yaml").symlink_to(policy)
    assert main(["gate", "pin", "--policy", str(tmp_path / "link.yaml")]) == 0
    assert (tmp_path / "link.yaml").is_symlink()
    assert "sha256:" in policy.read_text()
    assert policy.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("pins: {human-eval: {benchmark: &d X}}\nsandbox_image: *d\n", "pins cannot be replaced alone"),
        ("settings: {human-eval: {magic: 1}}\n", "has no setting magic"),
        ("benchmarks: {human-eval: problems.jsonl}\n", "line 1 is not JSON"),
        ("pins: [\n", "not YAML"),
    ],
)
def test_a_policy_that_cannot_be_pinned_stays_as_it_is(
    more: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("problems.jsonl").write_text("not a row\n")
    text = f"checkpoint: c\noutput_dir: gate\n{CRITERIA}{more.replace('X', 'sha256:' + '0' * 64)}"
    Path("gate.yaml").write_text(text)
    assert main(["gate", "pin", "--policy", "gate.yaml"]) == 2
    assert said in capsys.readouterr().err
    assert Path("gate.yaml").read_text() == text
