"""Questions about documents: is the answer right, and does what it cites support it? `ibidem evaluate doc-qa`.

    exact_match, f1            over the questions that the documents answer; an abstention counts as wrong; of an answer
                               that begins with a quotation, what follows it counts
    answered                   of these questions: those with an answer that makes a claim
    abstentions                separately for answerable (too careful) and unanswerable questions (correct)
    citation_coverage          claims that cite at least one of the retrieved passages
    citation_recall            claims that their cited passages, together, support
    citation_precision         citations that are needed: without them support is lost, or they support alone
    unsupported_claims         claims that their cited passages do not support

Every figure is a mean over questions, since the claims of one answer are not independent: first the share within each
answer, then the mean. Coverage and recall are over all answerable questions, and the unanswerable ones without an
abstention; without a claim a question counts 0. Precision is over the answers that cite, unsupported_claims over the
answers that make claims: neither falls when a model abstains.

A model reads each passage as a part of its own, which begins with the passage's id in brackets, and then the question.
A claim is a sentence of an answer; a sentence that is repeated counts once. It cites passages as [passage id] or
[id, id]; a citation that the model generates as a part of its turn is written so too. Any other text in brackets is
text of the claim, and counts as a citation that is not needed.
An abstention starts with one of the given phrases; behind it, only the documents and the question may be named.
With --index the passages are retrieved (see `retrieval`), numbered from 1, instead of being given.
Sources: Rajpurkar et al. 2016, arXiv:1606.05250 (exact match and F1); Gao et al. 2023, arXiv:2305.14627, section 4
(ALCE: citation recall and precision).
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ibidem import artifacts, jsonl, log
from ibidem.artifacts import Input
from ibidem.config import build, settings
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence, retrieval
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.retrieval import Desk, Found
from ibidem.evaluation.task import Demand, Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import percent
from ibidem.grounding.cite import behind_quote, claims, is_abstention, without_citations
from ibidem.grounding.questions import Question, read_questions
from ibidem.grounding.support import (
    Entailment,
    HeadJudge,
    calibrate,
    calibration_bound,
    digest_of_entailment,
    open_entailment,
)
from ibidem.inference import models
from ibidem.inference.chat import PROMPT_FORMAT
from ibidem.inference.model_id import ModelId, identify
from ibidem.jsonl import Row
from ibidem.modeling.generate import Sampling
from ibidem.trackers import check

NAME = "doc-qa"
ANSWERS = {"exact_match", "f1"}
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def doc_qa(config: DocQaConfig) -> str:
    """Evaluate, and return the figures as a line.

    Raises:
        ConfigError: neither a checkpoint nor predictions are given, or both; or a tracker is not installed.
        DataError: a row is not a question, or an answer is missing.
    """
    check(config.trackers)
    _check_source(config)
    asked = rows(config.data)
    questions = [_question(row) for row in asked[: config.limit]]
    if config.index is None and (bare := next((each for each in questions if not each.passages), None)):
        raise DataError(f"data {config.data}: the question {bare.id} needs context or passages with ids, or an --index")
    judge = open_entailment(config.entailment, config.word_share, config.head_encoder, config.principal)
    if config.index is None:
        _evaluate(config, asked, questions, judge, None)
    else:
        with retrieval.desk(config, judge) as desk:
            _evaluate(config, asked, questions, judge, desk)
    evaluation = evidence.read(config.output_dir)
    track(evaluation, config.trackers)
    results = evaluation.results
    names = ("exact_match", "f1", "citation_coverage", "citation_precision", "unsupported_claims")
    found = [name for name in retrieval.METRICS if name in results]
    shown = [f"{name} {percent(results[name])}" for name in (*found, *names)]
    return f"doc-qa: {', '.join(shown)} on {evidence.extent(results, len(questions), 'question')}; {config.output_dir}"


def _check_source(config: DocQaConfig) -> None:
    if config.index is None and (config.checkpoint is None) == (config.predictions is None):
        raise ConfigError("give either --checkpoint, to answer the questions, or --predictions, to judge answers")
    if config.index is not None and config.predictions is not None:
        raise ConfigError("which passages the predictions cite is unknown; with --index give --checkpoint, or neither")
    if config.index is None and config.head is not None:
        raise ConfigError(
            "--head ranks what is found in an index; give --index, or --entailment for a head that judges"
        )


def _evaluate(
    config: DocQaConfig, asked: Sequence[Row], questions: Sequence[Question], judge: Entailment, desk: Desk | None
) -> None:
    """Answer, judge and seal, unless this very evaluation is there."""
    limited = evidence.part(config.limit, len(asked))
    supplied = read_answers(config.predictions, questions) if config.predictions else None
    model_id = identify(config.checkpoint, config.principal) if config.checkpoint else None
    inputs = [evidence.benchmark_input(asked, config.data.name), *_inputs(config, model_id, supplied, desk)]
    chosen = settings(config) | {
        "entailment": judge.digest if isinstance(judge, HeadJudge) else digest_of_entailment(config.entailment),
        "calibration": _digest_of_labels(config.calibration),
        "limit": limited.get("limit"),
        "prompt_format": None if supplied else PROMPT_FORMAT,
        "index": desk.index if desk else None,
        "acl": desk.rules if desk and config.acl else None,
        "head": desk.head if desk else None,
    }
    if evidence.finished(config.output_dir, NAME, config=chosen, inputs=inputs):
        return
    if desk is not None:
        found = desk.answer({question.id: question.text for question in questions})
        items = [_assess_found(question, found[question.id], judge, config.abstentions) for question in questions]
    else:
        answers = supplied.answers if supplied else _generate(config, model_id, questions)
        items = [assess(question, answers[question.id], judge, config.abstentions) for question in questions]
    calibration = calibrate(judge, config.calibration) if config.calibration else None
    rules = {"rules": desk.rules} if desk else {}
    notes = {"entailment": judge.name, "calibration": calibration, **rules, **limited}
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


def _assess_found(question: Question, found: Found, judge: Entailment, abstentions: Sequence[str]) -> Row:
    """Judge an answer with the passages that were retrieved for it."""
    retrieved = retrieval.shown(found.chunks)
    item = assess(replace(question, passages=found.passages), found.answer, judge, abstentions)
    return {**item, "retrieved": retrieved, **retrieval.figures(retrieved, question.documents)}


def rows(data: Path) -> list[Row]:
    """Read the questions as JSON rows."""
    return [
        {
            "id": each.id,
            "question": each.text,
            "passages": [*map(list, each.passages.items())],
            "answers": list(each.answers),
            **({"documents": list(each.documents)} if each.documents else {}),
        }
        for each in read_questions(data)
    ]


def assess(question: Question, answer: str, judge: Entailment, abstentions: Sequence[str]) -> Row:
    """Judge one answer."""
    shown = without_citations(answer, question.passages)
    said = behind_quote(shown)
    about = {"id": question.id, "answerable": bool(question.answers), "answer": answer}
    if is_abstention(shown, abstentions, question.text):
        return {**about, "abstained": True}
    return {
        **about,
        "abstained": False,
        "exact_match": max((float(normalize(said) == normalize(gold)) for gold in question.answers), default=0.0),
        "f1": max((f1(said, gold) for gold in question.answers), default=0.0),
        "claims": claims(answer, question.passages, judge),
    }


def normalize(text: str) -> str:
    """Lowercase, and remove punctuation, articles and extra blanks, as SQuAD's evaluation does.

    >>> normalize("The  Eiffel-Tower!")
    'eiffeltower'
    """
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def f1(answer: str, gold: str) -> float:
    """Return the F1 score of the words that two texts share.

    >>> f1("the red fox", "a red dog")
    0.5
    """
    ours, theirs = normalize(answer).split(), normalize(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def measure(items: Sequence[Row]) -> evidence.Metrics:
    """Return the mean of the trials of each figure; those of retrieval only if the items were made with an index."""
    is_retrieved = any("retrieved" in item for item in items)
    metrics = [*(retrieval.METRICS if is_retrieved else ()), *SCORES]
    return {metric: evidence.mean(list((_trials(items, metric) or {}).values())) for metric in metrics}


class Given(NamedTuple):
    """A file of answers."""

    path: Path
    answers: dict[str, str]
    checkpoint: str | None
    """The checkpoint that all rows name as their source."""


def read_answers(path: Path, questions: Sequence[Question]) -> Given:
    """Read an answer to every question.

    Raises:
        DataError: an answer is missing or appears twice.
    """
    answers: dict[str, str] = {}
    origins = set()
    for number, row in enumerate(jsonl.read(path, "predictions"), 1):
        key, answer = str(row.get("id")), row.get("answer")
        if not isinstance(answer, str) or key in answers:
            raise DataError(f"predictions {path}: line {number} needs an answer, one for each id")
        answers[key] = answer
        origins.add(str(row.get("checkpoint")))
    if missing := [question.id for question in questions if question.id not in answers]:
        raise DataError(f"predictions {path}: no answer to the question {missing[0]!r}")
    return Given(path, answers, next(iter(origins - {"None"})) if len(origins) == 1 and "None" not in origins else None)


def _inputs(config: DocQaConfig, model_id: ModelId | None, supplied: Given | None, desk: Desk | None) -> list[Input]:
    given_files = {"predictions": config.predictions, "calibration": config.calibration}
    inputs = [Input.of_file(role, path) for role, path in given_files.items() if path is not None]
    if config.index is not None and desk is not None:
        index = artifacts.load(config.index).as_input("index", of=config.output_dir)
        inputs.append(replace(index, digest=desk.index))
    if desk is not None and desk.retriever.head is not None:
        inputs.append(desk.retriever.head.artifact.as_input("head", of=config.output_dir))
    if model_id is not None:
        inputs.append(model_id.as_input(of=config.output_dir))
    elif supplied is not None and supplied.checkpoint is not None:
        inputs.append(Input("checkpoint", supplied.checkpoint, "named by the predictions", is_artifact=False))
    return inputs


def _generate(config: DocQaConfig, model_id: ModelId | None, questions: Sequence[Question]) -> dict[str, str]:
    assert model_id is not None
    model = models.open_model(model_id.path, model_id.digest, config.principal)
    model.check_fit([_prompt(question) for question in questions], config.max_tokens)
    answers: dict[str, str] = {}
    with log.progress("complete", len(questions), "answers") as bar:
        for start in range(0, len(questions), config.batch):
            batch = questions[start : start + config.batch]
            sampling = Sampling(config.max_tokens, temperature=0, first=start)
            turns = model.respond([_prompt(question) for question in batch], sampling)
            answers |= {question.id: turn.text.strip() for question, turn in zip(batch, turns, strict=True)}
            bar.advance(len(batch))
    return answers


def _prompt(question: Question) -> Conversation:
    passages = (Part("passage", f"[{key}] {text}") for key, text in question.passages.items())
    asked = f"Answer from the passages, and cite them as [id].\nQuestion: {question.text}"
    return (Turn("user", (*passages, Part("text", asked))),)


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    if metric in retrieval.METRICS:
        return {item["id"]: item[metric] for item in items if metric in item}
    if metric not in SCORES:
        return None
    scores = {item["id"]: SCORES[metric](item) for item in items}
    return {key: score for key, score in scores.items() if score is not None}


def _if_answerable(score: Callable[[Row], float]) -> Callable[[Row], float | None]:
    return lambda item: score(item) if item["answerable"] else None


def _claims_with(column: str) -> Callable[[Row], float | None]:
    """Return the share of claims with a property; 0 without claims, and None for a correct abstention."""

    def score(item: Row) -> float | None:
        if item["abstained"] and not item["answerable"]:
            return None
        return evidence.mean([float(claim[column]) for claim in item.get("claims", ())]) or 0.0

    return score


def _citation_precision(item: Row) -> float | None:
    cited = sum(len(claim["cited"]) for claim in item.get("claims", ()))
    return sum(claim["needed"] for claim in item["claims"]) / cited if cited else None


SCORES: dict[str, Callable[[Row], float | None]] = {
    "exact_match": _if_answerable(lambda item: item.get("exact_match", 0.0)),
    "f1": _if_answerable(lambda item: item.get("f1", 0.0)),
    "answered": _if_answerable(lambda item: float(bool(item.get("claims")))),
    "abstentions.answerable": _if_answerable(lambda item: float(item["abstained"])),
    "abstentions.unanswerable": lambda item: None if item["answerable"] else float(item["abstained"]),
    "citation_coverage": _claims_with("covered"),
    "citation_recall": _claims_with("supported"),
    "citation_precision": _citation_precision,
    "unsupported_claims": lambda item: evidence.mean([1.0 - claim["supported"] for claim in item.get("claims", ())]),
}


def _digest_of_labels(path: str | Path | None) -> str | None:
    return None if path is None else Input.of_file("calibration", Path(path)).digest


def _differs(evaluation: evidence.Evidence, asked: Sequence[Row], settings: Settings) -> str | None:
    """Assess every answer and claim again, and compare the entailment judge with people's labels again."""
    if evaluation.artifact.config.get("prompt_format", 0) not in {PROMPT_FORMAT, None}:
        return "its questions were asked in another format than this version's"
    encoder = settings.get("head_encoder")
    place = Path(encoder) if encoder else None
    judge = open_entailment(settings["entailment"], settings["word_share"], place, settings["principal"])
    labels = settings["calibration"]
    if evaluation.results.get("calibration") != (calibrate(judge, Path(labels)) if labels else None):
        return "its calibration is not what the entailment judge has with the labels"
    questions = {row["id"]: _question(row) for row in asked}
    items = {item["id"]: item for item in evaluation.items}
    for key in sorted(questions.keys() | items.keys()):
        if key not in questions or key not in items:
            return f"the question {key} is only in the {'evaluation' if key in items else 'benchmark'}"
    if settings["index"] is not None:
        return _differs_in_index(evaluation, questions, items, judge, settings)
    for key in sorted(questions):
        if assess(questions[key], items[key]["answer"], judge, settings["abstentions"]) != items[key]:
            return f"the answer to {key}, judged again, comes out differently"
    return None


def _differs_in_index(
    evaluation: evidence.Evidence,
    questions: Mapping[str, Question],
    items: Mapping[str, Row],
    judge: Entailment,
    settings: Settings,
) -> str | None:
    """Retrieve the passages again, and judge each answer with them."""
    about = {name: settings[name] for name in ("index", "principal", "k", "acl", "max_tokens", "head")}
    about |= {name: settings.get(name) for name in TASK.places}
    config = build(DocQaConfig, {"data": Path(), "output_dir": Path(), **about})
    with retrieval.desk(config, judge) as desk:
        if evaluation.results.get("rules") != desk.rules:
            return f"the access rules are no longer those of its making: {desk.rules}"
        found, difference = desk.again({key: each.text for key, each in questions.items()}, items)
    if difference:
        return difference
    for key in sorted(questions):
        answered = found[key]._replace(answer=items[key]["answer"])
        if _assess_found(questions[key], answered, judge, settings["abstentions"]) != items[key]:
            return f"the answer to {key}, judged again, comes out differently"
    return None


def _question(row: Row) -> Question:
    passages, documents = dict(row["passages"]), tuple(row.get("documents", ()))
    return Question(row["id"], row["question"], passages, tuple(row["answers"]), documents)


def _doubt(evaluation: evidence.Evidence, demand: Demand) -> str | None:
    """Require the entailment judge's agreement with people for figures that it decides; it is recounted here."""
    if not demand.metric.startswith(("citation", "unsupported")):
        return None
    if not ANSWERS & set(demand.metrics):
        return "copied sentences are well cited too: the policy must also judge the answers, by f1 or exact_match"
    calibration, due = evaluation.results.get("calibration"), demand.least_calibration
    classes = calibration if isinstance(calibration, dict) else {}
    agreement = calibration_bound(classes.get("supported"), classes.get("unsupported"))
    if agreement is not None and agreement >= due:
        return None
    is_malformed = calibration is not None and agreement is None
    shown = "malformed" if is_malformed else percent(agreement)
    return f"the entailment judge's agreement with people is {shown}; {percent(due)} is required"


TASK = Task(
    name=NAME,
    key=("id",),
    measure=lambda evaluation: measure(evaluation.items),
    trials=_trials,
    benchmark=lambda file: rows(Path(file)),
    asks=lambda row: [row["question"], row["passages"]],
    settings=defaults(
        DocQaConfig,
        *("entailment", "word_share", "abstentions", "max_tokens", "calibration"),
        *("index", "principal", "k", "acl", "head"),
    ),
    places=defaults(DocQaConfig, "encoder", "key", "audit", "head_encoder"),
    digests={
        "entailment": digest_of_entailment,
        "calibration": lambda path: _digest_of_labels(path) or "",
        "index": retrieval.digest_of_index,
        "acl": retrieval.digest_of_rules,
        "head": retrieval.digest_of_head,
    },
    evaluate=lambda tree: doc_qa(build(DocQaConfig, tree)),
    place="data",
    differs=_differs,
    doubt=_doubt,
)
