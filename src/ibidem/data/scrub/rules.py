"""The form of a rule that finds one kind of secret or personal data, and helpers of the rules."""

import re
from collections.abc import Callable
from typing import NamedTuple

Match = re.Match[bytes]

IDENTIFIER = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
EXAMPLE = re.compile(
    rb"(?i)example|x{4}|\*{3}|\.{3}|0{7}|1{7}|1234567|123456|abcdef|abc123|123abc|your[_-]|placeholder|changeme|change[_-]me|dummy|redacted"
)
RESERVED_DOMAIN = re.compile(rb"(?:^|[.@])example(?:\.[a-z]{2,3}){0,2}$|(?:^|\.)(?:example|test|invalid|localhost)$")


class Rule(NamedTuple):
    """How one kind is found. The group `found` of the pattern is replaced, without one the whole match."""

    kind: str
    anchor: str
    """Selective pattern for hyperscan; the match starts where it does."""
    pattern: str
    """Pattern for `re`, on bytes, matched where the anchor starts."""
    is_genuine: Callable[[Match], bool] | None = None
    before: bytes = b""
    """Characters of the match that may precede the anchor."""


def found_in(match: Match) -> bytes:
    """Return the bytes to be replaced."""
    return match["found" if "found" in match.re.groupindex else 0]


def is_no_example(match: Match) -> bool:
    """Check that a match is not marked as an example by `EXAMPLE`, `xxxx` or runs such as `12345678`."""
    value = found_in(match)
    return len(set(value)) >= 7 and not EXAMPLE.search(value)


def characters(found: bytes) -> str:
    """Decode bytes one to one."""
    return found.decode("latin-1")


def luhn(digits: str) -> int:
    """Return the Luhn sum modulo 10: 0 for a valid number (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(number - 9 * (number > 9) for number in doubled) % 10
