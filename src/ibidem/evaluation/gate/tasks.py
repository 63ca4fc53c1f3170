"""The kinds of evaluation that the gate knows, and the figures that it recomputes."""

from collections import Counter

from ibidem.errors import ArtifactError
from ibidem.evaluation import doc_qa, human_eval, mbpp, mmlu, ratings, refusals, verbatim
from ibidem.evaluation.evidence import Evidence, Metrics
from ibidem.evaluation.task import Task, Trials

TASKS: dict[str, Task] = {
    task.name: task
    for task in (human_eval.TASK, mbpp.TASK, mmlu.TASK, doc_qa.TASK, refusals.TASK, verbatim.TASK, ratings.TASK)
}


def measure(evaluation: Evidence) -> Metrics:
    """Recompute the figures of an evaluation from its items.

    Raises:
        ArtifactError: the task is unknown, or an item is malformed or appears twice.
    """
    task, path = task_of(evaluation), evaluation.artifact.path
    try:
        keys = Counter(tuple(str(item[part]) for part in task.key) for item in evaluation.items)
        if duplicate := next((key for key, count in keys.items() if count > 1), None):
            raise ArtifactError(f"{path}: the item {' '.join(duplicate)} appears twice")
        for item in evaluation.items:
            if not task.follows(item, evaluation.artifact.config):
                key = " ".join(str(item[part]) for part in task.key)
                raise ArtifactError(f"{path}: the outcome of {key} does not follow from its other columns")
        return task.measure(evaluation)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: its items are not items of {evaluation.task}: {error!r}") from None


def recounted(evaluation: Evidence) -> Evidence:
    """Recompute every figure from the items; return the evidence.

    Raises:
        ArtifactError: a figure differs, or the items are malformed.
    """
    counted = measure(evaluation)
    figures = set(evaluation.artifact.counts) - {"items"}
    if any(key not in counted or not _same(evaluation.results.get(key), counted[key]) for key in figures):
        raise ArtifactError(f"{evaluation.artifact.path}: its figures do not follow from its items: it was edited")
    return evaluation


def trials(evaluation: Evidence, metric: str) -> Trials | None:
    """Return the scores whose mean is the figure, by item; None if the evaluation has no such figure."""
    return task_of(evaluation).trials(evaluation.items, metric)


def seen_in_training(evaluation: Evidence) -> set[str]:
    """Return the items that occur in the data that the checkpoint was trained on."""
    return set((evaluation.results.get("contamination") or {}).get("found", ()))


def task_of(evaluation: Evidence) -> Task:
    """Return the task of an evaluation.

    Raises:
        ArtifactError: the task is unknown.
    """
    if evaluation.task not in TASKS:
        raise ArtifactError(f"{evaluation.artifact.path}: the task {evaluation.task!r} is unknown")
    return TASKS[evaluation.task]


def _same(claimed: object, counted: float | None) -> bool:
    if counted is None or isinstance(claimed, bool) or not isinstance(claimed, int | float):
        return claimed is None and counted is None
    return abs(claimed - counted) <= 1e-9
