"""From the items of an evaluation to its figures, and to the trials behind each figure, for any task."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from ibidem.errors import ArtifactError
from ibidem.evaluation import coding, doc_qa, human_eval, mbpp, mmlu, ratings
from ibidem.evaluation.evidence import Evidence, Metrics, Row

DOC_QA, RATINGS = doc_qa.TASK, ratings.TASK
CHECKED_FOR_CONTAMINATION = (human_eval.TASK, mbpp.TASK, mmlu.TASK)


def _measure_coding(found: Evidence) -> Metrics:
    told = [int(key.removeprefix("pass@")) for key in found.artifact.counts if key.startswith("pass@")]
    return coding.measure(found.items, told)


_MEASURES: dict[str, Callable[[Evidence], Metrics]] = {
    human_eval.TASK: _measure_coding,
    mbpp.TASK: _measure_coding,
    mmlu.TASK: lambda found: mmlu.measure(found.items),
    doc_qa.TASK: lambda found: doc_qa.measure(found.items),
    ratings.TASK: lambda found: ratings.measure(found.items),
}
_KEYS = {
    human_eval.TASK: ("task_id", "sample"),
    mbpp.TASK: ("task_id", "sample"),
    mmlu.TASK: ("subject", "number"),
    doc_qa.TASK: ("id",),
    ratings.TASK: ("id", "criterion"),
}


def measure(found: Evidence) -> Metrics | None:
    """Count the figures of an evaluation from its items; None if the task is unknown.

    Raises:
        ArtifactError: an item is none of its task, or it stands there twice.
    """
    if found.task not in _MEASURES:
        return None
    try:
        keys = Counter(tuple(str(item[part]) for part in _KEYS[found.task]) for item in found.items)
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise ArtifactError(f"{found.artifact.path}: the item {' '.join(twice)} stands there twice")
        _check_outcomes(found)
        return _MEASURES[found.task](found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{found.artifact.path}: its items are not those of {found.task}: {error!r}") from None


def _check_outcomes(found: Evidence) -> None:
    """See that each outcome follows from what the item says of it."""
    for item in found.items:
        if found.task == mmlu.TASK and item["passed"] is not (item["chosen"] == item["answer"]):
            raise ArtifactError(f"{found.artifact.path}: {item['subject']} {item['number']} is not what was chosen")
        if found.task == ratings.TASK:
            told = ratings.is_good(item["people"], item["judges"], found.results["good_from"])
            if item["good"] is not told:
                raise ArtifactError(f"{found.artifact.path}: {item['id']} is not what its raters say")


def trials(found: Evidence, metric: str) -> dict[str, float] | None:
    """Give the scores whose mean a figure is, by item; None if the evaluation has no such figure.

    Problems that stand in the training data do not count.
    """
    known = set((found.results.get("contamination") or {}).get("found", ()))
    if found.task in {human_eval.TASK, mbpp.TASK}:
        return _problems(found.items, known) if metric == "pass@1" else None
    if found.task == mmlu.TASK:
        return _questions(found.items, metric, known)
    if found.task == doc_qa.TASK:
        return _answers(found.items, metric)
    kind, _, criterion = metric.partition(".")
    rated = {item["id"]: item["good"] for item in found.items if item["criterion"] == criterion}
    return {key: float(good) for key, good in rated.items() if good is not None} if kind == "good" and rated else None


def _problems(items: Sequence[Row], known: set[str]) -> dict[str, float]:
    passed: dict[str, list[float]] = defaultdict(list)
    for item in items:
        passed[item["task_id"]].append(float(item["passed"]))
    return {key: sum(each) / len(each) for key, each in passed.items() if key not in known}


def _questions(items: Sequence[Row], metric: str, known: set[str]) -> dict[str, float] | None:
    of_all, _, name = metric.partition(".")
    subjects = mmlu.GROUPS.get(name, (name,)) if name else tuple({item["subject"] for item in items})
    if of_all != "accuracy" or not set(subjects) <= {item["subject"] for item in items}:
        return None
    asked = {f"{item['subject']} {item['number']}": item for item in items if item["subject"] in subjects}
    return {key: float(item["passed"]) for key, item in asked.items() if key not in known}


def _answers(items: Sequence[Row], metric: str) -> dict[str, float] | None:
    of_claims = {"citation_coverage": "covered", "citation_recall": "supported", "unsupported_claims": "supported"}
    if metric in of_claims:  # by question, for the claims of one answer stand and fall together
        claims = {item["id"]: [float(claim[of_claims[metric]]) for claim in item.get("claims", ())] for item in items}
        shares = {key: sum(each) / len(each) for key, each in claims.items() if each}
        return {key: 1 - share for key, share in shares.items()} if metric == "unsupported_claims" else shares
    if metric in {"exact_match", "f1"}:
        return {item["id"]: item.get(metric, 0.0) for item in items if item["answerable"]}
    return None
