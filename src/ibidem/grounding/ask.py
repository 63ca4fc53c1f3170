"""Answers from documents: retrieve, choose passages, ask, check every citation, record.

    question -> 40 chunks that the principal may read -> the 6 that fit best -> the rules once more -> recorded
                                                                   |
             without a model: the best quotes themselves  ---------+---------  with one: its answer
                                                                   |
                     citations checked by code: numbers that exist, claims that are supported, quotes
                                                                   |
                                                            recorded, then shown

The passages are numbered from 1. A model of ours reads each as a part of the chat template, verbatim, below its number
and the beginning of its chunk's id, and cites with parts; a foreign model reads and writes [1], and brackets in its
passages have a backslash before them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import log
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import ConfigError, NoRoom
from ibidem.figures import counted, terminal_text
from ibidem.grounding import quotes
from ibidem.grounding.cite import (
    Checked,
    Citation,
    Claim,
    check,
    escape,
    is_abstention,
    label,
    may_be_abstention,
    passage_text,
    read_citations,
)
from ibidem.grounding.config import ABSTENTIONS, WORD_SHARE, GroundAskConfig
from ibidem.grounding.marked import cleaned, escape_numbers
from ibidem.grounding.opening import opened
from ibidem.grounding.rerank import share_of
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.search import source_line
from ibidem.grounding.store import Chunk, Hit
from ibidem.grounding.support import Entailment, open_entailment

NO_ANSWER = "No passage that you may read answers this."
CLOSEST = "ibidem ground search shows the passages that come closest"
QUOTES = "quotes"
"""Who answers without a model."""
_ABSTENTIONS = ("no passage", *ABSTENTIONS)
_INSTRUCTION = "Answer from the passages alone, and cite them. If they do not answer it, say: I don't know."
_HOW_TO_CITE = (
    "Answer from the passages alone, and cite each as [its number], behind a blank. "
    "If they do not answer it, say: I don't know."
)


class Reply(NamedTuple):
    """An answer, and what it was made from."""

    passages: tuple[Chunk, ...]
    """Those that it could cite, numbered from 1."""
    checked: Checked
    left_out: int
    """Passages that do not fit into the model's context."""
    scores: tuple[float | None, ...] | None = None
    """Of each claim, from 0 to 1, where one half is the head's threshold; None if it cites nothing, has no number, year
    or name, or what it cites has nothing else of their kind. Without a head there are none."""

    def rows(self) -> list[dict[str, Any]]:
        """Return its citations as JSON values."""
        return [_row(citation, self.passages[citation.number - 1]) for citation in self.checked.citations]


class Retrieved(NamedTuple):
    """Passages for an answer; their record is on disk."""

    passages: tuple[Chunk, ...]
    """Those that it may cite."""
    found: tuple[Chunk, ...]
    """Those that they were chosen from."""
    left_out: int
    """How many more passages there would be, if they fitted into the model's context."""


@dataclass(frozen=True)
class Answerer:
    """Answers from passages: with a model, or with quotes."""

    judge: Entailment
    k: int
    max_tokens: int
    model: Any = None
    is_ours: bool = False
    name: str = QUOTES
    """Of the model in the audit log: its digest."""

    def answer(self, question: str, chunks: Sequence[Chunk], found: Sequence[Chunk]) -> Checked:
        """Answer a question from passages, which were chosen from all that were found, and check the answer."""
        if self.model is None or not chunks:
            return quoted(quotes.quotes(question, chunks, found), chunks)
        from ibidem.modeling.generate import Sampling

        sampling = Sampling(self.max_tokens, temperature=0)
        turn = self.model.respond([prompt(question, chunks, is_ours=self.is_ours)], sampling)[0]
        parts = turn.parts if self.is_ours else read_citations(turn.text)
        if abstains(turn.text, question):
            return Checked(NO_ANSWER, "", (), 0, ())
        return check(parts, chunks, self.judge)

    def fits(self, question: str, chunks: Sequence[Chunk]) -> bool:
        """Return whether a question, its passages and the longest answer fit into the model's context."""
        if self.model is None:
            return True
        try:
            self.model.check_fit([prompt(question, chunks, is_ours=self.is_ours)], self.max_tokens)
        except ConfigError:
            return False
        return True


def ask(config: GroundAskConfig) -> str:
    """Answer, and return the answer with its sources, or as JSON.

    Raises:
        AccessDenied: the access rules or the index changed during the query.
        AuditError: a record cannot be written; nothing is shown then.
    """
    answered = reply_to(config)
    return as_json(config, answered) if config.json else as_text(answered)


def reply_to(config: GroundAskConfig) -> Reply:
    """Answer a question as a principal; both records are on disk when it returns."""
    answerer = open_answerer(config.model, k=config.k, max_tokens=config.max_tokens, principal=config.principal)
    with opened(config, config.principal) as retriever:
        return reply(retriever, answerer, config.question, config.principal)


def reply(retriever: Retriever, answerer: Answerer, question: str, principal: str) -> Reply:
    """Retrieve, answer, check and record."""
    about = retrieve(retriever, question, principal, answerer.k, partial(answerer.fits, question))
    if about.left_out:
        log.event("ground.left_out", passages=about.left_out, reason="they do not fit into the model's context")
    checked = answerer.answer(question, about.passages, about.found)
    scores = None
    if retriever.head is not None:
        scores = tuple(score(retriever, principal, claim, about.passages) for claim in checked.claims)
    retriever.answered(checked.text, principal, answerer.name, about.found)
    return Reply(about.passages, checked, about.left_out, scores)


def retrieve(
    retriever: Retriever, question: str, principal: str, k: int, fits: Callable[[Sequence[Chunk]], bool]
) -> Retrieved:
    """Retrieve passages for a question, and record them: the k best, less the last ones that do not fit.

    Args:
        retriever: of the index.
        question: the question.
        principal: who asks.
        k: number of passages, at most.
        fits: whether passages fit into the model's context.

    Raises:
        AccessDenied: the rules or the index changed twice in the meantime.
        NoRoom: not even one passage fits.
        AuditError: the record cannot be written.
    """
    found: list[Chunk] = []
    left_out = 0

    def choose(hits: list[Hit]) -> list[Hit]:
        nonlocal found, left_out
        found, left_out = [hit.chunk for hit in hits], 0
        chosen = quotes.choose(question, hits, k)
        while chosen and not fits([hit.chunk for hit in chosen]):
            if len(chosen) == 1:
                raise NoRoom("not even one passage fits into the model's context; give fewer max_tokens")
            chosen.pop()
            left_out += 1
        return chosen

    hits = retriever.search(question, principal, max(quotes.POOL, k), choose)
    return Retrieved(tuple(hit.chunk for hit in hits), tuple(found), left_out)


def abstains(answer: str, question: str) -> bool:
    """Return whether an answer is empty, or says that the passages do not answer the question."""
    return is_abstention(answer, _ABSTENTIONS, question)


def may_abstain(answer: str) -> bool:
    """Return whether an answer that begins like this may turn out to abstain.

    >>> may_abstain(" I do"), may_abstain("I don't know"), may_abstain("I do it")
    (True, True, False)
    """
    return may_be_abstention(answer, _ABSTENTIONS)


def score(retriever: Retriever, principal: str, claim: Claim, chunks: Sequence[Chunk]) -> float | None:
    """Return what the head says of a claim and the passages that it cites; see `Reply.scores`."""
    head = retriever.head
    if head is None or not claim.numbers:
        return None
    cited = "\n\n".join(passage_text(chunks[number - 1]) for number in claim.numbers)
    return share_of(head.margin(claim.text, cited, retriever.frequencies(claim.text, principal)), head.threshold)


def open_answerer(
    model: Path | None, *, k: int, max_tokens: int, judge: Entailment | None = None, principal: str | None = None
) -> Answerer:
    """Open what answers: a checkpoint or Hugging Face model, or without one the quotes.

    Raises:
        AccessDenied: the checkpoint was tuned on documents, and the principal is not among their readers.
        ConfigError: the path is no model.
    """
    judge = judge or open_entailment("words", WORD_SHARE)
    if model is None:
        return Answerer(judge, k, max_tokens)
    from ibidem.inference.model_id import identify
    from ibidem.inference.models import open_model

    model_id = identify(model, principal)
    opened_model = open_model(model_id.path, model_id.digest, principal)
    return Answerer(judge, k, max_tokens, opened_model, model_id.is_checkpoint, model_id.digest)


def prompt(question: str, chunks: Sequence[Chunk], *, is_ours: bool) -> Conversation:
    """Return the conversation in which a model is asked: passages as parts, then the question.

    A model of ours is trained on these very conversations (see `training_set`).
    """
    numbered = [(number, chunk, passage_text(chunk)) for number, chunk in enumerate(chunks, 1)]
    if is_ours:
        shown = [f"{label(number, chunk)}\n{text}" for number, chunk, text in numbered]
    else:
        shown = [f"[{number}] {escape(text)}" for number, _, text in numbered]
    asked = f"{_INSTRUCTION if is_ours else _HOW_TO_CITE}\nQuestion: {question}"
    return (Turn("user", (*(Part("passage", text) for text in shown), Part("text", asked))),)


class QuoteLine(NamedTuple):
    """A quote in an answer, with its number behind it."""

    text: str
    citation: Citation
    claim: Claim


def quote_lines(found: Sequence[quotes.Quote], chunks: Sequence[Chunk]) -> list[QuoteLine]:
    """Return quotes as they are shown: each is followed by its number, and supported by being what it cites."""
    lines = []
    for quote in found:
        chunk, number = chunks[quote.place], quote.place + 1
        text = chunk.text[quote.start : quote.end]
        span = (chunk.start + quote.start, chunk.start + quote.end)
        shown = f"{escape_numbers(cleaned(text).strip())} [{number}]"
        citation = Citation(number, span, text, supported=True)
        lines.append(QuoteLine(shown, citation, Claim(text.strip(), (number,), supported=True)))
    return lines


def quoted(found: Sequence[quotes.Quote], chunks: Sequence[Chunk]) -> Checked:
    """Return quotes as an answer."""
    lines = quote_lines(found, chunks)
    text = "\n\n".join(line.text for line in lines)
    ordered = tuple(sorted((line.citation for line in lines), key=lambda each: (each.number, each.span)))
    return Checked(text or NO_ANSWER, text, ordered, 0, (), tuple(line.claim for line in lines))


def as_json(config: GroundAskConfig, answered: Reply) -> str:
    """Return an answer as JSON: question, principal, answer, citations, removed, unsupported, left_out, claims."""
    checked = answered.checked
    return json.dumps(
        {
            "question": config.question,
            "principal": config.principal,
            "answer": checked.text,
            "citations": answered.rows(),
            "removed": checked.removed,
            "unsupported": list(checked.unsupported),
            "left_out": answered.left_out,
            **({} if answered.scores is None else {"claims": _claims(checked.claims, answered.scores)}),
        },
        ensure_ascii=False,
        indent=1,
    )


def as_text(answered: Reply) -> str:
    """Return an answer for people: the text, then a line for each passage that it cites."""
    checked = answered.checked
    cited = {citation.number for citation in checked.citations}
    sources = [
        f"[{number}] {source_line(chunk)}" for number, chunk in enumerate(answered.passages, 1) if number in cited
    ]
    notes = [
        f"{counted(checked.removed, 'citation')} of passages that do not exist removed" if checked.removed else "",
        f"{counted(len(checked.unsupported), 'claim')} unsupported" if checked.unsupported else "",
        f"{counted(answered.left_out, 'passage')} left out: no room in the model's context"
        if answered.left_out
        else "",
        CLOSEST if answered.passages and not sources and not checked.unsupported else "",
    ]
    said = "; ".join(note for note in notes if note)
    return "\n\n".join(part for part in (terminal_text(checked.text), "\n".join(sources), said) if part)


def _claims(claims: Sequence[Claim], scores: Sequence[float | None]) -> list[dict[str, Any]]:
    return [
        {"claim": claim.text, "cited": list(claim.numbers), "supported": claim.supported, "score": score}
        for claim, score in zip(claims, scores, strict=True)
    ]


def _row(citation: Citation, chunk: Chunk) -> dict[str, Any]:
    return {
        "number": citation.number,
        "chunk": chunk.id,
        "path": chunk.path,
        "title": list(chunk.title),
        "span": list(citation.span),
        "quote": citation.quote,
        "supported": citation.supported,
    }
