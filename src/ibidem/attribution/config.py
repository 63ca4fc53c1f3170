"""Configurations of attribution. Imports no numba, so that flags are parsed at once."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ibidem.config import POSITIONAL, configuration
from ibidem.data.engine import EngineConfig

LEAST_TOKENS = 40
"""From this length on a span is more than an idiom: 40 tokens are three or four lines of code."""
COMMON_DOCUMENTS = 10
LEAST_SIMILARITY = 0.5
OPEN_LICENSES = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "MIT-0")
Action = Literal["allow", "mark", "block"]
"""What happens to a span: it is sent, it is sent and its documents are named, or the answer ends before it."""
PART_TOKENS = 1 << 28
"""A part of 2^28 tokens is sorted in 70 seconds and 4.6 GB of memory."""


@configuration
class BuildConfig:
    """Index the tokens of a training, so that the documents that a text repeats are found."""

    tokens: Path
    """Tokens of a training, such as artifacts/tokens/0123456789abcdef."""
    output_dir: Path
    """Folder of the index."""
    part_tokens: Annotated[int, Field(ge=1, lt=2**31)] = PART_TOKENS
    """Neighboring shards of up to this many tokens together are searched as one part: fewer parts are faster to look
    up, but a part is sorted again as a whole when one of its shards has changed."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Where the parts are indexed. Each takes 17 bytes of memory a token meanwhile: on this computer only as many are
    indexed at a time as half of its memory has room for."""


@configuration
class AttributeConfig:
    """Show which training documents a text repeats, with their licenses."""

    text: Annotated[str, POSITIONAL]
    """The text, or a file that contains it."""
    index: Path
    """Folder that `ibidem attribute build` made."""
    least_tokens: Annotated[int, Field(ge=1, lt=2**31)] = LEAST_TOKENS
    """Smallest number of tokens of a span that is shown."""
    common_documents: Annotated[int, Field(ge=1, lt=2**31)] = COMMON_DOCUMENTS
    """A span of more documents than this is common, such as the text of a license; only some of them are named."""
    least_similarity: Annotated[float, Field(gt=0, le=1)] = LEAST_SIMILARITY
    """Smallest similarity, from 0 to 1, of a passage that is no copy but much like one of a document: with other names,
    lines or layout. It is the share of 3-word runs that the two have in common, of all that they have."""
    json: bool = False
    """Print a JSON object a span and a passage."""


@configuration
class PolicyConfig:
    """What happens to the spans of an answer that training documents contain."""

    index: Path | None = None
    """Folder that `ibidem attribute build` made of the model's training; empty: nothing is looked up."""
    permitted: tuple[str, ...] = OPEN_LICENSES
    """Licenses of documents that may be repeated, as SPDX identifiers."""
    on_permitted: Action = "mark"
    """A span whose documents all have a permitted license: allow, mark (name the documents) or block."""
    on_other: Action = "block"
    """A span of a document with another license or none, or that was removed from the dataset since."""
    on_common: Action = "allow"
    """A span of many documents, such as the text of a license."""
    least_tokens: Annotated[int, Field(ge=1, lt=2**31)] = LEAST_TOKENS
    """Smallest number of tokens of a span."""
    common_documents: Annotated[int, Field(ge=1, lt=2**31)] = COMMON_DOCUMENTS
    """A span of more documents than this is common."""

    @property
    def blocks(self) -> bool:
        """Whether an answer may end before a span."""
        return "block" in {self.on_permitted, self.on_other, self.on_common}
