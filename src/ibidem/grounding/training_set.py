"""Training sets: questions, passages and answers that teach a model to read, made as one principal.

    questions      of a file, or cloze questions on the chunks that the principal may read
    passages       the oracle, which answers, and the chunks that the search finds best beside it, shuffled;
                   without the oracle in the share of questions that teach to abstain
    prompt         that of `ground ask`, word for word: each passage below its number and the first letters of its
                   chunk's id
    answer         "The notice period is six weeks." [2 5b1f]   a sentence of the oracle, and what it is cited by
                   six weeks [2 5b1f]                           the answer
                   I don't know.                                without the oracle

A training set is an artifact, and private like an index:

    TRAINING_SET/manifest.json      kind `training-set`; made from the index; the rules' version, and the readers
                 examples.jsonl     question, answers, ids of the chunks, place of the oracle, conversation
                 chunks.jsonl       the chunks of all examples

All that is read is recorded: each search, that all chunks were read, and which are in the set, before it is written.
Source: Zhang et al. 2024, arXiv:2403.10131 (RAFT), section 3.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import artifacts, conversation, jsonl, log, readers
from ibidem.artifacts import Artifact, Input
from ibidem.config import settings
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import ConfigError, DataError
from ibidem.figures import visible
from ibidem.grounding import quotes
from ibidem.grounding.ask import prompt
from ibidem.grounding.audit.log import Kind as EventKind
from ibidem.grounding.cite import find_quote, label
from ibidem.grounding.cloze import cloze_questions
from ibidem.grounding.config import ExamplesConfig, IndexChoice
from ibidem.grounding.index import Index
from ibidem.grounding.opening import opened
from ibidem.grounding.questions import Question, read_questions
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.sentences import sentence_ends, words
from ibidem.grounding.store import Chunk, Hit, Rules

KIND = "training-set"
EXAMPLES, CHUNKS = "examples.jsonl", "chunks.jsonl"
ABSTENTION = "I don't know."
NO_ORACLE = "no passage that may be read answers it"
NO_PASSAGE = "no passage to show"
TOO_LONG = "longer than the context"
RECORDED: EventKind = "training_set"


class Recipe(NamedTuple):
    """What a training set is made from, besides the index."""

    principal: str
    questions: Path | None
    """None: cloze questions."""
    examples: ExamplesConfig
    seed: int
    fits: Callable[[Conversation], bool]
    """Whether a conversation fits into the model's context."""
    context: int
    """Of the model, in tokens."""
    tokenizer: str
    """Digest of the model's tokenizer."""

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, as the manifest has it."""
        of_model = {"context": self.context, "tokenizer": self.tokenizer}
        return {"principal": self.principal, "seed": self.seed, "examples": settings(self.examples), **of_model}


class Asked(NamedTuple):
    """A question, and what answers it."""

    text: str
    answers: tuple[str, ...]
    """Empty if nothing answers it."""
    oracle: Chunk | None = None
    """The chunk that answers it, if that is known."""
    span: tuple[int, int] | None = None
    """Where the answer is in its text, if that is known."""
    documents: tuple[str, ...] = ()
    """Paths of documents that answer it."""
    passages: tuple[str, ...] = ()
    """Texts that answer it."""

    def is_named(self, chunk: Chunk) -> bool:
        """Return whether a chunk is of a document or text that is said to answer."""
        texts = (find_quote(chunk.text, text) or find_quote(text, chunk.text) for text in self.passages)
        return chunk.path in self.documents or any(texts)

    def is_answered_by(self, chunk: Chunk) -> bool:
        """Return whether a chunk has an answer, word for word."""
        text = f" {' '.join(words(chunk.text))} "
        return any(f" {' '.join(words(answer))} " in text for answer in self.answers if words(answer))


class Example(NamedTuple):
    """A question with passages, and its answer."""

    asked: Asked
    passages: tuple[Chunk, ...]
    oracle: int | None
    """Number of the passage that answers, from 1."""
    turns: Conversation


@dataclass
class Made:
    """Examples, and what is left out."""

    examples: list[Example]
    left_out: Counter[str]
    """How many questions have no example, by reason."""

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks of all examples, by path and place."""
        found = {chunk.id: chunk for example in self.examples for chunk in example.passages}
        return sorted(found.values(), key=lambda chunk: (chunk.path, chunk.start, chunk.id))


def open_training_set(choice: IndexChoice, recipe: Recipe, output: Path, *, resumes: bool) -> Artifact:
    """Make a training set, or open the one at `output` if it is what would be made; both are recorded first.

    Args:
        choice: the index, its rules and its log.
        recipe: what to make.
        output: folder of the training set.
        resumes: whether a training goes on with it: only this very set will do then.

    Raises:
        ConfigError: no passage may be read, none fits into the context, or a training cannot go on with the set, since
            settings, documents or permissions changed.
        DataError: nothing can be asked about the passages, or the questions have no answers.
        AccessDenied: rules or index changed meanwhile.
        AuditError: the log cannot be written; there is no training set then.
    """
    with opened(choice, recipe.principal) as retriever:
        rules, digest = retriever.permissions.current(), retriever.store.digest
        found = _everything(retriever, recipe.principal, rules)
        if (output / artifacts.MANIFEST).exists():
            before = artifacts.load(output, kind=KIND)
            changed = _changed(before, recipe, retriever, rules, found)
            if not changed:
                artifacts.check(before)
                chunks = read_chunks(before)
                retriever.record_made(RECORDED, recipe.principal, rules, digest, chunks, state="opened")
                return before
            if resumes:
                raise ConfigError(f"{output}: {changed}, so the training cannot go on; choose another --output-dir")
        made = make(retriever, recipe, found)
        retriever.check_still(recipe.principal, rules, digest, made.chunks)
        retriever.record_made(RECORDED, recipe.principal, rules, digest, made.chunks, state="made")
        return _write(output, recipe, made, retriever, rules)


def make(retriever: Retriever, recipe: Recipe, found: Sequence[Chunk]) -> Made:
    """Make the examples.

    Args:
        retriever: finds the passages of each question, and records them.
        recipe: what to make.
        found: all chunks that the principal may read.

    Raises:
        DataError: there is no example.
        ConfigError: not even one passage fits into the context.
    """
    made = Made([], Counter())
    asked = list(_of_chunks(found, recipe) if recipe.questions is None else _of_file(recipe.questions))
    with log.progress("training set", len(asked), "questions") as bar:
        for number, question in enumerate(asked):
            example = _retrieved(retriever, recipe, question, number)
            if isinstance(example, Example):
                made.examples.append(example)
            else:
                made.left_out[example] += 1
            bar.advance()
    if made.examples:
        return made
    if made.left_out[TOO_LONG]:
        raise ConfigError(f"not even one passage fits into the model's context of {recipe.context:,} tokens")
    where = recipe.questions or "the index"
    reasons = ", ".join(f"{count:,} with {reason}" for reason, count in made.left_out.items())
    raise DataError(f"{where}: no question to learn from{f' ({reasons})' if reasons else '; are the passages empty?'}")


def compose(asked: Asked, hits: Sequence[Hit], recipe: Recipe, draw: random.Random) -> Example | str:
    """Return an example, or why there is none.

    Args:
        asked: the question.
        hits: what the principal finds for it.
        recipe: how many passages, and how the answer is written.
        draw: decides whether the oracle is shown, and the order of the passages.
    """
    oracle = _oracle(asked, [hit.chunk for hit in hits])
    if asked.answers and oracle is None:
        return NO_ORACLE
    wanted = recipe.examples.distractors
    shown = oracle if oracle is not None and (draw.random() < recipe.examples.oracle_share or not wanted) else None
    others = [hit for hit in hits if not (hit.chunk == oracle or asked.is_answered_by(hit.chunk))]
    others = [hit for hit in others if not asked.is_named(hit.chunk)]
    chosen = [hit.chunk for hit in quotes.choose(asked.text, others, wanted + (shown is None))] if wanted else []
    if shown is None and not chosen:
        return NO_PASSAGE
    for size in range(len(chosen), -1 if shown else 0, -1):
        passages = [*([shown] if shown else []), *chosen[:size]]
        draw.shuffle(passages)
        number = passages.index(shown) + 1 if shown else None
        turns = (*prompt(asked.text, passages, is_ours=True), _answer(asked, passages, number, recipe.examples))
        if recipe.fits(turns):
            return Example(asked, tuple(passages), number, turns)
    return TOO_LONG


def read_conversations(training_set: Artifact) -> Iterator[Conversation]:
    """Yield the conversations of a training set."""
    for row in _rows(training_set, EXAMPLES):
        yield conversation.from_rows(row["messages"])


def read_chunks(training_set: Artifact) -> list[Chunk]:
    """Return the chunks of all examples of a training set, by path and place."""
    return [Chunk(**{**row, "title": tuple(row["title"])}) for row in _rows(training_set, CHUNKS)]


def _rows(training_set: Artifact, name: str) -> list[Mapping[str, Any]]:
    artifacts.check(training_set, [name])
    return jsonl.loads((training_set.path / name).read_text(encoding="utf-8"))


def _everything(retriever: Retriever, principal: str, rules: Rules) -> list[Chunk]:
    """Return all chunks that the principal may read; that they are read is on disk before.

    Raises:
        ConfigError: there are none.
    """
    found = _index(retriever).everything(principal, rules)
    fields = {"rules": retriever.audit.keyed(rules.version), "store": retriever.store.digest}
    retriever.audit.record(RECORDED, principal, state="begins", readable=len(found), **fields)
    if not found:
        raise ConfigError(f"{_index(retriever).path}: no passage that {principal} may read; check --principal")
    return found


def _index(retriever: Retriever) -> Index:
    assert isinstance(retriever.store, Index), "a training set is made from an index in a folder"
    return retriever.store


def _of_chunks(found: Sequence[Chunk], recipe: Recipe) -> Iterator[Asked]:
    """Yield cloze questions on chunks in random order."""
    chunks = [chunk for chunk in found if chunk.text.strip()]
    random.Random(recipe.seed).shuffle(chunks)
    made = cloze_questions([chunk.text for chunk in chunks], recipe.seed, recipe.examples.per_passage)
    for each in islice(made, recipe.examples.number):
        chunk = chunks[each.passage]
        span = (each.answer.start, each.answer.end)
        yield Asked(each.question, (chunk.text[slice(*span)],), chunk, span)


def _of_file(path: Path) -> list[Asked]:
    """Return the questions of a file.

    Raises:
        DataError: none of them has an answer, or their passages are all empty.
    """
    questions = read_questions(path, "questions")
    if not any(question.answers for question in questions):
        raise DataError(f"questions {path}: none of them has an answer; give each its answers")
    given = [text for question in questions for text in question.passages.values()]
    if given and not any(text.strip() for text in given):
        raise DataError(f"questions {path}: the passages of all questions are empty")
    return [_asked(question) for question in questions]


def _asked(question: Question) -> Asked:
    passages = tuple(text for text in question.passages.values() if text.strip())
    return Asked(question.text, question.answers, documents=question.documents, passages=passages)


def _retrieved(retriever: Retriever, recipe: Recipe, asked: Asked, number: int) -> Example | str:
    """Retrieve passages for a question, and make an example; the passages are recorded as of any question."""
    example: Example | str = NO_PASSAGE

    def choose(hits: list[Hit]) -> list[Hit]:
        nonlocal example
        example = compose(asked, hits, recipe, random.Random(f"{recipe.seed} {number}"))
        used = example.passages if isinstance(example, Example) else ()
        return [hit for hit in hits if hit.chunk in used]

    retriever.search(asked.text, recipe.principal, quotes.POOL, choose)
    return example


def _oracle(asked: Asked, found: Sequence[Chunk]) -> Chunk | None:
    """Return the chunk that answers a question: one that is said to, and has an answer word for word if any has."""
    if asked.oracle is not None or not asked.answers:
        return asked.oracle
    is_any_named = bool(asked.documents or asked.passages)
    named = [chunk for chunk in found if asked.is_named(chunk)] if is_any_named else list(found)
    holding = [chunk for chunk in named if asked.is_answered_by(chunk)]
    return next(iter(holding or (named if is_any_named else [])), None)


def _answer(asked: Asked, passages: Sequence[Chunk], oracle: int | None, examples: ExamplesConfig) -> Turn:
    """Return what the assistant says: a quote of the oracle, the answer, and what they cite; or an abstention."""
    if oracle is None:
        return Turn.of("assistant", ABSTENTION)
    chunk = passages[oracle - 1]
    spans = {answer: span for answer in asked.answers if (span := find_quote(answer, chunk.text))}
    answer = next(iter(spans), asked.answers[0])
    quote = _sentence(chunk, asked.text, asked.span or spans.get(answer)) if examples.quote else ""
    name = {"number_and_id": label(oracle, chunk), "number": str(oracle), "nothing": ""}[examples.cite]
    cited = (Part("cite", name),) if name else ()
    quoted = (Part("text", f"“{quote}”"), *cited, Part("text", "\n")) if quote not in {"", answer} else ()
    return Turn("assistant", _joined((*quoted, Part("text", answer), *cited)))


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Join the parts of text that follow one another: the template encodes each by itself, as a model does not."""
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].kind == part.kind == "text":
            joined[-1] = Part("text", joined[-1].text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


def _sentence(chunk: Chunk, question: str, span: tuple[int, int] | None) -> str:
    """Return the sentence of a chunk that has the answer, else its best quote; empty if it is too long to repeat."""
    if span is None:
        best = quotes.quotes(question, [chunk], [chunk])
        text = chunk.text[best[0].start : best[0].end] if best else ""
    else:
        edges = [0, *sentence_ends(chunk.text, any_case=True), len(chunk.text)]
        text = chunk.text[max(e for e in edges if e <= span[0]) : min(e for e in edges if e >= span[1])]
    text = " ".join(text.split())
    return text if len(text) <= quotes.LONGEST_QUOTE and not {"“", "”"} & set(text) else ""


def _readers(retriever: Retriever, rules: Rules, chunks: Sequence[Chunk]) -> readers.Readers:
    """Return the readers that the documents of chunks have in common."""
    classes = _index(retriever).classes({chunk.path for chunk in chunks}, rules)
    return readers.common(readers.Readers(*rules.resolved(each)) for each in classes)


def _changed(
    before: Artifact, recipe: Recipe, retriever: Retriever, rules: Rules, found: Sequence[Chunk]
) -> str | None:
    """Return what is no longer as it was when a training set was made; None if nothing is."""
    if before.digest_of("index") != retriever.store.digest:
        return "the index is another one than the training set was made from"
    if (made_as := before.config["principal"]) != recipe.principal:
        return visible(f"the training set was made as the principal {made_as}, not as {recipe.principal}")
    chunks = read_chunks(before)
    if not {chunk.id for chunk in chunks} <= {chunk.id for chunk in found} or (
        readers.readers_of(before.config) != _readers(retriever, rules, chunks)
    ):
        return "the index has other permissions than the training set was made with"
    asked = recipe.questions and Input.of_file("questions", recipe.questions).digest
    made_with = {name: value for name, value in before.config.items() if name not in {"rules", readers.KEY}}
    if made_with != recipe.settings() or before.digest_of("questions") != asked:
        return "the training set was made with other questions or settings"
    return None


def _write(output: Path, recipe: Recipe, made: Made, retriever: Retriever, rules: Rules) -> Artifact:
    index = _index(retriever).artifact
    inputs = [index.as_input("index", of=output)]
    if recipe.questions is not None:
        inputs.append(Input.of_file("questions", recipe.questions))
    shared = _readers(retriever, rules, made.chunks)
    config = recipe.settings() | {"rules": rules.version, readers.KEY: shared.as_json()}
    with artifacts.create(output, kind=KIND, config=config, inputs=inputs, is_private=True) as draft:
        rows = list(map(_row, made.examples))
        for name, lines in ((EXAMPLES, rows), (CHUNKS, [chunk._asdict() for chunk in made.chunks])):
            (draft.path / name).write_text(jsonl.dumps(lines), encoding="utf-8")
            draft.rows[name] = len(lines)
        with_oracle = sum(example.oracle is not None for example in made.examples)
        draft.counts |= {"examples": len(rows), "with_oracle": with_oracle, "dropped": dict(made.left_out)}
    return artifacts.load(output, kind=KIND)


def _row(example: Example) -> dict[str, Any]:
    return {
        "question": example.asked.text,
        "answers": list(example.asked.answers),
        "chunks": [chunk.id for chunk in example.passages],
        "oracle": example.oracle,
        "messages": conversation.to_rows(example.turns),
    }
