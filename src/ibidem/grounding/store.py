"""What the grounding rooms agree on: who may read, what is found, and what a store of chunks can do.

One property holds for every store that keeps its promise in full: **non-interference**. All that a principal can
observe is byte-equal to what a store shows that was made from the documents alone that they may read.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ibidem.records import Unreadable

if TYPE_CHECKING:
    from ibidem.grounding.alignment import Frequencies

EVERYONE = "everyone"
"""The group of all principals, known or not."""


class Access(NamedTuple):
    """Who may read a document: names of principals and groups. Documents with equal access are one access class."""

    read: frozenset[str]
    deny: frozenset[str]
    """Wins over `read`."""


NOBODY = Access(frozenset(), frozenset())
"""The class of documents that nobody may read."""


class Rules(Protocol):
    """The access rules at one moment; immutable."""

    version: str
    """Identifies them: it changes whenever a rule, a group or a member changes."""

    def access(self, path: str) -> Access:
        """Return who may read the document at a path, relative to the folder, with `/`; nobody if no rule matches."""

    def permits(self, principal: str, access: Access) -> bool:
        """Return whether a principal may read documents of a class; nested groups are resolved."""

    def resolved(self, access: Access) -> Access:
        """Return a class with the names of its groups' members, as they are now.

        `everyone` stays a name, unless the rules list the principals; who must have an account is denied by a name.
        """


def is_bound_to_files(rules: Rules) -> bool:
    """Return whether rules belong to files rather than to paths.

    Another file at the path of a document has other readers than the text that was indexed. So the class at the time of
    the indexing must permit, too. Such rules have an attribute `is_bound_to_files` that is true.
    """
    return bool(getattr(rules, "is_bound_to_files", False))


class Permissions(Protocol):
    """Where access rules come from: a file, a folder's POSIX modes, a directory, OpenFGA."""

    def current(self) -> Rules:
        """Return the rules as they are now, read again if they changed.

        Raises:
            RulesError: they cannot be read, or are malformed; nobody may read anything then.
        """

    def holds(self, rules: Rules, paths: Iterable[str]) -> bool:
        """Return whether rules are still the current ones for the documents at these paths, which are to be shown.

        If not, `current` returns others from now on.

        Raises:
            RulesError: as `current`.
        """


class Chunk(NamedTuple):
    """A part of a document."""

    id: str
    """A keyed hash of path and content."""
    path: str
    title: tuple[str, ...]
    """The headings above it, from the outermost."""
    start: int
    end: int
    """It is `text[start:end]` of the document's text, in characters."""
    text: str


class Hit(NamedTuple):
    """A chunk that was found."""

    chunk: Chunk
    score: float


class Query(NamedTuple):
    """What is looked for."""

    text: str
    vector_D: NDArray[Any] | None
    """float32 of length 1; None if the store has no vectors."""


class Indexed(NamedTuple):
    """A document to index."""

    path: str
    text: str
    chunks: tuple["Span", ...]


class Span(NamedTuple):
    """Position of a chunk in its document."""

    title: tuple[str, ...]
    start: int
    end: int


class Store(Protocol):
    """Chunks that can be searched as a principal."""

    @property
    def digest(self) -> str:
        """Identifies the content; it changes with every change."""

    def search(self, query: Query, principal: str, rules: Rules, k: int) -> list[Hit]:
        """Return the best chunks that a principal may read, best first; fewer than k if there are no more."""

    def chunk(self, chunk_id: str, principal: str, rules: Rules) -> Chunk:
        """Return one chunk.

        Raises:
            AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
        """

    def frequencies(self, wanted: Sequence[str], principal: str, rules: Rules) -> "Frequencies":
        """Count the chunks that a principal may read, and those of them that have each term, with their headings."""

    def update(
        self, documents: Iterable[Indexed], rules: Rules, *, quarantined: Iterable[Unreadable] = ()
    ) -> list[str]:
        """Make the store hold exactly these documents, less those that are forgotten; what did not change is kept.

        Returns:
            the paths of the forgotten documents among them, which were left out.
        """

    def forget(self, path: str) -> int:
        """Remove a document, or all below a folder, from every file.

        Returns:
            how many were removed, files that could not be read included.
        """

    def readmit(self, path: str) -> bool:
        """Let an update bring back a forgotten path; return whether this very path was forgotten."""

    def close(self) -> None:
        """Close all connections."""
