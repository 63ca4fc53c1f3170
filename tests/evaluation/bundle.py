"""A bundle of good evidence of every kind for one checkpoint, and the gate over it."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import GateFailed
from ibidem.evaluation import coding, evidence, mmlu
from ibidem.evaluation.chat import chat, digest_of, read_responses
from ibidem.evaluation.config import ChatConfig, DocQaConfig, HumanEvalConfig, RatingsConfig
from ibidem.evaluation.doc_qa import doc_qa
from ibidem.evaluation.doc_qa import measure as measure_documents
from ibidem.evaluation.gate.config import GateConfig
from ibidem.evaluation.gate.gate import gate
from ibidem.evaluation.gate.pin import pins_of
from ibidem.evaluation.human_eval import human_eval
from ibidem.evaluation.ratings import measure as measure_ratings
from ibidem.evaluation.ratings import ratings as import_ratings

N = 90
MEASURES = {
    "human-eval": coding.measure,
    "mmlu": mmlu.measure,
    "doc-qa": measure_documents,
    "ratings": measure_ratings,
}
CRITERIA = {
    "code": {"evidence": "human-eval", "task": "human-eval", "metric": "pass@1", "at_least": 0.9, "least_items": N},
    "knowledge": {
        "evidence": "mmlu", "task": "mmlu", "metric": "accuracy.business", "at_least": 0.6, "least_items": N,
    },
    "answers": {"evidence": "doc-qa", "task": "doc-qa", "metric": "f1", "at_least": 0.9, "least_items": N},
    "documents": {"evidence": "doc-qa", "task": "doc-qa", "metric": "unsupported_claims", "below": 0.05},
    "citations": {"evidence": "doc-qa", "task": "doc-qa", "metric": "citation_coverage", "at_least": 0.9},
    "helpful": {"evidence": "chat", "task": "ratings", "metric": "good.helpful", "at_least": 0.7, "least_items": N},
}  # fmt: skip


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(folder: Path, count: int = N) -> Path:
    rows = [
        {
            "task_id": f"T/{n}",
            "prompt": f'def add{n}(a):\n    """Add {n}."""\n',
            "entry_point": f"add{n}",
            "canonical_solution": f"    return a + {n}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
        }
        for n in range(count)
    ]
    return lines(folder / "problems.jsonl", rows)


def reseal(
    folder: Path, change: Callable[[dict[str, Any], list[dict[str, Any]]], None], *, recount: bool = True, **other: Any
) -> None:
    """Edit an evaluation as somebody would who knows the format: with a manifest, and figures, that fit again."""
    found = evidence.read(folder)
    results, items = dict(found.results), [dict(item) for item in found.items]
    change(results, items)
    if recount:
        with suppress(KeyError, TypeError, ValueError):  # of rows that are none
            results |= MEASURES[found.task](items)
    metrics = {key: results[key] for key in found.artifact.counts if key != "items" and key in results}
    said = {*metrics, "task", "items", "checkpoint_digest"}
    notes = {name: each for name, each in results.items() if name not in said}
    config = {key: value for key, value in found.artifact.config.items() if key != "task"} | other.get("config", {})
    inputs = other.get("inputs", found.artifact.inputs)
    shutil.rmtree(folder)
    evidence.write(folder, found.task, config=config, inputs=inputs, items=items, metrics=metrics, notes=notes)


def make_code(folder: Path, checkpoint: Path, digest: str) -> None:
    samples = [{"task_id": f"T/{n}", "completion": f"    return a + {n}\n", "checkpoint": digest} for n in range(N)]
    human_eval(
        HumanEvalConfig(
            checkpoint=checkpoint,
            samples=lines(folder / "samples.jsonl", samples),
            problems=str(problems(folder)),
            output_dir=folder / "human-eval",
        )
    )


def make_knowledge(folder: Path, checkpoint: Path) -> None:
    items = [
        {
            "subject": subject,
            "number": n + 1,
            "passed": n % 10 != 0,
            "chosen": "AB"[n % 10 == 0],
            "answer": "A",
            "scores": [],
        }
        for subject in mmlu.GROUPS["business"]
        for n in range(N)
    ]
    (folder / "subjects").mkdir()
    for subject in mmlu.GROUPS["business"]:
        questions = "".join(f"Is it so in case {n + 1} of {subject}?,yes,no,maybe,never,A\n" for n in range(N))
        (folder / "subjects" / f"{subject}_test.csv").write_text(questions)
        (folder / "subjects" / f"{subject}_dev.csv").write_text(
            "Is it so?,yes,no,maybe,never,A\n".replace("so", subject)
        )
    asked = mmlu.rows(mmlu.find_subjects(folder / "subjects", ()))
    benchmark = evidence.benchmark_input(asked, "subjects")
    inputs = [benchmark, artifacts.load(checkpoint).as_input("checkpoint", of=folder / "mmlu")]
    notes = {"contamination": {"documents": 1, "datasets": {}, "problems": 0, "found": {}}}
    metrics = mmlu.measure(items)
    config = mmlu.TASK.settings
    evidence.write(folder / "mmlu", "mmlu", config=config, inputs=inputs, items=items, metrics=metrics, notes=notes)


def make_documents(folder: Path, digest: str) -> None:
    data, answers, labels = [], [], []
    for n in range(N):
        passage = f"Part {n} weighs {n} kilograms."
        passages = [{"id": "a", "text": passage}]
        data.append({"id": str(n), "question": f"How heavy is part {n}?", "answers": [passage], "passages": passages})
        answers.append({"id": str(n), "answer": f"Part {n} weighs {n} kilograms [a].", "checkpoint": digest})
        labels += [
            {"premise": passage, "claim": f"Part {n} weighs {m} kilograms.", "supported": n == m} for m in (n, N)
        ]
    config = DocQaConfig(
        data=lines(folder / "data.jsonl", data), predictions=lines(folder / "answers.jsonl", answers),
        calibration=lines(folder / "labels.jsonl", labels), output_dir=folder / "doc-qa",
    )  # fmt: skip
    doc_qa(config)


def make_ratings(folder: Path, checkpoint: Path, *, errs: float = 0.03, raters: int = 2) -> None:
    prompts = lines(folder / "prompts.jsonl", [{"id": f"p{n}", "prompt": f"Question {n}?"} for n in range(N)])
    chat(ChatConfig(checkpoint=checkpoint, prompts=prompts, output_dir=folder / "responses", max_tokens=2))
    artifact, _ = read_responses(folder / "responses")
    bound = {"model_digest": digest_of(artifact, "checkpoint"), "prompts_digest": digest_of(artifact, "prompts")}
    rng = random.Random(3)
    rows = [
        {
            "id": f"p{n}", "rater": f"r{r}", "criterion": "helpful",
            "score": int((n % 10 > 0) != (rng.random() < errs)), **bound,
        }
        for n in range(N)
        for r in range(raters)
    ]  # fmt: skip
    given = lines(folder / "ratings.jsonl", rows)
    import_ratings(RatingsConfig(responses=folder / "responses", ratings=(given,), output_dir=folder / "chat"))


def make_bundle(folder: Path, checkpoint: Path) -> Path:
    """Make a folder with good evidence of all kinds."""
    digest = artifacts.load(checkpoint).digest
    make_code(folder, checkpoint, digest)
    make_knowledge(folder, checkpoint)
    make_documents(folder, digest)
    make_ratings(folder, checkpoint)
    (folder / "pins.json").write_text(json.dumps(pins_of(build(GateConfig, settings(folder, checkpoint)))[0]))
    return folder


def settings(folder: Path, checkpoint: Path, **more: Any) -> dict[str, Any]:
    tree = {
        "checkpoint": checkpoint,
        "output_dir": folder / "gate",
        "evidence": {name: folder / name for name in ("human-eval", "mmlu", "doc-qa", "chat")},
        "benchmarks": {
            "human-eval": str(folder / "problems.jsonl"),
            "mmlu": str(folder / "subjects"),
            "doc-qa": str(folder / "data.jsonl"),
            "chat": str(folder / "prompts.jsonl"),
        },
        "settings": {"doc-qa": {"calibration": str(folder / "labels.jsonl")}},
        "unsigned": ["human-eval", "mmlu", "doc-qa", "chat"],
        "criteria": CRITERIA,
        "accept_supplied": True,
        **more,
    }
    keys = {criterion["evidence"] for criterion in tree["criteria"].values()}
    file = folder / "pins.json"
    pins = json.loads(file.read_text()) if file.exists() else {}
    narrowed = {
        "unsigned": [key for key in tree["unsigned"] if key in keys],
        "settings": {key: value for key, value in tree["settings"].items() if key in keys},
        "pins": {key: value for key, value in pins.items() if key in keys},
    }
    return {**tree, **{name: value for name, value in narrowed.items() if name not in more}}


def decide(folder: Path, checkpoint: Path, **more: Any) -> dict[str, Any]:
    """Run the gate; return gate.json."""
    tree = settings(folder, checkpoint, **more)
    with suppress(GateFailed):
        gate(build(GateConfig, tree))
    return json.loads((Path(tree["output_dir"]) / "gate.json").read_text())
