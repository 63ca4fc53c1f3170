"""Configurations of the grounding commands. Imports neither torch nor numpy, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ibidem.config import POSITIONAL, configuration

Positive = Annotated[int, Field(ge=1)]
ABSTENTIONS = ("i don't know", "i do not know", "not in the documents", "cannot be answered")
"""An answer that says one of these and at most a reason abstains."""
WORD_SHARE = 0.75
"""Share of a claim's content words that must occur in the passages it cites."""


@configuration
class ChunkConfig:
    """How documents are divided."""

    max_chars: Annotated[int, Field(ge=100)] = 1200
    """Maximum length of a chunk, in characters."""


@configuration
class ReadConfig:
    """What a file may cost; one that costs more is reported and left out."""

    max_bytes: Positive = 16 << 20
    """Maximum size of a file, and of the text of a PDF file."""
    max_pdf_bytes: Positive = 128 << 20
    """Maximum size of a PDF file."""
    max_pdf_pages: Positive = 5000
    """Maximum number of pages of a PDF file."""
    cpu_s: Positive = 60
    """Maximum CPU time to read a PDF file or a large file, in seconds."""
    memory_bytes: Positive = 2 << 30
    """Maximum memory to read a PDF file or a large file."""


@configuration
class GroundIndexConfig:
    """Index a folder of documents, each for those who may read it."""

    docs: Path
    """Folder of documents: Markdown, text, HTML, PDF, OpenAPI, source code."""
    acl: str
    """YAML file with groups and rules; or `posix`, for the owners and modes of the files."""
    output_dir: Path | None = None
    """Folder of the index; an existing one is brought up to date."""
    store: str | None = None
    """Instead of a folder, a PostgreSQL database: postgresql://user@host/database."""
    encoder: Path | None = None
    """Model for vectors: a checkpoint of `ibidem train`, or the folder of a Hugging Face encoder; empty: words only."""
    key: Path | None = None
    """File with the secret key of chunk ids and of the audit log; empty: this user's own."""
    audit: Path | None = None
    """Folder of the audit log; empty: the index's folder with `.audit` behind its name."""
    chunks: ChunkConfig = ChunkConfig()
    """How documents are divided."""
    read: ReadConfig = ReadConfig()
    """What a file may cost."""


@configuration
class LogChoice:
    """The audit log of an index."""

    index: Path | None = None
    """Folder of the index."""
    audit: Path | None = None
    """Folder of the audit log; empty: the index's folder with `.audit` behind its name."""


@configuration
class StoreChoice(LogChoice):
    """An index, and its log."""

    store: str | None = None
    """Instead of a folder, a PostgreSQL database: postgresql://user@host/database."""
    key: Path | None = None
    """File with the secret key of chunk ids and of the audit log; empty: this user's own."""


@configuration
class RulesChoice(StoreChoice):
    """An index, and the access rules under which it is read."""

    acl: str | None = None
    """Where the access rules are now; empty: where they were when it was indexed. They are read for each query."""


@configuration
class IndexChoice(RulesChoice):
    """An index that is searched."""

    encoder: Path | None = None
    """The model that made the vectors of the index, if it has any; empty: where it was then."""


@configuration
class HeadChoice(IndexChoice):
    """An index that is searched, perhaps with a head that ranks what is found."""

    head: Path | None = None
    """A grounding head, or the folder of its training: it ranks what is found, and scores claims; empty: none."""
    head_encoder: Path | None = None
    """The model that the head reads with; empty: where it was when the head was trained."""


@configuration
class AskerChoice(HeadChoice):
    """An index that is searched by a principal."""

    principal: str = Field(min_length=1)
    """Who asks."""


@configuration
class GroundSearchConfig(AskerChoice):
    """Find passages in the documents that a principal may read."""

    query: str = Field()
    """Words, or a question."""
    k: Positive = 10
    """Number of passages, at most."""
    json: bool = False
    """Print a JSON list of {chunk, path, title, span, score, text}."""


@configuration
class GroundAskConfig(AskerChoice):
    """Answer a question from the documents that a principal may read; each citation is checked."""

    question: str = Field()
    """The question."""
    model: Path | None = None
    """A checkpoint, or the folder of a Hugging Face model; empty: the best quotes themselves are the answer."""
    k: Positive = 6
    """Number of passages that the answer may cite."""
    max_tokens: Positive = 256
    """Maximum length of the answer, in tokens."""
    json: bool = False
    """Print JSON: question, principal, answer, citations, removed, unsupported, left_out; with a head also claims."""


@configuration
class GroundReviewConfig(AskerChoice):
    """Write a form for people: does the head rank hallucinated statements below supported ones?"""

    head: Path = Field()
    """The grounding head, or the folder of its training."""
    questions: Path = Field()
    """JSON lines with id and question, such as those of `evaluate doc-qa`."""
    output_dir: Path = Field()
    """Folder of the form. The head's order is written beside it; keep that from the raters."""
    model: Path | None = None
    """Half of the hallucinations are what this model says without a passage, where that is unsupported; empty: all are
    made by edits. Give the checkpoint that is to be released."""
    number: Positive = 120
    """Number of pairs, at most."""
    k: Positive = 6
    """Number of passages among which the supported statement is looked for."""
    max_tokens: Positive = 64
    """Maximum length of what the model says, in tokens."""
    seed: int = 0
    """Of the choice of questions, edits and places."""


@configuration
class ExamplesConfig:
    """What a model learns to answer from documents with."""

    number: Positive = 2000
    """Number of cloze questions, at most; of a file, all questions are used."""
    per_passage: Positive = 4
    """Number of cloze questions on a passage, at most."""
    oracle_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the questions that are shown the passage that answers them; the others are to be answered with an
    abstention."""
    distractors: Annotated[int, Field(ge=0)] = 4
    """Number of other passages that a question is shown: those that the search itself finds best. Without them each
    question is shown the passage that answers it, alone."""
    quote: bool = True
    """Begin an answer with the sentence of the passage that it comes from."""
    cite: Literal["number_and_id", "number", "nothing"] = "number_and_id"
    """By what an answer cites its passage. If number and id disagree, the citation is recognized as wrong; a number
    alone is shorter."""


@configuration
class GroundShowConfig(RulesChoice):
    """Open a cited chunk."""

    chunk: Annotated[str, POSITIONAL] = Field()
    """Its id."""
    principal: str = Field(min_length=1)
    """Who asks."""


@configuration
class GroundForgetConfig(StoreChoice):
    """Remove a document, or a folder of documents, from every file of an index; name what was made with them."""

    path: Annotated[str, POSITIONAL] = Field()
    """Relative to the documents' folder."""
    artifacts: tuple[Path, ...] = (Path("artifacts"),)
    """Folders to search for evaluations, training sets and checkpoints that were made from the index."""
    readmit: bool = False
    """Instead, let the next indexing bring the forgotten path back."""


@configuration
class AuditVerifyConfig(LogChoice):
    """Check that an audit log only grew since its heads were signed; or check one proof."""

    head: tuple[Path, ...] = ()
    """Signed heads that were kept elsewhere: they are the evidence."""
    verifier: tuple[str, ...] = ()
    """Verifier keys of the log and of witnesses, all of which must have signed each head; empty: this user's own."""
    proof: Path | None = None
    """Check this proof of one event instead, without the log."""


@configuration
class AuditHeadConfig(LogChoice):
    """Sign how many events an audit log has, and which; keep the file where whoever can write the log cannot."""

    output: Path | None = None
    """File of the head; empty: it is printed."""
    key: Path | None = None
    """Private key of the log, from `ibidem key`; empty: this user's own, created at the first use."""
    origin: str | None = None
    """Name of the log, if witnesses know it under one, such as example.com/audit."""


@configuration
class AuditProveConfig(LogChoice):
    """Print a proof that an event is in the log, which can be checked without the log."""

    event: Annotated[int, Field(ge=0), POSITIONAL] = Field()
    """Its number."""
    head: Path | None = None
    """Signed head that the proof leads to; empty: one is signed now, with this user's own key."""


@configuration
class AuditListConfig(LogChoice):
    """List the last events of an audit log."""

    number: Positive = 20
    """How many."""
