"""A form by which people review a grounding head: does it rank hallucinated statements below supported ones?

    question   as a principal -> the passage that answers best, and its sentence that does        supported
               that sentence, edited; or what a model says who has not read the passage           hallucinated
    head       scores both by the passage                                                        its order
    form       the passage and both statements, in an order drawn by lot                          people say which holds

    OUTPUT/manifest.json       kind `grounding-review`: which head, on which base, which index; written last
           pairs.jsonl         what the form shows
           ratings.csv         the form, of which each rater fills in a copy; ratings.html shows the same
    OUTPUT.order.jsonl         which statement the head prefers, and which one was made up: not for raters

The manifest has the digest of the order, so it was fixed before anybody rated. `ibidem evaluate ratings` reads both. A
form names head, base and index by one digest, so ratings of another head do not count. Whoever reads the form reads
the passages: choose a principal whose documents the raters may read.
"""

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import artifacts, jsonl, log, rating_form
from ibidem.artifacts import Artifact, Input
from ibidem.config import settings
from ibidem.errors import ArtifactError, ConfigError, DataError
from ibidem.figures import counted
from ibidem.files import sha256_of, write_file
from ibidem.grounding import quotes
from ibidem.grounding.audit.log import Kind as EventKind
from ibidem.grounding.cite import is_abstention, passage_text
from ibidem.grounding.config import ABSTENTIONS, WORD_SHARE, GroundReviewConfig
from ibidem.grounding.edits import hallucinations, sentences
from ibidem.grounding.encoder import ENCODER
from ibidem.grounding.opening import opened
from ibidem.grounding.questions import Question, parse_questions
from ibidem.grounding.rerank import Scorer, support
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.store import Chunk, Hit
from ibidem.grounding.support import WordCover
from ibidem.inference.model_id import ModelId, identify
from ibidem.jsonl import Row
from ibidem.rating_form import FORM, PAGE
from ibidem.runs import newest

KIND = "grounding-review"
PAIRS = "pairs.jsonl"
CRITERION = "downranked"
"""What raters rate a pair by; the figure is `good.downranked`."""
MEANING = (
    "The source is followed by two statements. 1: the source supports statement 1, and not statement 2. 0: it supports "
    "statement 2, and not statement 1. 0.5: it supports both, or neither. What you know otherwise does not count."
)
"""The instruction for raters."""
BY_MODEL = "model"
"""How a statement was made up, if not by an edit."""
HEAD, INDEX, PROMPTS = "head", "index", "prompts"
"""Roles of what a review is of, beside the head's encoder."""
RECORDED: EventKind = "review"

Says = Callable[[str], str]
"""Returns what a model says to a question."""


class Pair(NamedTuple):
    """A supported and a hallucinated statement."""

    question: Question
    chunk: Chunk
    supported: str
    hallucinated: str
    made_by: str
    """The edit, or `BY_MODEL`."""


def review(config: GroundReviewConfig) -> str:
    """Write the form, and beside it the head's order; return what to do with them.

    Raises:
        AccessDenied: the access rules or the index changed meanwhile, or the principal is no reader of head or model.
        ConfigError: the head is of another base.
        DataError: no question is answered by a passage that the principal may read.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    if (config.output_dir / artifacts.MANIFEST).exists():
        raise ConfigError(f"{config.output_dir}: there is a review, whose form may have been filled in; choose another")
    asked = jsonl.read(config.questions, "questions")
    questions = parse_questions(asked, f"questions {config.questions}")
    drawn = random.Random(config.seed).sample(questions, len(questions))
    model = identify(config.model, config.principal) if config.model else None
    with opened(config, config.principal) as retriever:
        rules, digest = retriever.permissions.current(), retriever.store.digest
        says = _says(model, config) if model else None
        pairs = _pairs(retriever, config, drawn, says)
        if not pairs:
            raise DataError(
                f"questions {config.questions}: none is answered by a passage that {config.principal} may read"
            )
        rows, order = _arranged(retriever, config, pairs)
        chunks = list({pair.chunk.id: pair.chunk for pair in pairs}.values())
        head = _head(retriever)
        inputs = _inputs(config, model, head, asked, digest)
        retriever.check_still(config.principal, rules, digest, chunks)
        retriever.record_made(RECORDED, config.principal, rules, digest, chunks, head=head.digest)
        _write(config, rows, order, inputs)
    made = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(pair.made_by for pair in pairs).items()))
    return (
        f"{config.output_dir}: {counted(len(pairs), 'pair')} from {counted(len(questions), 'question')} ({made}); have "
        f"at least two people read {PAGE} and fill in copies of {FORM}; keep {order_file(config.output_dir)} from them"
    )


def read_review(folder: Path) -> tuple[Artifact, list[Row]]:
    """Read a sealed review: what its form shows.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    return artifacts.verify(folder, kind=KIND), jsonl.read(folder / PAIRS, "review")


def read_order(sealed: Artifact) -> dict[str, int]:
    """Return which statement of each pair the head prefers: 1 or 2, or 0 if it prefers neither.

    Raises:
        ArtifactError: the file is not beside the review, or it is not the one that was sealed.
    """
    file = order_file(sealed.path)
    if not file.is_file():
        raise ArtifactError(f"{file}: missing; the head's order is kept beside the review that it belongs to")
    if f"sha256:{sha256_of(file)}" != sealed.config["order"]:
        raise ArtifactError(f"{file}: it is not the head's order that was sealed with {sealed.path}")
    return {row["id"]: row["preferred"] for row in jsonl.read(file, "order")}


def order_file(folder: Path) -> Path:
    """Return where the head's order is kept: beside the review, as raters are given the folder.

    >>> order_file(Path("artifacts/review")).as_posix()
    'artifacts/review.order.jsonl'
    """
    return folder.with_name(f"{folder.name}.order.jsonl")


def bound(sealed: Artifact) -> str:
    """Return the digest by which a form names what it is of: head, base and index."""
    return _bound(sealed.inputs)


def _bound(inputs: Sequence[Input]) -> str:
    digests = {item.role: item.digest for item in inputs}
    return jsonl.digest([digests[HEAD], digests[ENCODER], digests[INDEX]])


def _pairs(
    retriever: Retriever, config: GroundReviewConfig, questions: Sequence[Question], says: Says | None
) -> list[Pair]:
    """Return a pair for each question that has one, until there are enough."""
    pairs: list[Pair] = []
    used: Counter[str] = Counter()
    with log.progress("review", config.number, "pairs") as bar:
        for question in questions:
            if len(pairs) == config.number:
                break
            asked = says if len(pairs) % 2 else None
            pair = _pair(retriever, config, question, used, asked)
            if pair is not None:
                pairs.append(pair)
                used[pair.made_by] += 1
                bar.advance()
    return pairs


def _pair(
    retriever: Retriever, config: GroundReviewConfig, question: Question, used: Counter[str], says: Says | None
) -> Pair | None:
    """Return a pair of statements on a question; None if no sentence answers it, or no edit applies."""
    found = _supported(retriever, question.text, config.principal, config.k)
    if found is None:
        return None
    chunk, statement = found
    if says is not None and (said := _unsupported(says(question.text), chunk, question.text)):
        return Pair(question, chunk, statement, said, BY_MODEL)
    made = hallucinations(statement, chunk.text, random.Random(f"{config.seed} {question.id}"))
    if not made:
        return None
    kind = min(made, key=lambda each: (used[each], each))  # the rarest so far
    return Pair(question, chunk, statement, made[kind], kind)


def _supported(retriever: Retriever, question: str, principal: str, k: int) -> tuple[Chunk, str] | None:
    """Return the sentence that answers a question best, of the passages that a principal may read, and its passage."""
    found: list[Chunk] = []

    def choose(hits: list[Hit]) -> list[Hit]:
        found[:] = [hit.chunk for hit in hits]
        return quotes.choose(question, hits, k)

    chunks = [hit.chunk for hit in retriever.search(question, principal, max(quotes.POOL, k), choose)]
    best = next(iter(quotes.quotes(question, chunks, found)), None)
    if best is None:
        return None
    chunk = chunks[best.place]
    return chunk, " ".join(chunk.text[best.start : best.end].split())


def _unsupported(said: str, chunk: Chunk, question: str) -> str | None:
    """Return the first sentence of what a model said; None if it says nothing, or its words are the passage's."""
    first = next(iter(sentences(said)), "")
    if is_abstention(first, ABSTENTIONS, question) or WordCover(WORD_SHARE).entails(passage_text(chunk), first):
        return None
    return " ".join(first.split())


def _says(model_id: ModelId, config: GroundReviewConfig) -> Says:
    from ibidem.conversation import Turn
    from ibidem.inference.models import open_model
    from ibidem.modeling.generate import Sampling

    model = open_model(model_id.path, model_id.digest, config.principal)
    sampling = Sampling(config.max_tokens, temperature=0)
    return lambda question: model.respond([(Turn.of("user", question),)], sampling)[0].text.strip()


def _arranged(
    retriever: Retriever, config: GroundReviewConfig, pairs: Sequence[Pair]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of the form, each pair in an order drawn by lot, and the rows of the head's order."""
    rows, order = [], []
    for pair in pairs:
        is_first = random.Random(f"{config.seed} {pair.question.id} place").random() < 0.5
        shown = (pair.supported, pair.hallucinated) if is_first else (pair.hallucinated, pair.supported)
        rows.append(_row(pair, shown))
        preferred, scores = _preferred(retriever, config.principal, shown, passage_text(pair.chunk))
        supported = 1 if is_first else 2
        order.append(
            {
                "id": pair.question.id, "preferred": preferred, "scores": scores, "supported": supported,
                "made_by": pair.made_by,
            }
        )  # fmt: skip
    return rows, order


def _row(pair: Pair, shown: tuple[str, str]) -> dict[str, Any]:
    """Return a pair as `rating_form` takes it, and its parts as a page shows them."""
    return {
        "id": pair.question.id,
        "turns": [f"Question: {pair.question.text}\n\nSource:\n{passage_text(pair.chunk)}"],
        "responses": [f"Statement 1: {shown[0]}\n\nStatement 2: {shown[1]}"],
        "criteria": [CRITERION],
        "chunk": pair.chunk.id,
        "path": pair.chunk.path,
        "question": pair.question.text,
        "statements": list(shown),
    }


def shown(row: Row) -> tuple[str, tuple[str, str]]:
    """Return the question of a pair, and its two statements, as the form shows them."""
    first, second = row["statements"]
    return row["question"], (first, second)


def _preferred(
    retriever: Retriever, principal: str, statements: tuple[str, str], passage: str
) -> tuple[int, list[list[Any]]]:
    """Return which statement the head prefers, and what it says of each; its score is None if there is none."""
    known = retriever.frequencies(" ".join(statements), principal)
    first, second = (support(_head(retriever), each, passage, known) for each in statements)
    scores = [
        [is_supported, round(score, 6) if math.isfinite(score) else None] for is_supported, score in (first, second)
    ]
    return (0 if first == second else 1 if first > second else 2), scores


def _head(retriever: Retriever) -> Scorer:
    assert retriever.head is not None, "a review has a head"
    return retriever.head


def _inputs(
    config: GroundReviewConfig, model: ModelId | None, head: Scorer, asked: Sequence[Row], index: str
) -> list[Input]:
    """Return what the review is of; the checkpoint is the model that is to be released, by default the head's base."""
    of = config.output_dir
    base = _base(head.artifact, config)
    rows = [
        {"id": str(row.get("id", number)), "turns": [row["question"]], "criteria": row.get("criteria")}
        for number, row in enumerate(asked, 1)
    ]
    prompts = jsonl.digest(sorted(rows, key=lambda row: str(row["id"])))
    return [
        model.as_input(of=of) if model else replace(base, role="checkpoint"),
        head.artifact.as_input(HEAD, of=of),
        base,
        replace(artifacts.load(config.index).as_input(INDEX, of=of), digest=index)
        if config.index
        else Input(INDEX, index, "a database", is_artifact=False),
        Input(PROMPTS, prompts, config.questions.name, is_artifact=False),
    ]


def _base(head: Artifact, config: GroundReviewConfig) -> Input:
    """Return the base of a head as an input of the review."""
    base = next(item for item in head.inputs if item.role == ENCODER)
    place = newest(config.head_encoder) if config.head_encoder else head.path.resolve() / base.name
    return replace(base, name=os.path.relpath(place.resolve(), config.output_dir.resolve()))


def _write(
    config: GroundReviewConfig, rows: Sequence[Row], order: Sequence[Mapping[str, Any]], inputs: Sequence[Input]
) -> None:
    """Write the order, then seal the form with its digest."""
    file, meanings = order_file(config.output_dir), {CRITERION: MEANING}
    config.output_dir.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, jsonl.dumps(order))
    file.chmod(0o600)
    digests = {item.role: item.digest for item in inputs}
    chosen = settings(config) | {HEAD: digests[HEAD], INDEX: digests[INDEX], "order": f"sha256:{sha256_of(file)}"}
    with artifacts.create(config.output_dir, kind=KIND, config=chosen, inputs=inputs, is_private=True) as draft:
        (draft.path / PAIRS).write_text(jsonl.dumps(rows), encoding="utf-8")
        form = rating_form.form(rows, meanings, _bound(inputs), digests[PROMPTS])
        (draft.path / FORM).write_text(form, encoding="utf-8", newline="")
        (draft.path / PAGE).write_text(rating_form.page(rows, meanings), encoding="utf-8")
        draft.counts = {"pairs": len(rows)}
