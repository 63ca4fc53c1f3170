"""Search as a principal: only what they may read and what was recorded leaves the index.

    search   rules -> principal -> query -> store.search -> hits -> choice of passages
               |                                                          |
               +--- the rules again: do they still hold for all hits? ----+    no: once more, then AccessDenied
                                                                          |
                                               audit: the query's keyed hash, the ids of what will be shown
                                                                          |
                                                                        shown
             with a head, the hits are in its order before passages are chosen, and the record names it
    answer   the rules again, as a model may write for minutes -> audit -> shown
             of an answer that is sent while it is written, what was sent until it broke off is recorded too
    show     one chunk by its id: unknown and forbidden look alike, and are recorded as denied

Nothing is returned before its record is on disk: an error of the audit log is the only answer then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ibidem.errors import AccessDenied, IbidemError, NotAReader
from ibidem.figures import visible
from ibidem.grounding.alignment import Frequencies
from ibidem.grounding.audit.log import AuditLog, Kind
from ibidem.grounding.encoder import Encoder
from ibidem.grounding.rerank import Scorer, reranked
from ibidem.grounding.store import Chunk, Hit, Permissions, Query, Rules, Store
from ibidem.grounding.terms import terms
from ibidem.readers import Readers, is_reader

Choice = Callable[[list[Hit]], list[Hit]]
"""Returns the hits that are shown, of those that were found."""

CHANGED = "the access rules or the index changed during the query; ask again"
PRIVATE_SEARCH = "the index is searched with a model that was made from private documents"
TRIES = 2


@dataclass(frozen=True)
class Retriever:
    """Finds chunks as a principal, and records what is shown."""

    store: Store
    permissions: Permissions
    audit: AuditLog
    encoder: Encoder | None = None
    head: Scorer | None = None
    """Ranks what is found; None: the store's order."""
    readers: tuple[Readers, ...] = ()
    """Who may use encoder and head, if these were opened for others: all of them must permit."""

    def search(self, text: str, principal: str, k: int, choose: Choice = lambda hits: hits) -> list[Hit]:
        """Return the best chunks that a principal may read, best first; the record is on disk before.

        Args:
            text: words, or a question.
            principal: who asks.
            k: number of chunks to look at.
            choose: picks those of them that are shown.

        Raises:
            AccessDenied: the rules or the index changed twice in the meantime.
            NotAReader: encoder or head were made from private documents, of which the principal is no reader.
            RulesError: the rules cannot be read; nobody may read anything then.
            AuditError: the record cannot be written.
        """
        if not all(is_reader(principal, each) for each in self.readers):
            self.audit.record("denied", principal, query=self.audit.keyed(text))
            raise NotAReader(visible(f"{PRIVATE_SEARCH}, and {principal} is not among their readers"))
        query = Query(text, self.encoder.encode([text])[0] if self.encoder else None)
        for _ in range(TRIES):
            rules, digest = self.permissions.current(), self.store.digest
            hits = self.store.search(query, principal, rules, k)
            try:
                chosen = choose(self._ranked(text, hits, principal, rules))
            except IbidemError:
                self._record(text, principal, rules, digest, [])
                raise
            if self.may_be_shown([hit.chunk for hit in hits], principal, rules) and self.store.digest == digest:
                self._record(text, principal, rules, digest, [hit.chunk for hit in chosen])
                return chosen
        raise self.denial(principal, query=text)

    def frequencies(self, text: str, principal: str) -> Frequencies:
        """Count the chunks that a principal may read, and those of them that have each term of a text.

        Raises:
            RulesError: the rules cannot be read.
        """
        return self.store.frequencies(_terms_of(text), principal, self.permissions.current())

    def show(self, chunk_id: str, principal: str) -> Chunk:
        """Return one chunk.

        Raises:
            AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
        """
        for _ in range(TRIES):
            rules, digest = self.permissions.current(), self.store.digest
            try:
                chunk = self.store.chunk(chunk_id, principal, rules)
            except AccessDenied:
                self.audit.record("denied", principal, query=self.audit.keyed(chunk_id))
                raise
            if self.may_be_shown([chunk], principal, rules) and self.store.digest == digest:
                self._record(chunk_id, principal, rules, digest, [chunk])
                return chunk
        raise self.denial(principal, query=chunk_id)

    def readable(self, chunk_ids: Sequence[str], principal: str) -> frozenset[str]:
        """Return which of some chunks there are, for a principal; nothing of them is shown, so nothing is recorded.

        Raises:
            RulesError: the rules cannot be read.
        """
        rules = self.permissions.current()
        return frozenset(each for each in dict.fromkeys(chunk_ids) if self._is_readable(each, principal, rules))

    def _is_readable(self, chunk_id: str, principal: str, rules: Rules) -> bool:
        try:
            chunk = self.store.chunk(chunk_id, principal, rules)
        except AccessDenied:
            return False
        return self.may_be_shown([chunk], principal, rules)

    def answered(self, answer: str, principal: str, model: str, chunks: Sequence[Chunk]) -> None:
        """Record an answer before its last byte leaves.

        Args:
            answer: its text.
            principal: who asked.
            model: what wrote it, perhaps for minutes: the rules are read once more.
            chunks: all that it was made from.

        Raises:
            AccessDenied: the principal may no longer read all of them.
            RulesError: the rules cannot be read.
            AuditError: the record cannot be written.
        """
        if not any(self.may_be_shown(chunks, principal, self.permissions.current()) for _ in range(TRIES)):
            raise self.denial(principal, answer=answer)
        self.audit.record("answer", principal, answer=self.audit.keyed(answer), model=model, **self._by_head())

    def broken_off(self, answer: str, principal: str, model: str) -> None:
        """Record what was shown of an answer of which no more is shown: its reader left, or the model failed.

        Raises:
            AuditError: the record cannot be written.
        """
        self.audit.record("answer", principal, answer=self.audit.keyed(answer), model=model, cut=1, **self._by_head())

    def may_be_shown(self, chunks: Sequence[Chunk], principal: str, rules: Rules) -> bool:
        """Return whether the rules are still these, and permit a principal every chunk."""
        paths = dict.fromkeys(chunk.path for chunk in chunks)
        permitted = all(rules.permits(principal, rules.access(path)) for path in paths)
        return permitted and self.permissions.holds(rules, paths)

    def check_still(self, principal: str, rules: Rules, digest: str, chunks: Sequence[Chunk]) -> None:
        """Check, before something that took long to make is written, that a principal may still read its chunks.

        Args:
            principal: who made it.
            rules: the rules that it was made under.
            digest: of the index that it was made from.
            chunks: all that it holds.

        Raises:
            AccessDenied: the rules or the index changed meanwhile.
        """
        if self.store.digest != digest or not self.may_be_shown(chunks, principal, rules):
            raise self.denial(principal)

    def record_made(
        self, kind: Kind, principal: str, rules: Rules, digest: str, chunks: Sequence[Chunk], **more: str
    ) -> None:
        """Record what is made from chunks, before it is written.

        Args:
            kind: what it is.
            principal: who makes it.
            rules: the rules that it is made under.
            digest: of the index that it is made from.
            chunks: all that it holds.
            more: further fields.

        Raises:
            AuditError: the record cannot be written.
        """
        ids = sorted(chunk.id for chunk in chunks)
        keyed = self.audit.keyed(rules.version)
        self.audit.record(kind, principal, chunks=ids, rules=keyed, store=digest, **more)

    def _ranked(self, text: str, hits: list[Hit], principal: str, rules: Rules) -> list[Hit]:
        if self.head is None:
            return hits
        return reranked(text, hits, self.head, self.store.frequencies(_terms_of(text), principal, rules))

    def _by_head(self) -> dict[str, str]:
        """Return what a record says of the head."""
        return {} if self.head is None else {"head": self.head.digest}

    def denial(self, principal: str, **texts: str) -> AccessDenied:
        """Record that nothing is shown since rules or index changed, and return the error."""
        keyed = {name: self.audit.keyed(text) for name, text in texts.items()}
        self.audit.record("denied", principal, reason=CHANGED, **keyed)
        return AccessDenied(CHANGED)

    def _record(self, text: str, principal: str, rules: Rules, digest: str, chunks: Sequence[Chunk]) -> None:
        self.audit.record(
            "query",
            principal,
            query=self.audit.keyed(text),
            chunks=[chunk.id for chunk in chunks],
            rules=self.audit.keyed(rules.version),
            store=digest,
            **self._by_head(),
        )


def _terms_of(text: str) -> list[str]:
    return list(dict.fromkeys(terms(text)))
