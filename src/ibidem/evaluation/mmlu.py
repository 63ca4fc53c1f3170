"""MMLU: multiple choice over subjects, few-shot, from the original CSV files: `ibidem evaluate mmlu`.

Source: Hendrycks et al. 2021, arXiv:2009.03300, and its evaluate.py for the prompt.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ibidem import log
from ibidem.config import build, settings
from ibidem.data.filters.contamination import ProblemText
from ibidem.errors import ConfigError
from ibidem.evaluation import contamination, evidence
from ibidem.evaluation.config import MmluConfig
from ibidem.evaluation.subjects import LETTERS, Question, find_subjects, part_of, rows
from ibidem.evaluation.task import Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import between, counted, percent
from ibidem.inference import models
from ibidem.inference.model_id import ModelId, identify
from ibidem.jsonl import Row
from ibidem.statistics import mean_bounds
from ibidem.trackers import check

NAME = "mmlu"
GROUPS = {
    "business": ("business_ethics", "management", "marketing"),
    "security": ("computer_security",),
    "software": ("college_computer_science", "high_school_computer_science", "machine_learning"),
}


def mmlu(config: MmluConfig) -> str:
    """Evaluate, and return the figures as a line.

    Raises:
        ConfigError: a subject does not exist, the checkpoint is not a model, or a tracker is not installed.
        DataError: a row is not a question.
    """
    check(config.trackers)
    files = find_subjects(config.data, config.subjects)
    model_id = identify(config.checkpoint)
    asked_rows = rows(files)
    inputs = [evidence.benchmark_input(asked_rows, config.data.name), model_id.as_input(of=config.output_dir)]
    questions = {name: (part_of(asked_rows, name, "test"), part_of(asked_rows, name, "dev")) for name in files}
    fewest = min(questions, key=lambda name: len(questions[name][1]))
    if (at_hand := len(questions[fewest][1])) < config.shots:
        raise ConfigError(
            f"data {config.data}: {fewest} has {counted(at_hand, 'example')}; give --shots no more than that"
        )
    total = sum(len(tests) for tests, _ in questions.values())
    questions = {name: (tests[: config.limit], examples) for name, (tests, examples) in questions.items()}
    asked = [question for tests, _ in questions.values() for question in tests]
    limited = {"limit": config.limit, "of": total} if config.limit is not None and len(asked) < total else {}
    chosen = settings(config) | {"limit": limited.get("limit")}
    if not evidence.finished(config.output_dir, NAME, config=chosen, inputs=inputs):
        model = models.open_model(model_id.path, model_id.digest)
        items = []
        shown = {name: examples[: config.shots] for name, (_, examples) in questions.items()}
        models.report_truncated(model, [prompt(each, shown[each.subject]) for each in asked], 1)
        with log.progress("mmlu", len(asked), "questions") as bar:
            for tests, examples in questions.values():
                for question in tests:
                    items.append(answer(model, question, examples[: config.shots], config.scoring, config.bos))
                    bar.advance()
        made = {"shots": config.shots, "scoring": config.scoring, "bos": config.bos, "chance": 1 / len(LETTERS)}
        notes = {**made, **limited, "contamination": _contamination(model_id, asked)}
        evidence.write(
            config.output_dir,
            NAME,
            config=chosen,
            inputs=inputs,
            items=items,
            metrics=measure(items),
            notes=notes,
            trials=_trials,
        )
    evaluation = evidence.read(config.output_dir)
    track(evaluation, config.trackers)
    results = evaluation.results
    figures = ", ".join(f"{key} {percent(value)}" for key, value in results.items() if key.startswith("accuracy"))
    bounds = between(mean_bounds([float(item["passed"]) for item in evaluation.items]))
    said = f"{bounds} with 95 % confidence; guessing has {percent(1 / len(LETTERS), digits=0)}"
    extent = counted(results["items"], "question")
    if "limit" in results:
        extent = f"the first {results['limit']} questions of each subject, {results['items']:,} of {results['of']:,}"
    return f"mmlu: {figures} on {extent} ({said}); {config.output_dir}"


def answer(
    model: models.LanguageModel,
    question: Question,
    examples: Sequence[Question],
    scoring: str,
    bos: models.Bos = "always",
) -> Row:
    """Let the model choose; `scores` are log-likelihoods in nats, in the order of the choices.

    letter    scores " A" to " D" after the question with its choices
    text      scores the choices themselves after the bare question; the highest score per byte wins
    """
    if scoring == "letter":
        scores = models.option_scores(model, prompt(question, examples), [f" {letter}" for letter in LETTERS], bos)
        compared = scores
    else:
        options = [f" {choice}" for choice in question.choices]
        scores = models.option_scores(model, prompt(question, examples, with_choices=False), options, bos)
        compared = [score / max(1, len(option.encode())) for score, option in zip(scores, options, strict=True)]
    chosen = max(range(len(LETTERS)), key=compared.__getitem__)
    return {
        "subject": question.subject,
        "number": question.number,
        "passed": chosen == question.answer,
        "chosen": LETTERS[chosen],
        "answer": LETTERS[question.answer],
        "scores": scores,
    }


def prompt(question: Question, examples: Sequence[Question], *, with_choices: bool = True) -> str:
    """Return the prompt: the examples with their answers, then the question."""
    subject = question.subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    shown = [f"{_ask(each, with_choices)} {_solution(each, with_choices)}\n\n" for each in examples]
    return head + "".join(shown) + _ask(question, with_choices)


def measure(items: Sequence[Row]) -> evidence.Metrics:
    """Compute the share of correct answers: overall, by group and by subject."""
    by_subject = defaultdict(list)
    for item in items:
        by_subject[item["subject"]].append(float(item["passed"]))
    metrics = {"accuracy": evidence.mean([float(item["passed"]) for item in items])}
    for group, subjects in GROUPS.items():
        passed = [each for subject in subjects for each in by_subject.get(subject, ())]
        metrics |= {f"accuracy.{group}": evidence.mean(passed)} if passed else {}
    return metrics | {f"accuracy.{subject}": evidence.mean(passed) for subject, passed in sorted(by_subject.items())}


def _ask(question: Question, with_choices: bool) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
    return "\n".join([question.text, *(lines if with_choices else ()), "Answer:"])


def _solution(question: Question, with_choices: bool) -> str:
    return LETTERS[question.answer] if with_choices else question.choices[question.answer]


def _contamination(model_id: ModelId, questions: Sequence[Question]) -> dict[str, object] | None:
    if not model_id.is_checkpoint:
        return None
    problems = [
        ProblemText(f"{each.subject} {each.number}", (each.text, "\n".join(each.choices))) for each in questions
    ]
    return contamination.look(model_id.path, problems)


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    of_all, _, name = metric.partition(".")
    subjects = GROUPS.get(name, (name,)) if name else tuple({item["subject"] for item in items})
    if of_all != "accuracy" or not set(subjects) <= {item["subject"] for item in items}:
        return None
    asked = [item for item in items if item["subject"] in subjects]
    return {f"{item['subject']} {item['number']}": float(item["passed"]) for item in asked}


def _differs(evaluation: evidence.Evidence, asked: Sequence[Row], _settings: Settings) -> str | None:
    due = {f"{row['subject']} {row['number']}": LETTERS[row["answer"]] for row in asked if row["part"] == "test"}
    claimed = {f"{item['subject']} {item['number']}": item["answer"] for item in evaluation.items}
    keys = due.keys() | claimed.keys()
    key = next((key for key in sorted(keys) if due.get(key) != claimed.get(key)), None)
    return None if key is None else f"the question {key} is missing, or has another answer in the benchmark"


TASK = Task(
    name=NAME,
    key=("subject", "number"),
    measure=lambda evaluation: measure(evaluation.items),
    trials=_trials,
    benchmark=lambda folder: rows(find_subjects(Path(folder), ())),
    asks=lambda row: [row["text"], row["choices"]],
    settings=defaults(MmluConfig, "shots", "scoring", "bos"),
    evaluate=lambda tree: mmlu(build(MmluConfig, tree)),
    place="data",
    follows=lambda item, _config: item["passed"] is (item["chosen"] == item["answer"]),
    differs=_differs,
    is_published=True,
)
