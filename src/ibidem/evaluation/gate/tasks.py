"""The kinds of evaluation that the gate knows, and what it counts again of each."""

from collections import Counter

from ibidem.errors import ArtifactError
from ibidem.evaluation import doc_qa, human_eval, mbpp, mmlu, ratings
from ibidem.evaluation.evidence import Evidence, Metrics
from ibidem.evaluation.task import Task, Trials

TASKS: dict[str, Task] = {
    task.name: task for task in (human_eval.TASK, mbpp.TASK, mmlu.TASK, doc_qa.TASK, ratings.TASK)
}


def measure(evaluation: Evidence) -> Metrics:
    """Count the figures of an evaluation from its items.

    Raises:
        ArtifactError: the task is unknown, an item is none of its task, or it appears twice.
    """
    task, path = task_of(evaluation), evaluation.artifact.path
    try:
        keys = Counter(tuple(str(item[part]) for part in task.key) for item in evaluation.items)
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise ArtifactError(f"{path}: the item {' '.join(twice)} appears twice")
        for item in evaluation.items:
            if not task.follows(item, evaluation.artifact.config):
                key = " ".join(str(item[part]) for part in task.key)
                raise ArtifactError(f"{path}: the outcome of {key} is not what the item says of it")
        return task.measure(evaluation)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: its items are not those of {evaluation.task}: {error!r}") from None


def trials(evaluation: Evidence, metric: str) -> Trials | None:
    """Give the scores whose mean a figure is, by item; None if the evaluation has no such figure.

    Problems that stand in the training data do not count.
    """
    known = set((evaluation.results.get("contamination") or {}).get("found", ()))
    scores = task_of(evaluation).trials(evaluation.items, metric)
    return None if scores is None else {key: score for key, score in scores.items() if key not in known}


def task_of(evaluation: Evidence) -> Task:
    """Find the kind of an evaluation.

    Raises:
        ArtifactError: it is of none.
    """
    if evaluation.task not in TASKS:
        raise ArtifactError(f"{evaluation.artifact.path}: the task {evaluation.task!r} is unknown")
    return TASKS[evaluation.task]
