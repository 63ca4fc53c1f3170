"""Questions answered from an index: the passages are those that a principal is shown, as `ibidem ground ask` does it.

    recall_at_k        questions of whose documents at least one is among the k passages
    reciprocal_rank    1 / the rank of the first passage of such a document; 0 if there is none

Both are means over the questions that name documents which answer them. A document that the principal may not read is
never found: evaluate as somebody who may read it, and as somebody who may not.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ibidem import artifacts, log
from ibidem.errors import AccessDenied, ConfigError
from ibidem.evaluation.config import DocQaConfig
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.ask import Answerer, open_answerer, reply, retrieve
from ibidem.grounding.cite import passage_text
from ibidem.grounding.config import AskerChoice
from ibidem.grounding.index import KIND
from ibidem.grounding.opening import POSIX, opened
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import Entailment
from ibidem.jsonl import Row
from ibidem.runs import newest

RECALL, RANK = "recall_at_k", "reciprocal_rank"
METRICS = (RECALL, RANK)
CHANGED = "the access rules or the index changed during the evaluation; evaluate again"


class Found(NamedTuple):
    """What a principal is shown for a question, and what is answered."""

    chunks: tuple[Chunk, ...]
    answer: str
    """Empty for an abstention."""

    @property
    def passages(self) -> dict[str, str]:
        """The passages by their numbers."""
        return {str(number): passage_text(chunk) for number, chunk in enumerate(self.chunks, 1)}


@dataclass(frozen=True)
class Desk:
    """Answers questions as one principal, as long as rules and index stay what they are."""

    retriever: Retriever
    answerer: Answerer
    principal: str
    rules: str
    """Version of the access rules."""
    index: str
    """Digest of the index."""

    @property
    def head(self) -> str | None:
        """Digest of the head that ranks what is found."""
        return self.retriever.head.digest if self.retriever.head else None

    def answer(self, questions: Mapping[str, str]) -> dict[str, Found]:
        """Answer each question.

        Raises:
            AccessDenied: the rules or the index changed.
        """
        found: dict[str, Found] = {}
        with log.progress("answer", len(questions), "questions") as bar:
            for key, question in questions.items():
                replied = reply(self.retriever, self.answerer, question, self.principal)
                found[key] = Found(replied.passages, replied.checked.said)
                bar.advance()
        if (self.rules, self.index) != (self.retriever.permissions.current().version, self.retriever.store.digest):
            raise AccessDenied(CHANGED)
        return found

    def again(self, questions: Mapping[str, str], items: Mapping[str, Row]) -> tuple[dict[str, Found], str | None]:
        """Retrieve the passages of each item again; return them, and which question is shown others now.

        Of an item there may be fewer than there are now: those that did not fit into the model's context are left out.
        """
        found: dict[str, Found] = {}
        for key, question in questions.items():
            fits = partial(self.answerer.fits, question)
            about = retrieve(self.retriever, question, self.principal, self.answerer.k, fits)
            retrieved = items[key]["retrieved"]
            chunks = about.passages[: len(retrieved)]
            if shown(chunks) != retrieved:
                return found, f"the question {key}, asked again, is shown other passages"
            found[key] = Found(chunks, "")
        return found, None


@contextmanager
def desk(config: DocQaConfig, judge: Entailment) -> Iterator[Desk]:
    """Open the index and the model of an evaluation.

    Raises:
        ConfigError: it names no principal.
    """
    if config.principal is None:
        raise ConfigError("--index needs --principal: who asks")
    names = ("index", "acl", "key", "audit", "encoder", "head", "head_encoder", "principal")
    choice = AskerChoice(**{name: getattr(config, name) for name in names})
    answerer = open_answerer(
        config.checkpoint, k=config.k, max_tokens=config.max_tokens, judge=judge, principal=config.principal
    )
    with opened(choice, config.principal) as retriever:
        rules, index = retriever.permissions.current().version, retriever.store.digest
        yield Desk(retriever, answerer, config.principal, rules, index)


def figures(chunks: Sequence[Mapping[str, str]], documents: Collection[str]) -> Row:
    """Return the figures of one question; empty if it names no documents.

    >>> figures([{"path": "a.md"}, {"path": "b.md"}], ["b.md"])
    {'recall_at_k': 1.0, 'reciprocal_rank': 0.5}
    """
    if not documents:
        return {}
    ranks = [rank for rank, chunk in enumerate(chunks, 1) if chunk["path"] in documents]
    return {RECALL: float(bool(ranks)), RANK: 1 / ranks[0] if ranks else 0.0}


def shown(chunks: Sequence[Chunk]) -> list[dict[str, str]]:
    """Return chunks as an item names them."""
    return [{"chunk": chunk.id, "path": chunk.path} for chunk in chunks]


def digest_of_index(place: str) -> str:
    """Return the digest of an index."""
    return artifacts.load(Path(place), kind=KIND).digest


def digest_of_head(place: str) -> str:
    """Return the digest of a grounding head, or of the newest of its training."""
    return artifacts.load(newest(Path(place))).digest


def digest_of_rules(place: str) -> str:
    """Return the version of the access rules in a file.

    Raises:
        ConfigError: they are those of a folder's modes, which belong to one machine.
    """
    if place == POSIX:
        raise ConfigError("rules of a folder's modes cannot be pinned; name a file")
    return YamlPermissions(Path(place)).current().version
