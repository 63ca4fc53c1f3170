r"""What each piece of a `tokenizer.json` adds to a text, from the decoder that the file states.

    ByteLevel                                     "Ġhello"    -> " hello"       "âĤ" -> b"\xe2\x82"   half a character
    Replace U+2581, ByteFallback, Fuse, Strip 1   "▁hello"    -> " hello"       "<0xE2>" -> b"\xe2"
                                                  at the beginning of a text: "hello"

Every decoder here adds the texts of its pieces one to the other; only the first piece may lose blanks. One that does
something else is refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ibidem.errors import DataError
from ibidem.tokenization.json_file import components
from ibidem.tokenization.utf8 import as_text

Part = str | bytes
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class PieceTexts(NamedTuple):
    """What each id adds to a text."""

    texts: list[Part]
    firsts: dict[int, Part]
    """Where it is the first of the text, if that is something else."""


def piece_texts(decoder: Any, names: Sequence[str], where: Path) -> PieceTexts:
    """Return what each name adds to a text.

    Raises:
        DataError: the decoder is missing, or does not simply add the texts of pieces.
    """
    parts: list[Part] = list(names)
    firsts: dict[int, Part] = {}
    is_fused = False
    steps = list(components(decoder))
    if not steps:
        raise DataError(f"{where}: it has no decoder, which says how pieces become a text")
    for step in steps:
        match step["type"]:
            case "ByteLevel":
                parts = [_byte_level(part) for part in parts]
            case "ByteFallback":
                parts = [_byte(part) for part in parts]
            case "Replace" if isinstance(step.get("pattern"), dict) and "String" in step["pattern"]:
                parts = [_replaced(part, step["pattern"]["String"], step["content"]) for part in parts]
            case "Fuse":
                is_fused = True
            case "Strip" if _is_strip(step, is_fused=is_fused):
                firsts = _changed(parts, [_stripped(part, step["content"]) for part in parts])
            case "Metaspace":
                blank = step.get("replacement", "\u2581")
                rest = [_replaced(part, blank, " ") for part in parts]
                is_kept = step.get("prepend_scheme", "always") == "never" or step.get("add_prefix_space") is False
                firsts = {} if is_kept else _changed(rest, [_replaced(part, blank, "") for part in parts])
                parts = rest
            case other:
                raise DataError(f"{where}: its decoder {other} does not simply add the texts of pieces")
    return PieceTexts(parts, firsts)


def _changed(texts: Sequence[Part], firsts: Sequence[Part]) -> dict[int, Part]:
    return {number: firsts[number] for number in range(len(texts)) if firsts[number] != texts[number]}


def _is_strip(step: dict[str, Any], *, is_fused: bool) -> bool:
    return is_fused and step.get("start") == 1 and step.get("stop") == 0


def _stripped(part: Part, content: str) -> Part:
    return part.removeprefix(content.encode()) if isinstance(part, bytes) else part.removeprefix(content)


def _replaced(part: Part, old: str, new: str) -> Part:
    return part if isinstance(part, bytes) else part.replace(old, new)


def _byte(part: Part) -> Part:
    match = _BYTE.fullmatch(part) if isinstance(part, str) else None
    return bytes([int(match[1], 16)]) if match else part


def _byte_level(part: Part) -> Part:
    """Return the text of a name in the alphabet of GPT-2, in which each byte is a visible character."""
    if isinstance(part, bytes) or not BYTES.keys() >= set(part):
        return part
    return as_text(part.translate(_LATIN_1).encode("latin-1"))


def _alphabet() -> dict[str, int]:
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTES = _alphabet()
"""The byte of each character of the alphabet of GPT-2."""
_LATIN_1 = {ord(char): byte for char, byte in BYTES.items()}
