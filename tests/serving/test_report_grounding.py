"""The report shows a head's held-out questions by kind; a run without them is refused in one line."""

import json
from pathlib import Path

import pytest

from ibidem.errors import ArtifactError, ConfigError
from ibidem.serving.report_grounding import grounding, kinds_as_text, read_kinds

ROW = {
    "time": 1.0, "event": "head.kind", "kind": "year", "questions": 1234, "wins": 0.5, "wins_at_least": 0.4,
    "wins_at_most": 0.6, "proximity_wins": 0.25,
}  # fmt: skip


def events(run: Path, *rows: dict) -> Path:
    run.mkdir()
    lines = [json.dumps(row) for row in rows]
    (run / "events.jsonl").write_text("\n".join([*lines, '{"torn": ']) + "\n")
    return run


def test_the_last_figures_of_each_kind_are_shown_with_their_interval(tmp_path: Path) -> None:
    run = events(tmp_path / "run", {**ROW, "wins": 0.1}, ROW, {**ROW, "kind": "<b>"}, {**ROW, "event": "train.step"})
    kinds = read_kinds(run)
    assert [(row["kind"], row["wins"]) for row in kinds] == [("year", 0.5), ("<b>", 0.5)]
    page = str(grounding(kinds))
    assert "50.0 % (40.0 % to 60.0 %)" in page
    assert "25.0 %" in page
    assert "1,234" in page
    assert "<b>" not in page
    assert kinds_as_text(run).count("\n") == 2


def test_a_run_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run of ibidem train-head"):
        read_kinds(events(tmp_path / "other", {"time": 1.0, "event": "train.step", "step": 1}))
    with pytest.raises(ConfigError, match="no finished run"):
        read_kinds(events(tmp_path / "torn", {**ROW, "wins": "much"}))
    with pytest.raises(ArtifactError):
        read_kinds(tmp_path / "nothing")
