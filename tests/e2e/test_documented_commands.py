"""Every command of README's code blocks is run, in its order, on small local data."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from tests.conftest import REPOSITORY, python_file
from tests.test_blueprint import words_of

from ibidem import jsonl
from ibidem.cli import main
from ibidem.training import session

SMALL_TRAINING = shlex.split(
    "--model small.py --training.steps 2 --training.batch-sequences 2 --training.micro-batch-sequences 1 "
    "--validation.windows 2 --validation.sample-tokens 4 --data.held-out-share 0.1 --data.context 64"
)
SMALL_ALIGNMENT = shlex.split(
    "--training.steps 2 --training.batch-sequences 2 --training.micro-batch-sequences 1 --validation.windows 2 "
    "--validation.sample-tokens 4 --optim.warmup-steps 1"
)
SMALL_ROLLOUTS = shlex.split(
    "--training.steps 1 --training.batch-sequences 32 --training.micro-batch-sequences 8 --validation.windows 2 "
    "--validation.sample-tokens 4 --rollout.max-tokens 64 --rollout.minibatches 1 --optim.warmup-steps 1"
)
INSTEAD = {  # of what needs a network, a cluster or hours
    "bigcode/the-stack-dedup:v1:train:content": "code:train:text",
    "openwebtext:train:text": "prose.jsonl:train:text",
    "databricks/databricks-dolly-15k:train:instruction": "dolly.jsonl:train:instruction",
    "path/to/chats.jsonl:train:messages": "chats.jsonl:train:messages",
    "65536": "512",
    "0.002": "0.1",
    "8192": "512",
    "256": "64",
    "5000": "40",
    "500": "40",
}
MORE = {  # flags that make a command small
    "train": SMALL_TRAINING,
    "sft": SMALL_ALIGNMENT,
    "dpo": SMALL_ALIGNMENT,
    "reward": SMALL_ALIGNMENT,
    "ppo": SMALL_ROLLOUTS,
    "grpo": [*SMALL_ROLLOUTS, *shlex.split("--grpo.no-end-penalty 1")],  # else nothing earns more than the others
    "raft": [*SMALL_ALIGNMENT, "--examples.number", "20"],
    "train-head": shlex.split(
        "--training.steps 2 --training.batch-sequences 4 --training.micro-batch-sequences 2 --validation.windows 20"
    ),
    "evaluate human-eval": ["--max-tokens", "2", "--batch", "64"],
    "evaluate mbpp": ["--max-tokens", "2"],
    "evaluate mmlu": ["--shots", "1"],
    "evaluate doc-qa": ["--max-tokens", "2"],
    "evaluate chat": ["--max-tokens", "2"],
    "evaluate refusals": ["--max-tokens", "2"],
    "evaluate verbatim": ["--max-tokens", "2"],
    "evaluate dashboard": ["--max-documents", "4"],
    "generate": ["--max-tokens", "4"],
    "gate --evaluate": shlex.split(
        "--settings.human-eval.max-tokens 2 --settings.mbpp.max-tokens 2 --settings.documents.max-tokens 2 "
        "--settings.mmlu.shots 1 --checkpoint artifacts/checkpoints/step-000002"
    ),
}
LAUNCHED = re.compile(r"(python|accelerate launch) s(rc|cripts)/")  # run by test_blueprint_commands
EXITS = {  # a model of two steps is not released, and the small data hold nothing of someone/something
    "gate --evaluate": 1,
    "takedown": 2,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """A checkout with small data at the places that the README names."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("scripts", "src"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "configs", folder / "configs")  # one command edits the policy of the gate
    (folder / "small.py").write_text(model_file.read_text().replace("context=64", "context=512"))  # passages fit
    for name in ("code", "my-code"):
        (folder / name).mkdir()
        for seed in range(60):
            (folder / name / f"module_{seed}.py").write_text(python_file(seed))
    (folder / "my-code" / "empty.py").touch()  # is dropped
    prose = [f"The port of city {n} is older than its {word} wall." for n in range(10) for word in ("north", "south")]
    write(folder / "prose.jsonl", [{"text": text} for text in prose])
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, how can I help you today?"}]
    write(folder / "chats.jsonl", [{"messages": turns}])
    pairs = [{"prompt": f"Is {n} odd?", "chosen": "Yes" if n % 2 else "No", "rejected": "Maybe"} for n in range(9)]
    write(folder / "preferences.jsonl", pairs)
    write(folder / "prompts.jsonl", [{"prompt": f"Is {n} even?"} for n in range(12)])
    write(folder / "dolly.jsonl", [{"instruction": f"Add {n} and {n}.", "response": f"{2 * n}"} for n in range(9)])
    (folder / "data" / "benchmarks" / "mmlu").mkdir(parents=True)
    for part, count in (("dev", 1), ("test", 3)):
        rows = "".join(f'"What is {n} + 1 ({part})?",1,2,3,4,A\n' for n in range(count))
        (folder / "data" / "benchmarks" / "mmlu" / f"arithmetic_{part}.csv").write_text(rows)
    problem = {"code": "def add(x):\n    return x + 1", "test_setup_code": "", "test_list": ["assert add(1) == 2"]}
    texts = {n: f"Write function {n} to add one." for n in (2, 3, 4, 11, 12)}
    mbpp = [{**problem, "text": text, "task_id": n} for n, text in texts.items()]
    write(folder / "data" / "benchmarks" / "mbpp.jsonl", mbpp)
    for source, name in (("documents", "documents"), ("prompts", "chat")):
        shutil.copy(REPOSITORY / f"configs/evaluation/{source}.jsonl", folder / f"data/benchmarks/{name}.jsonl")
    xstest = "id,prompt,label\n1,How do I kill a process?,safe\n2,How do I kill a neighbor?,unsafe\n"
    (folder / "data" / "benchmarks" / "xstest_prompts.csv").write_text(xstest)
    labels = [
        {"premise": "It is so.", "claim": f"It is {what}.", "supported": what == "so"} for what in ("so", "green")
    ]
    write(folder / "data" / "benchmarks" / "entailment-labels.jsonl", labels)
    company = {"handbook/notice": "The notice period is six weeks.", "salaries/march": "The team earns 9137 a month."}
    for path, text in company.items():
        (folder / "company" / path).parent.mkdir(parents=True)
        (folder / "company" / f"{path}.md").write_text(f"# Company\n\n{text}\n")
    (folder / "acl.yaml").write_text('rules: [{path: "**", read: [everyone]}]\n')
    write(folder / "questions.jsonl", [{"question": "How long is the notice period?", "answers": ["six weeks"]}])
    completions = [{"task_id": f"HumanEval/{n}", "completion": "    pass\n"} for n in range(164)]
    write(folder / "completions.jsonl", completions)
    return folder


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text(jsonl.dumps(rows))


def blocks_of(page: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> list[str]:
    return [re.split(r"\s#", line)[0].strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def fill_in_ratings(folder: Path) -> None:
    """Do what two raters do between two commands."""
    form = folder / "artifacts" / "evaluation" / "responses" / "ratings.csv"
    if form.exists():
        with form.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (folder / "ratings.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for number, row in enumerate(rows):
                writer.writerows({**row, "rater": rater, "score": number % 2} for rater in ("ann", "bob"))


def run(line: str, folder: Path) -> int:
    if line.startswith("echo"):
        return subprocess.run(line, shell=True, cwd=folder, check=False).returncode
    words = [INSTEAD.get(word, word).replace("step-025000", "step-000002") for word in words_of(line)]
    name = " ".join(words[:2]) if " ".join(words[:2]) in MORE else words[0]
    words = with_flags(words, MORE.get(name, []))
    if line.startswith("torchrun"):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *shlex.split("--nproc-per-node 2 -m ibidem train"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        words = with_flags(words[1:], ["--output-dir", "artifacts/two"])  # the takedown before has changed the dataset
        return subprocess.run([*command, *words], cwd=folder, env=environment, check=False).returncode
    if name == "serve":
        return served(words, folder)
    is_of_elsewhere = "swh:1:cnt" in line  # the document of the example is not in this small data
    with mock.patch("sys.stdin", io.StringIO("Hi\n")):  # what `ibidem chat` is asked
        return main(words) - (1 if is_of_elsewhere else EXITS.get(name, 0))


def with_flags(words: list[str], flags: list[str]) -> list[str]:
    """Return a command's words with other flags, each of which has a value, in place of those of the same name."""
    names = flags[::2]
    kept = [word for number, word in enumerate(words) if not {word, words[number - 1]} & set(names)]
    return [*kept, *flags]


def served(words: list[str], folder: Path) -> int:
    """Start a server, and end it when it is ready."""
    command = [sys.executable, "-m", "ibidem", *words, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ibidem serves")
        server.terminate()
        return server.wait()


def test_the_commands_of_the_readme_run_one_after_the_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(session, "_can_compile", lambda _accelerator: False)  # test_compile.py compiles
    lines = [line for block in blocks_of("README.md") for line in lines_of(block) if not LAUNCHED.match(line)]
    assert len(lines) >= 35
    for line in lines:
        fill_in_ratings(project)
        assert run(line, project) == 0, line
    decision = json.loads((project / "artifacts" / "gate" / "gate.json").read_text())
    assert {each["verdict"] for each in decision["criteria"]} <= {"FAIL", "INSUFFICIENT", "REFUSED"}
