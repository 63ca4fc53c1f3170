"""What the gate must know of each kind of evaluation: from its items to its figures, and to the trials behind each."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibidem.artifacts import Input
from ibidem.errors import ArtifactError
from ibidem.evaluation import chat, coding, doc_qa, human_eval, mbpp, mmlu, ratings
from ibidem.evaluation.evidence import Evidence, Metrics
from ibidem.grounding.support import WordCover
from ibidem.jsonl import Row

Trials = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One kind of evaluation."""

    key: tuple[str, ...]
    """What tells its items apart."""
    measure: Callable[[Evidence], Metrics]
    """Its figures."""
    trials: Callable[[Sequence[Row], str], Trials | None]
    """The scores whose mean a figure is, by item; None if it has no such figure."""
    benchmark: Callable[[str], list[Input]]
    """The files it may be made of, by the place where the benchmark stands."""
    follows: Callable[[Row, Mapping[str, Any]], bool] = lambda _item, _config: True
    """Does an item's outcome follow from what the item says of it?"""
    differs: Callable[[Evidence, str], str | None] = lambda _found, _place: None
    """Names an item that the benchmark has and the evaluation has not, or has with another answer."""
    is_coding: bool = False
    """Its programs can be judged again."""
    is_published: bool = False
    """Its problems are at large, so they may stand in training data."""


def measure(found: Evidence) -> Metrics:
    """Count the figures of an evaluation from its items.

    Raises:
        ArtifactError: the task is unknown, an item is none of its task, or it stands there twice.
    """
    task, path = task_of(found), found.artifact.path
    try:
        keys = Counter(tuple(str(item[part]) for part in task.key) for item in found.items)
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise ArtifactError(f"{path}: the item {' '.join(twice)} stands there twice")
        for item in found.items:
            if not task.follows(item, found.artifact.config):
                key = " ".join(str(item[part]) for part in task.key)
                raise ArtifactError(f"{path}: the outcome of {key} is not what the item says of it")
        return task.measure(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: its items are not those of {found.task}: {error!r}") from None


def trials(found: Evidence, metric: str) -> Trials | None:
    """Give the scores whose mean a figure is, by item; None if the evaluation has no such figure.

    Problems that stand in the training data do not count.
    """
    known = set((found.results.get("contamination") or {}).get("found", ()))
    scores = task_of(found).trials(found.items, metric)
    return None if scores is None else {key: score for key, score in scores.items() if key not in known}


def task_of(found: Evidence) -> Task:
    """Find the kind of an evaluation.

    Raises:
        ArtifactError: it is of none.
    """
    if found.task not in TASKS:
        raise ArtifactError(f"{found.artifact.path}: the task {found.task!r} is unknown")
    return TASKS[found.task]


def _measure_coding(found: Evidence) -> Metrics:
    told = [int(key.removeprefix("pass@")) for key in found.artifact.counts if key.startswith("pass@")]
    return coding.measure(found.items, told)


def _problems(items: Sequence[Row], metric: str) -> Trials | None:
    passed: dict[str, list[float]] = defaultdict(list)
    for item in items:
        passed[item["task_id"]].append(float(item["passed"]))
    return {key: sum(each) / len(each) for key, each in passed.items()} if metric == "pass@1" else None


def _questions(items: Sequence[Row], metric: str) -> Trials | None:
    of_all, _, name = metric.partition(".")
    subjects = mmlu.GROUPS.get(name, (name,)) if name else tuple({item["subject"] for item in items})
    if of_all != "accuracy" or not set(subjects) <= {item["subject"] for item in items}:
        return None
    asked = [item for item in items if item["subject"] in subjects]
    return {f"{item['subject']} {item['number']}": float(item["passed"]) for item in asked}


def _answers(items: Sequence[Row], metric: str) -> Trials | None:
    of_claims = {"citation_coverage": "covered", "citation_recall": "supported", "unsupported_claims": "supported"}
    if metric in of_claims:  # by question, for the claims of one answer stand and fall together
        claims = {item["id"]: [float(claim[of_claims[metric]]) for claim in item.get("claims", ())] for item in items}
        shares = {key: sum(each) / len(each) for key, each in claims.items() if each}
        return {key: 1 - share for key, share in shares.items()} if metric == "unsupported_claims" else shares
    if metric in {"exact_match", "f1"}:
        return {item["id"]: item.get(metric, 0.0) for item in items if item["answerable"]}
    return None


def _responses(items: Sequence[Row], metric: str) -> Trials | None:
    kind, _, criterion = metric.partition(".")
    rated = {item["id"]: item["good"] for item in items if item["criterion"] == criterion}
    return {key: float(good) for key, good in rated.items() if good is not None} if kind == "good" and rated else None


def _differs_from_mmlu(found: Evidence, folder: str) -> str | None:
    files = mmlu.find_subjects(Path(folder), ())
    due = {
        (question.subject, question.number): mmlu.LETTERS[question.answer]
        for subject, (test, _) in files.items()
        for question in mmlu.read(subject, test)
    }
    told = {(item["subject"], item["number"]): item["answer"] for item in found.items}
    return next((" ".join(map(str, key)) for key in due.keys() | told.keys() if due.get(key) != told.get(key)), None)


def _differs_from_questions(found: Evidence, file: str) -> str | None:
    """Assess the answers again; where a model decided what supports what, all but that."""
    judge = WordCover(found.artifact.config["word_share"])
    is_ours = found.artifact.config["entailment"] == judge.name
    questions = {question.id: question for question in doc_qa.read_questions(Path(file))}
    told = {item["id"]: item for item in found.items}
    for key in questions.keys() | told.keys():
        if key not in questions or key not in told:
            return str(key)
        due = doc_qa.assess(questions[key], told[key]["answer"], judge, found.artifact.config["abstentions"])
        names = due.keys() if is_ours else due.keys() - {"claims"}
        if any(due[name] != told[key].get(name) for name in names):
            return str(key)
    return None


_CODING = Task(
    key=("task_id", "sample"),
    measure=_measure_coding,
    trials=_problems,
    benchmark=human_eval.benchmark,
    is_coding=True,
    is_published=True,
)
TASKS = {
    human_eval.TASK: _CODING,
    mbpp.TASK: _CODING,
    mmlu.TASK: Task(
        key=("subject", "number"),
        measure=lambda found: mmlu.measure(found.items),
        trials=_questions,
        benchmark=lambda folder: mmlu.benchmark(mmlu.find_subjects(Path(folder), ())),
        follows=lambda item, _config: item["passed"] is (item["chosen"] == item["answer"]),
        differs=_differs_from_mmlu,
        is_published=True,
    ),
    doc_qa.TASK: Task(
        key=("id",),
        measure=lambda found: doc_qa.measure(found.items),
        trials=_answers,
        benchmark=lambda file: [doc_qa.benchmark(Path(file))],
        differs=_differs_from_questions,
    ),
    ratings.TASK: Task(
        key=("id", "criterion"),
        measure=lambda found: ratings.measure(found.items),
        trials=_responses,
        benchmark=lambda file: [chat.benchmark(Path(file))],
        follows=lambda item, config: (
            item["good"] is ratings.is_good(item["people"], item["judges"], config["good_from"])
        ),
    ),
}
