"""The benchmark of one H200: its stages, and that none of them can hold up the others."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "h200.py"


@pytest.fixture(scope="module")
def h200() -> ModuleType:
    spec = importlib.util.spec_from_file_location("h200", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(name: str) -> list[str]:
    """Return a command that does what its stage is named after."""
    programs = {
        "hangs": "import subprocess; subprocess.run(['sleep', '600'])",
        "fails": "raise SystemExit('no such kernel')",
        "works": "print('a warning'); print('{\"tokens_per_s\": 72000}')",
    }
    return [sys.executable, "-c", programs[name]]


def test_stages_fit_into_nine_minutes_and_bars_are_about_stages(h200: ModuleType) -> None:
    assert sum(stage.limit_s for stage in h200.STAGES) <= h200.BUDGET_S <= 9 * 60
    assert {stage for stage, _ in h200.BARS} <= {stage.name for stage in h200.STAGES}
    bars = {name: bar for (_, name), bar in h200.BARS.items()}
    assert bars["tokens_per_s"] == (">=", 71_000)
    assert bars["peak_gb"] == ("<", 60)
    assert bars["synchronizations_per_step"] == ("<=", 0)
    assert bars["dpo_synchronizations_per_step"] == ("<=", 0)


def test_a_stage_that_hangs_is_killed_one_that_fails_is_reported_and_the_next_one_runs(
    h200: ModuleType, tmp_path: Path
) -> None:
    stages = [h200.Stage("hangs", 0.5), h200.Stage("fails", 60), h200.Stage("works", 60)]
    result = h200.run(stages, tmp_path / "result.json", program, toy=False)
    assert result["stages"]["hangs"]["error"] == "killed after 0 s"
    assert result["stages"]["fails"]["error"] == "exit 1: no such kernel"
    assert result["stages"]["works"]["tokens_per_s"] == 72_000
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_a_stage_for_which_no_time_is_left_is_not_started(h200: ModuleType, tmp_path: Path) -> None:
    stages = [h200.Stage("hangs", 60), h200.Stage("works", 60)]
    result = h200.run(stages, tmp_path / "result.json", program, toy=False, budget_s=0.3)
    assert "killed" in result["stages"]["hangs"]["error"]
    assert "no time is left" in result["stages"]["works"]["error"]


def test_a_result_is_there_after_each_stage(h200: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "result.json"

    def command(name: str) -> list[str]:
        if name == "fails":
            assert json.loads(path.read_text())["stages"].keys() == {"works"}
        return program(name)

    h200.run([h200.Stage("works", 60), h200.Stage("fails", 60)], path, command, toy=True)


def test_bars_are_judged_by_figures_alone(h200: ModuleType) -> None:
    stages = {"step_compiled": {"tokens_per_s": 70_999, "peak_gb": 59.9}}
    verdicts = {row["figure"]: row["holds"] for row in h200.judged(stages)}
    assert verdicts["tokens_per_s"] is False
    assert verdicts["peak_gb"] is True
    assert verdicts["synchronizations_per_step"] is None


@pytest.mark.slow
def test_every_stage_runs_at_toy_size_on_a_cpu_and_no_bar_is_judged(h200: ModuleType, tmp_path: Path) -> None:
    result = h200.run(h200.STAGES, tmp_path / "toy.json", partial(h200.command_of, toy=True), toy=True)
    assert (result["toy"], result["bars"]) == (True, [])
    failed = {name: done["error"] for name, done in result["stages"].items() if "error" in done}
    assert failed == {}
    found: dict[str, Any] = result["stages"]
    assert found["correctness"]["loss_error_float32"] < 1e-6
    assert found["correctness"]["gradient_error_bfloat16"] < 0.05
    assert "mfu_full_attention" not in found["step_compiled"]
    for row in [*found["step_kernels"]["rows"], found["step_float8"]]:
        assert row.get("said") == "not installed" or row["tokens_per_s"] > 0
    assert [row.get("said") for row in found["decode"]["rows"]] == [None, "a CPU has none"] * 2
    rows = {
        row.get("implementation", row.get("loss")): row for row in found["attention"]["rows"] + found["loss"]["rows"]
    }
    assert {"FA3", "FA4", "liger-kernel"} < rows.keys()
    assert all(row.get("said") == "not installed" or row["ms"] > 0 for row in rows.values())
    assert all(found["alignment"][f"{name}_tokens_per_s"] > 0 for name in ("sft", "dpo", "reward"))
