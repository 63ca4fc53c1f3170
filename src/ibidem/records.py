"""The types that travel between the rooms."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

from ibidem.conversation import Conversation, Part

Category = Literal["code", "text", "instruction"]
FlashAttention = Literal["FA3", "FA4"]
"""FlashAttention-3, of `flash_attn_interface`, and FlashAttention-4, of `flash_attn.cute`; by torch's names."""
Float8Recipe = Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"]
"""How the operands of a product in float8 are scaled, by torchao's names."""
LossKernel = Literal["chunked", "liger"]
"""Whose operation computes a loss: this program's own, or liger-kernel's."""
Precedence = Literal["closest", "aggregate", "override"]

DASHBOARD_FILE = "dashboard.json"
"""The figures of a dashboard: perplexity by checkpoint, text, category and language."""
DOCUMENTS_FILE = "documents.parquet"
"""In an artifact of tokens: `sha256`, `split`, `start` and `tokens` of each document."""
IDS_FILES = {"train": "train.bin", "validation": "validation.bin"}
"""In an artifact of tokens: the ids of a shard's documents, by split."""
ITEMS_FILE = "items.jsonl"
"""In an artifact of an evaluation: the judged items."""
PROBLEMS_FILE = "problems.jsonl"
"""In an artifact of problems: the problems with their tests, and `sha256` of the document of each."""
RESULTS_FILE = "results.json"
"""In an artifact of an evaluation: the figures."""
TOKENIZER_FILE = "tokenizer.model"
"""In an artifact of a tokenizer that was trained here: the sentencepiece model."""
TOKENIZER_JSON = "tokenizer.json"
"""In an artifact of a tokenizer that was imported: the model, as the library `tokenizers` reads it."""


class DropReason(StrEnum):
    """Why a document is excluded from the corpus."""

    BINARY = "binary"
    """The text contains a NUL character."""
    EMPTY = "empty"
    """The text is empty or only whitespace."""
    LICENSE_DENIED = "license.denied"
    """The metadata or a license file names an excluded family."""
    LICENSE_HEADER = "license.header"
    """A license header in the file names an excluded family, whatever the metadata says."""
    LICENSE_MISSING = "license.missing"
    """The source states licenses, but none for this document."""
    LICENSE_UNKNOWN = "license.unknown"
    """The metadata or a license file cannot be resolved."""
    LICENSE_UNSTATED = "license.unstated"
    """The source states no licenses, and the policy requires them."""
    FILTER_GENERATED = "filter.generated"
    """A program wrote the file: its head says so, it is a lock file, or a bundler put it together."""
    FILTER_MINIFIED = "filter.minified"
    """Minified code."""
    FILTER_LINES = "filter.lines"
    """Lines or files longer than people write, or data too short or too long."""
    FILTER_SYMBOLS = "filter.symbols"
    """Too few letters, long runs of numbers or base64, markup with hardly any text: data, not language."""
    FILTER_REPETITION = "filter.repetition"
    """The same lines or words over and over."""
    FILTER_PROFANITY = "filter.profanity"
    """Hate speech or profanity, by the word list or the scorer."""
    FILTER_LANGUAGE = "filter.language"
    """A language that was not requested."""
    SECRET_TEST = "secret.test"  # noqa: S105 - a reason, not a password
    """A test file that leaks secrets: its fixtures are not worth scrubbing."""
    PAIR_EQUAL = "pair.equal"
    """The chosen and the rejected answer of a pair are equal once they are cleaned and scrubbed."""
    CONTAMINATED = "contaminated"
    """The text contains an evaluation problem."""
    DUPLICATE_EXACT = "duplicate.exact"
    """A kept document has the same text."""
    DUPLICATE_NEAR = "duplicate.near"
    """A kept document has nearly the same text."""
    REMOVAL_REQUESTED = "removal.requested"
    """The removal of the document was requested."""
    REMOVAL_CLUSTER = "removal.cluster"
    """A near duplicate of a document whose removal was requested."""


@dataclass(frozen=True)
class Drop:
    """Why a document is excluded from the corpus."""

    reason: DropReason
    detail: str | None = None
    """The evidence, short."""
    kept: str | None = None
    """The kept record that this document duplicates."""
    similarity: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """Input that could not become a document."""

    file: str
    line: int | None
    """1-based line or row; None for the whole file."""
    reason: str


@dataclass
class Document:
    r"""One document on its way from a source to a shard. `drop` is set by the step that rejects it.

    >>> document = Document(raw=b"x = 1", source="s", revision=None, record="1")
    >>> document.text += "\n"
    >>> document.encoded, document.raw
    (b'x = 1\n', b'x = 1')
    """

    raw: bytes
    """The file or text as the source has it, UTF-8, before any change; of a notebook, all of its JSON."""
    source: str
    revision: str | None
    record: str
    """The source's own id, otherwise `file:row`."""
    repo: str | None = None
    path: str | None = None
    url: str | None = None
    category: Category = "text"
    language: str | None = None
    """Programming or markup language, by file name or as the source states it."""
    natural_language: str | None = None
    """ISO 639 code of the prose; None for code, and for prose too short or uncertain."""
    license_raw: object = None
    license_stated: bool = False
    """Whether the source states licenses at all."""
    license: str | None = None
    license_evidence: str | None = None
    """What the license was read from: `metadata`, a license file, or the words of the header."""
    license_precedence: Precedence = "closest"
    """How `license_raw` relates to what the head of the file states (see `data.licenses.precedence`)."""
    scrubbed: dict[str, int] = field(default_factory=dict)
    """Number of secrets and personal data replaced by placeholders, by kind."""
    code_blocks: tuple[tuple[int, int, str | None], ...] = ()
    """Fenced code blocks as (start, end, language), in characters of `text`."""
    messages: Conversation | None = None
    """The turns of a conversation, of which `text` is the plain rendering; of a pair, prompt and chosen answer."""
    rejected: tuple[Part, ...] | None = None
    """The rejected answer of a preference pair."""
    margin: float | None = None
    """By how much the chosen answer of a pair is better, if the source says so."""
    drop: Drop | None = None
    position: int = 0
    """Position in the source, counted over everything that is read; decides the shard."""
    removal: str | None = None
    """The removal request that names it."""

    _text: str | None = field(default=None, init=False, repr=False)
    _encoded: bytes | None = field(default=None, init=False, repr=False)

    @property
    def text(self) -> str:
        """The current text; decoded on first access."""
        if self._text is None:
            self._text = self.raw.decode()
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        if text != self._text:
            self._text, self._encoded = text, text.encode()

    @property
    def encoded(self) -> bytes:
        """The current text in UTF-8."""
        return self.raw if self._encoded is None else self._encoded

    @property
    def sha256(self) -> str:
        """SHA-256 of the current text."""
        return self.raw_sha256 if self._encoded is None else hashlib.sha256(self._encoded).hexdigest()

    @cached_property
    def raw_sha256(self) -> str:
        """SHA-256 of the source's own bytes."""
        return hashlib.sha256(self.raw).hexdigest()

    @cached_property
    def swhid(self) -> str:
        """Software Heritage identifier of the source's own bytes: the git blob hash.

        >>> Document(raw=b"", source="s", revision=None, record="1").swhid
        'swh:1:cnt:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
        """
        blob = hashlib.sha1(b"blob %d\0" % len(self.raw), usedforsecurity=False)
        blob.update(self.raw)
        return "swh:1:cnt:" + blob.hexdigest()
