"""Determine the license of a document, and whether the document may enter.

A license stated in the file itself overrides the metadata of its package, in both directions: a GNU grant in an "MIT"
package is detected, a permissive file in a GNU package is kept. An annotation of REUSE.toml may say otherwise (see
`precedence`). The license and its evidence are stored in the row.
"""

from typing import Literal, NamedTuple

from pydantic import ValidationInfo, field_validator

from ibidem.config import configuration, suggest
from ibidem.data.licenses import dep5
from ibidem.data.licenses.headers import header_license, license_sentence
from ibidem.data.licenses.precedence import AGGREGATE, CLOSEST, OVERRIDE
from ibidem.data.licenses.spdx import (
    GNU_FAMILIES,
    UNKNOWN,
    identifiers,
    is_denied,
    is_family,
    normalize,
    serialize,
    texts,
)
from ibidem.records import Precedence


class LicenseVerdict(NamedTuple):
    """The license of one document, and why it is dropped; kept if `reason` is None."""

    expression: str | None
    raw: str | None
    reason: str | None
    detail: str | None
    evidence: str | None = None
    """What the expression was read from: `metadata`, `license-file: <path>`, `dep-5: <glob>`, `header: <words>` or
    `sentence: <words>`."""


@configuration
class LicensePolicy:
    """Which licenses may enter the corpus."""

    denied: tuple[str, ...] = GNU_FAMILIES
    """License families to exclude, whether stated by metadata or by a header in the file."""
    allowed: tuple[str, ...] = ()
    """SPDX identifiers of the only licenses that may enter; if empty, every license that is not denied may."""
    allowed_exceptions: tuple[str, ...] = ()
    """SPDX exceptions with which a license of any family may enter, such as Bison-exception-2.2."""
    unstated: Literal["keep", "drop"] = "keep"
    """What to do with rows of a source without license information (openwebtext, The Pile): keep them and count
    them as unstated, or drop them."""

    @field_validator("denied")
    @classmethod
    def _families_are_known(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [family for family in families if not is_family(family)]:
            raise ValueError(f"{unknown[0]!r} is not a license family, such as GPL or MPL")
        return families

    @field_validator("allowed", "allowed_exceptions")
    @classmethod
    def _identifiers_are_known(cls, names: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        if not names:
            return names
        exceptions = field.field_name == "allowed_exceptions"
        known = {key.lower(): key for key in identifiers(exceptions=exceptions)}
        if unknown := [name for name in names if name.lower() not in known]:
            kind, example = ("exception", "Bison-exception-2.2") if exceptions else ("license", "Apache-2.0")
            meant = known.get((normalize(unknown[0]) or "").lower())
            hint = f"; did you mean {meant}?" if meant else suggest(unknown[0], known.values())
            raise ValueError(f"{unknown[0]!r} is not the SPDX identifier of a known {kind}, such as {example}{hint}")
        return names

    def refuses(self, expression: str) -> bool:
        """Check whether every choice of the expression is denied."""
        return is_denied(expression, self.denied, allowed=self.allowed, allowed_exceptions=self.allowed_exceptions)


def judge_license(
    raw: object,
    text: str,
    policy: LicensePolicy,
    *,
    stated: bool,
    path: str | None = None,
    evidence: str = "metadata",
    precedence: Precedence = CLOSEST,
) -> LicenseVerdict:
    """Judge one document: first denied metadata, then a denied header, then missing and unknown licenses.

    A license stated by the header is the license of the file, whatever the metadata says. A license that only a
    sentence at its head names is the license of the file too, unless the metadata deny it.

    Args:
        raw: the license as supplied by the source, in any form.
        text: the whole file; only its head is read.
        policy: what is denied.
        stated: whether the source has a license column.
        path: path of the file in its package; selects the stanza of a DEP-5 file.
        evidence: where `raw` was read from.
        precedence: how `raw` relates to what the head of the file states.

    >>> judge_license("GPLv3", "", LicensePolicy(), stated=True).reason
    'license.denied'
    >>> judge_license("GPLv3", "# SPDX-License-Identifier: MIT", LicensePolicy(), stated=True).evidence
    'header: SPDX-License-Identifier: MIT'
    """
    supplied = serialize(raw)
    head = "" if precedence == OVERRIDE else text
    header = header_license(head)
    joins = precedence == AGGREGATE
    if header is not None and not joins and not policy.refuses(header[0]):
        return LicenseVerdict(header[0], supplied, None, None, f"header: {header[1]}")
    expression, evidence = _of_metadata(raw, path, evidence) if stated else (None, "")
    if expression is not None and policy.refuses(expression):
        return LicenseVerdict(expression, supplied, "license.denied", expression[:200], evidence)
    if header is not None and policy.refuses(header[0]):
        return LicenseVerdict(header[0], supplied, "license.header", header[1], f"header: {header[1]}")
    sentence = license_sentence(head) if header is None else None
    if sentence and policy.refuses(sentence[0]):
        return LicenseVerdict(sentence[0], supplied, "license.header", sentence[1], f"sentence: {sentence[1]}")
    if sentence and not joins:
        return LicenseVerdict(sentence[0], supplied, None, None, f"sentence: {sentence[1]}")
    if own := header or sentence:
        expression = normalize([expression or UNKNOWN, own[0]])
        evidence = f"{evidence}; {'header' if header else 'sentence'}: {own[1]}"
    if not stated:
        return LicenseVerdict(None, supplied, "license.unstated" if policy.unstated == "drop" else None, None)
    if not texts(raw):
        return LicenseVerdict(None, supplied, "license.missing", None)
    if expression is None or UNKNOWN in expression:
        return LicenseVerdict(None, supplied, "license.unknown", _short(evidence, supplied))
    return LicenseVerdict(expression, supplied, None, None, evidence)


def _short(evidence: str, supplied: str | None) -> str:
    """Return what was not recognized: the license file, or the source's words."""
    return (evidence if evidence.startswith("license-file:") else supplied or "")[:200]


def _of_metadata(raw: object, path: str | None, evidence: str) -> tuple[str | None, str]:
    if isinstance(raw, str):
        raw = dep5.unfolded(raw)
    if isinstance(raw, str) and dep5.is_dep5(raw):
        names, glob = dep5.licenses_of(raw, path)
        return normalize(names), f"dep-5: {glob}" if glob else evidence
    return normalize(raw), evidence
