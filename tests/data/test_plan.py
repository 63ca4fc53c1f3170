"""The plan of a preprocessing: its constants are what the benchmarks measured, and its sums are right."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from ibidem.cli import main
from ibidem.data import plan
from ibidem.data.plan import DataPlanConfig, estimate

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def result(name: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def test_the_constants_are_those_of_the_benchmarks() -> None:
    pipeline = result("public_data_pipeline")["pipeline"]
    assert pytest.approx(pipeline["mb_per_cpu_s"], rel=0.25) == plan.PREPARED_MB_PER_CPU_S
    assert 1e6 * pipeline["peak_mb"] <= 2 * plan.WORKER_BYTES
    runs = json.loads((RESULTS / "dedup_scaling.json").read_text())["runs"]
    of = {run["corpus"]: run for run in runs if run["documents"] == 4_000_000}
    none, some = of["random, 0% similar"], of["random, 40% similar"]
    assert pytest.approx(none["cpu_us_a_document"], rel=0.25) == plan.DECIDED_CPU_US
    assert pytest.approx(some["cpu_us_a_document"], rel=0.25) == plan.DECIDED_CPU_US + 0.4 * plan.SIMILAR_CPU_US
    joined = plan.JOINED_CPU_US + 0.4 * plan.JOINED_SIMILAR_CPU_US
    assert pytest.approx(some["serial_cpu_us_a_document"], rel=0.5) == joined
    assert max(none["peak_bytes_a_document"], some["peak_bytes_a_document"]) <= 1.25 * plan.DRIVER_BYTES
    assert max(none["disk_bytes_a_document"], some["disk_bytes_a_document"]) <= 1.1 * plan.DECISION_DISK_BYTES


def test_more_machines_take_less_time_but_for_what_the_driver_does_alone() -> None:
    config = DataPlanConfig(gigabytes=4_000, documents=10**9)
    estimates = [estimate(config, machines) for machines in (1, 4, 16, 64)]
    for fewer, more in pairwise(estimates):
        assert more.join_s == fewer.join_s
        assert 4 * more.prepare_s == pytest.approx(fewer.prepare_s)
        assert more.total_s < fewer.total_s
    assert estimates[-1].total_s > estimates[-1].join_s
    assert estimate(DataPlanConfig(similar=0.9), 1).decide_s > estimate(DataPlanConfig(similar=0.1), 1).decide_s
    faster = DataPlanConfig(gigabytes=4_000, documents=10**9, store_gb_per_s=100.0)
    assert estimate(faster, 1).total_s < estimates[0].total_s


def test_the_command_sets_clusters_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "data", "--gigabytes", "100", "--machines", "1", "8"]) == 0
    first, *_, assumed = capsys.readouterr().out.splitlines()
    assert first.split() == ["machines,", "cores", "1,", "32", "8,", "256"]
    assert assumed.startswith("assumed: 12,500,000 documents, 30 % of them similar")
    for bad in (["--gigabytes", "0"], ["--similar", "1.5"], ["--machines", "0"], ["--documents", "-1"]):
        assert main(["plan", "data", *bad]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--machines"], "--machines: give at least one"),
        (["--machines", ""], "--machines must be a whole number, not ''"),
        (["--machines="], "--machines must be a whole number, not ''"),
        (["--machines", "4", "many"], "--machines must be a whole number, not 'many'"),
        (["--gigabytes", "1e30"], "--gigabytes: input should be less than or equal to 1000000000 (got 1e30)"),
        (["--gigabytes", "1e308"], "--gigabytes: input should be less than or equal to 1000000000 (got 1e308)"),
        (["--documents", "1" + 30 * "0"], "--documents: input should be less than or equal to 1000000000000000 (got 1"),
        (["--machines", "1000000000"], "--machines: input should be less than or equal to 1000000 (got 1000000000)"),
        (["--store-gb-per-s", "1e-300"], "--store-gb-per-s: input should be greater than or equal to 0.001 (got"),
    ],
)
def test_what_no_cluster_has_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "data", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ibidem: {said}")


def test_the_largest_plan_has_figures() -> None:
    most = DataPlanConfig(
        gigabytes=1e9, documents=10**15, files=10**12, machines=(1,), cores=1, store_gb_per_s=0.001, shard_size=1,
        price_per_machine_hour=1e6, price_per_million_reads=1e6, price_per_million_writes=1e6,
    )  # fmt: skip
    lines = plan.plan(most).splitlines()
    assert len(lines) == len(plan.ROWS) + 1
    assert not [line for line in lines[:-1] if len(line) > 100]
