"""The steps of one document: each changes it in place, and returns why it is dropped, or None.

A step is made from the policies once per worker, so that patterns are compiled and lists are loaded once; None instead
of a step means that the policies do not need it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

from ibidem.config import configuration
from ibidem.conversation import Part, Turn, is_same, plain
from ibidem.data.dedup import DedupPolicy
from ibidem.data.filters.contamination import ContaminationPolicy, Guard
from ibidem.data.filters.quality import FilterPolicy, Filters
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.licenses import policy
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.data.scrub.scrubber import Scrubber, ScrubPolicy
from ibidem.data.scrub.secrets import SECRET_KINDS, SIMPLE_PASSWORD
from ibidem.data.text import clean as whitespace
from ibidem.data.text import language
from ibidem.records import Document, Drop, DropReason

_TEST_PATH = re.compile(r"(^|[/_.-])(tests?|testing|spec|fixtures?)([/_.-]|$)", re.IGNORECASE)

StepName = Literal["clean", "natural_languages", "licenses", "filters", "scrub", "contamination"]


@configuration
class Policies:
    """What is required of a document before it may enter."""

    licenses: LicensePolicy = Field(default_factory=LicensePolicy)
    """Which licenses may enter."""
    filters: FilterPolicy = Field(default_factory=FilterPolicy)
    """Which quality, language and tone are required."""
    scrub: ScrubPolicy = Field(default_factory=ScrubPolicy)
    """Which secrets and personal data are replaced by placeholders."""
    contamination: ContaminationPolicy = Field(default_factory=ContaminationPolicy)
    """Which evaluation problems must not occur."""
    dedup: DedupPolicy = Field(default_factory=DedupPolicy)
    """Which documents are duplicates."""
    removals: RemovalPolicy = Field(default_factory=RemovalPolicy)
    """Which requests for removal are honored."""
    skip: tuple[StepName, ...] = ()
    """Steps to skip; to skip deduplication, use `--dedup.near false` and `--dedup.exact false`."""

    @model_validator(mode="after")
    def _filters_get_what_they_ask_for(self) -> Self:
        asks = self.filters.natural_languages and "filters" not in self.skip
        if asks and "natural_languages" in self.skip:
            raise ValueError("skip: natural_languages cannot be skipped while filters.natural_languages is set")
        return self


Parts = Iterable[Part]
Step = Callable[[Document], Drop | None]
StepMaker = Callable[[Policies], Step | None]


def refuse(_policies: Policies) -> Step:
    """Drop documents that contain NUL, or only whitespace."""

    def step(document: Document) -> Drop | None:
        if b"\0" in document.encoded:
            return Drop(DropReason.BINARY)
        return Drop(DropReason.EMPTY) if whitespace.is_blank(document.encoded) else None

    return step


def clean(_policies: Policies) -> Step:
    """Normalize whitespace."""

    def step(document: Document) -> Drop | None:
        if document.messages is not None:
            return _change_turns(document, whitespace.of_parts)
        if not whitespace.is_tidy(document.encoded, document.category):
            document.text = whitespace.whitespace(document.text, document.category)
        return None

    return step


def code_blocks(_policies: Policies) -> Step:
    """Annotate the fenced code blocks of prose."""

    def step(document: Document) -> None:
        if document.category != "code":
            document.code_blocks = whitespace.code_blocks(document.text)

    return step


def natural_languages(_policies: Policies) -> Step:
    """Annotate the natural language of prose."""

    def step(document: Document) -> None:
        if document.category != "code":
            document.natural_language = language.natural(document.text)

    return step


def licenses(policies: Policies) -> Step:
    """Resolve the license to SPDX; drop what the policy denies, as stated by metadata or by a header in the file."""

    def step(document: Document) -> Drop | None:
        verdict = policy.judge_license(
            document.license_raw,
            document.text,
            policies.licenses,
            stated=document.license_stated,
            path=document.path,
            evidence=document.license_evidence or "metadata",
            precedence=document.license_precedence,
        )
        document.license, document.license_raw = verdict.expression, verdict.raw
        document.license_evidence = verdict.evidence
        return None if verdict.reason is None else Drop(DropReason(verdict.reason), verdict.detail)

    return step


def filters(policies: Policies) -> Step:
    """Drop what is not good enough to learn from."""
    return Filters(policies.filters)


def scrub(policies: Policies) -> Step:
    """Replace secrets and personal data by placeholders; drop tests that contain secrets, simple passwords aside."""
    scrubber = Scrubber(policies.scrub)

    def step(document: Document) -> Drop | None:
        if document.messages is None:
            document.text, document.scrubbed = scrubber(document.text, document.language)
        elif (drop := _scrub_turns(document, scrubber)) is not None:
            return drop
        if document.code_blocks and document.scrubbed:
            document.code_blocks = whitespace.code_blocks(document.text)
        leaked = sorted((SECRET_KINDS - {SIMPLE_PASSWORD}).intersection(document.scrubbed))
        if leaked and document.path and _TEST_PATH.search(document.path):
            return Drop(DropReason.SECRET_TEST, ", ".join(leaked))
        return None

    return step


def _scrub_turns(document: Document, scrubber: Scrubber) -> Drop | None:
    counts: Counter[str] = Counter()

    def scrubbed(parts: Parts) -> Parts:
        for part in parts:
            text, found = scrubber(part.text)
            counts.update(found)
            yield part._replace(text=text)

    drop = _change_turns(document, scrubbed)
    document.scrubbed = dict(counts)
    return drop


def _change_turns(document: Document, change: Callable[[Parts], Parts]) -> Drop | None:
    """Change the parts of each turn, so that no rule spans two of them, and render the text anew.

    Returns:
        Why the document is dropped: nothing is left of a turn, or of the difference between the answers of a pair.
    """
    assert document.messages is not None
    turns = tuple(turn._replace(parts=tuple(change(turn.parts))) for turn in document.messages)
    rejected = None if document.rejected is None else tuple(change(document.rejected))
    if turns == document.messages and rejected == document.rejected:
        return None
    document.messages, document.rejected, document.text = turns, rejected, plain(turns, rejected)
    answers = () if rejected is None else (Turn("assistant", rejected),)
    if any(turn.is_blank and turn.role != "tool" for turn in (*turns, *answers)):
        return Drop(DropReason.EMPTY, "a turn")
    return Drop(DropReason.PAIR_EQUAL) if rejected is not None and is_same(turns[-1].parts, rejected) else None


def contamination(policies: Policies) -> Step | None:
    """Drop documents that contain an evaluation problem."""
    if not policies.contamination.benchmarks:
        return None
    guard = Guard(policies.contamination)
    return lambda document: guard(document.encoded)
