"""Questions about documents: is the answer right, and does what it cites support it? `ibidem evaluate doc-qa`.

    exact_match, f1            over the questions that the documents answer; an abstention counts as wrong
    abstentions                separately for answerable (too careful) and unanswerable questions (correct)
    citation_coverage          claims that cite at least one of the retrieved passages
    citation_recall            claims that their cited passages, together, support
    citation_precision         citations that are needed: without them support is lost, or they support alone
    unsupported_claims         1 - citation_recall

A claim is a sentence of an answer; it cites passages as [passage id].
Sources: Rajpurkar et al. 2016, arXiv:1606.05250 (exact match and F1); Gao et al. 2023, arXiv:2305.14627, section 4
(ALCE: citation recall and precision).
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import jsonl, log
from ibidem.artifacts import Input
from ibidem.config import settings
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.task import Demand, Task, Trials
from ibidem.figures import percent
from ibidem.grounding.support import Entailment, WordCover, calibrate, calibration_bound, open_entailment
from ibidem.inference import models
from ibidem.inference.model_id import identify
from ibidem.jsonl import Row
from ibidem.modeling.generate import Sampling

NAME = "doc-qa"
MOST_WORDS_BEHIND = 6  # an abstention may state a reason; a longer answer makes a claim
_CITATION = re.compile(r"\[([^\[\]]{1,200})\]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\s\[])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Question:
    """A question, the passages that were retrieved for it, and the correct answers."""

    id: str
    text: str
    passages: Mapping[str, str]
    answers: tuple[str, ...]
    """Empty if the passages do not contain an answer."""


def doc_qa(config: DocQaConfig) -> str:
    """Evaluate, and return the figures as a line.

    Raises:
        ConfigError: neither a checkpoint nor predictions are given, or both.
        DataError: a row is not a question, or an answer is missing.
    """
    if (config.checkpoint is None) == (config.predictions is None):
        raise ConfigError("give either --checkpoint, to answer the questions, or --predictions, to judge answers")
    questions = read_questions(config.data)
    judge = open_entailment(config.entailment, config.word_share)
    supplied = read_answers(config.predictions, questions) if config.predictions else None
    inputs = _inputs(config, supplied)
    chosen = {**settings(config), "entailment": judge.name}
    if not evidence.finished(config.output_dir, NAME, config=chosen, inputs=inputs):
        answers = supplied.answers if supplied else _generate(config, questions)
        items = [assess(question, answers[question.id], judge, config.abstentions) for question in questions]
        calibration = calibrate(judge, config.calibration) if config.calibration else None
        notes = {"entailment": judge.name, "calibration": calibration}
        evidence.write(
            config.output_dir, NAME, config=chosen, inputs=inputs, items=items, metrics=measure(items), notes=notes
        )
    results = evidence.read(config.output_dir).results
    names = ("exact_match", "f1", "citation_coverage", "citation_precision", "unsupported_claims")
    shown = [f"{name} {percent(results[name])}" for name in names]
    return f"doc-qa: {', '.join(shown)} on {len(questions)} questions; {config.output_dir}"


def benchmark(data: Path) -> Input:
    """Return the questions as an input, identified by a digest of their content."""
    return Input.of_file("benchmark", data)


def read_questions(path: Path) -> list[Question]:
    """Read questions.

    Raises:
        DataError: a row is not a question, or an id appears twice.
    """
    questions: dict[str, Question] = {}
    for number, row in enumerate(jsonl.read(path, "data"), 1):
        text, answers, passages = row.get("question"), _answers(row), _passages(row)
        if not isinstance(text, str) or answers is None or not passages:
            raise DataError(f"data {path}: line {number} needs question, answers, and context or passages with ids")
        key = str(row.get("id", number))
        if key in questions:
            raise DataError(f"data {path}: line {number}: id {key!r} appears twice")
        questions[key] = Question(key, text, passages, answers)
    return list(questions.values())


def assess(question: Question, answer: str, judge: Entailment, abstentions: Sequence[str]) -> Row:
    """Judge one answer."""
    if is_abstention(answer, abstentions):
        return {"id": question.id, "answerable": bool(question.answers), "abstained": True, "answer": answer}
    plain = _CITATION.sub("", answer)
    claims = [assess_claim(sentence, question.passages, judge) for sentence in sentences(answer)]
    return {
        "id": question.id,
        "answerable": bool(question.answers),
        "abstained": False,
        "answer": answer,
        "exact_match": max((float(normalize(plain) == normalize(gold)) for gold in question.answers), default=0.0),
        "f1": max((f1(plain, gold) for gold in question.answers), default=0.0),
        "claims": claims,
    }


def assess_claim(sentence: str, passages: Mapping[str, str], judge: Entailment) -> dict[str, Any]:
    """Judge one sentence and its citations (ALCE, section 4)."""
    cited = list(dict.fromkeys(_CITATION.findall(sentence)))
    claim = _CITATION.sub("", sentence).strip()
    known = [key for key in cited if key in passages]

    def supports(keys: Sequence[str]) -> bool:
        return bool(keys) and judge.entails("\n".join(passages[key] for key in keys), claim)

    is_supported = supports(known)
    needed = [
        is_supported and (supports([key]) or not supports([other for other in known if other != key])) for key in known
    ]
    return {"cited": cited, "covered": bool(known), "supported": is_supported, "needed": sum(needed)}


def sentences(answer: str) -> list[str]:
    """Split an answer into claims; citations after a full stop belong to the sentence before it.

    >>> sentences("It is red. [a] It is new [b].")
    ['It is red. [a]', 'It is new [b].']
    """
    whole = re.sub(r"([.!?])\s+((?:\[[^\[\]]+\]\s*)+)", r"\1 \2\n", answer)
    parts = [part for line in whole.split("\n") for part in _SENTENCE_END.split(line)]
    return [part.strip() for part in parts if _CITATION.sub("", part).strip(string.punctuation + string.whitespace)]


def is_abstention(answer: str, abstentions: Sequence[str]) -> bool:
    """Return whether an answer is empty or an abstention.

    >>> is_abstention("I don't know.", ["i don't know"]), is_abstention("Paris", ["i don't know"])
    (True, False)
    """
    said = _CITATION.sub("", answer).strip().lower().replace("\u2019", "'")
    phrases = [phrase.lower() for phrase in abstentions if phrase.strip() and said.startswith(phrase.lower())]
    return not said or any(len(said[len(phrase) :].split()) <= MOST_WORDS_BEHIND for phrase in phrases)


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
    """Average over questions and claims."""
    answerable = [item for item in items if item["answerable"]]
    unanswerable = [item for item in items if not item["answerable"]]
    claims = [claim for item in items for claim in item.get("claims", ())]
    cited = sum(len(claim["cited"]) for claim in claims)
    supported = evidence.mean([float(claim["supported"]) for claim in claims])
    return {
        "exact_match": evidence.mean([item.get("exact_match", 0.0) for item in answerable]),
        "f1": evidence.mean([item.get("f1", 0.0) for item in answerable]),
        "abstentions.answerable": evidence.mean([float(item["abstained"]) for item in answerable]),
        "abstentions.unanswerable": evidence.mean([float(item["abstained"]) for item in unanswerable]),
        "citation_coverage": evidence.mean([float(claim["covered"]) for claim in claims]),
        "citation_recall": supported,
        "citation_precision": sum(claim["needed"] for claim in claims) / cited if cited else None,
        "unsupported_claims": None if supported is None else 1 - supported,
    }


def _answers(row: Row) -> tuple[str, ...] | None:
    """Read answers as a text, a list, or in SQuAD's form; None if they are malformed."""
    answers = row.get("answers", row.get("answer"))
    answers = answers.get("text") if isinstance(answers, dict) else answers
    answers = [answers] if isinstance(answers, str) else [] if answers is None else answers
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        return None
    return tuple(each for each in answers if each.strip())


def _passages(row: Row) -> dict[str, str]:
    """Read passages by their ids; empty if a passage has no text or an id appears twice."""
    if isinstance(context := row.get("context"), str):
        return {"1": context}
    passages = row.get("passages", context)
    texts: dict[str, str] = {}
    for number, each in enumerate(passages if isinstance(passages, list) else (), 1):
        key, text = (each.get("id", number), each.get("text")) if isinstance(each, dict) else (number, each)
        if not isinstance(text, str) or str(key) in texts:
            return {}
        texts[str(key)] = text
    return texts


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


def _inputs(config: DocQaConfig, supplied: Given | None) -> list[Input]:
    given_files = {"predictions": config.predictions, "calibration": config.calibration}
    inputs = [benchmark(config.data)]
    inputs += [Input.of_file(role, path) for role, path in given_files.items() if path is not None]
    if config.checkpoint is not None:
        inputs.append(identify(config.checkpoint).as_input(of=config.output_dir))
    elif supplied is not None and supplied.checkpoint is not None:
        inputs.append(Input("checkpoint", supplied.checkpoint, "named by the predictions", is_artifact=False))
    return inputs


def _generate(config: DocQaConfig, questions: Sequence[Question]) -> dict[str, str]:
    assert config.checkpoint is not None
    model = models.open_model(config.checkpoint)
    answers: dict[str, str] = {}
    with log.progress("complete", len(questions), "answers") as bar:
        for start in range(0, len(questions), config.batch):
            batch = questions[start : start + config.batch]
            sampling = Sampling(config.max_tokens, temperature=0, first=start)
            texts = model.complete([_prompt(question) for question in batch], sampling, ("\n",))
            answers |= {question.id: text.strip() for question, text in zip(batch, texts, strict=True)}
            bar.advance(len(batch))
    return answers


def _prompt(question: Question) -> str:
    passages = "\n".join(f"[{key}] {text}" for key, text in question.passages.items())
    return f"{passages}\n\nAnswer from the passages above and cite them as [id].\nQuestion: {question.text}\nAnswer:"


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    of_claims = {"citation_coverage": "covered", "citation_recall": "supported", "unsupported_claims": "supported"}
    if metric in of_claims:  # by question, since the claims of one answer are not independent
        claims = {item["id"]: [float(claim[of_claims[metric]]) for claim in item.get("claims", ())] for item in items}
        shares = {key: sum(each) / len(each) for key, each in claims.items() if each}
        return {key: 1 - share for key, share in shares.items()} if metric == "unsupported_claims" else shares
    if metric in {"exact_match", "f1"}:
        return {item["id"]: item.get(metric, 0.0) for item in items if item["answerable"]}
    return None


def _differs(evaluation: evidence.Evidence, file: str) -> str | None:
    """Assess the answers again; all but the claims if a model decided what supports them."""
    judge = WordCover(evaluation.artifact.config["word_share"])
    is_ours = evaluation.artifact.config["entailment"] == judge.name
    questions = {question.id: question for question in read_questions(Path(file))}
    items = {item["id"]: item for item in evaluation.items}
    for key in questions.keys() | items.keys():
        if key not in questions or key not in items:
            return str(key)
        due = assess(questions[key], items[key]["answer"], judge, evaluation.artifact.config["abstentions"])
        names = due.keys() if is_ours else due.keys() - {"claims"}
        if any(due[name] != items[key].get(name) for name in names):
            return str(key)
    return None


def _doubt(evaluation: evidence.Evidence, demand: Demand) -> str | None:
    """Require the entailment judge's agreement with people for figures that it decides; it is recounted here."""
    if not demand.metric.startswith(("citation", "unsupported")):
        return None
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
    benchmark=lambda file: [benchmark(Path(file))],
    differs=_differs,
    doubt=_doubt,
)
