r"""Texts from pieces, some of which are only bytes of a character.

"Hel"  "lo "  b"\xe2\x82"  b"\xac"         ->   "Hello €"
b"\xe2"  "a"                               ->   "\ufffda"      every byte that is part of no character is marked
"""

from collections.abc import Iterable

MARK = "\N{REPLACEMENT CHARACTER}"


def split(raw: bytes, *, is_end: bool) -> tuple[str, bytes]:
    r"""Return the text that bytes spell, and those at their end that may become a character.

    Each byte that is part of no character becomes U+FFFD; at the end of a run, no byte is kept.

    >>> split(b"a\xe2\x82", is_end=False), split(b"a\xe2\x82", is_end=True), split(b"\xe2a", is_end=False)
    (('a', b'\xe2\x82'), ('a\ufffd\ufffd', b''), ('\ufffda', b''))
    """
    text = ""
    while raw:
        try:
            return text + raw.decode(), b""
        except UnicodeDecodeError as error:
            text, raw = text + raw[: error.start].decode(), raw[error.start :]
            if error.reason == "unexpected end of data" and not is_end:
                break
            text, raw = text + MARK, raw[1:]
    return text, raw


def joined(parts: Iterable[str | bytes]) -> str:
    r"""Return the text of pieces in order; a run of bytes ends at the next piece of text, even an empty one.

    >>> joined(["a", b"\xc3", b"\xa9", "b"]), joined([b"\xc3", "", b"\xa9"])
    ('aéb', '\ufffd\ufffd')
    """
    text: list[str] = []
    run = b""
    for part in parts:
        if isinstance(part, bytes):
            run += part
        else:
            text += [split(run, is_end=True)[0], part] if run else [part]
            run = b""
    return "".join([*text, split(run, is_end=True)[0]])


def as_text(raw: bytes) -> str | bytes:
    r"""Return bytes as a text if they are one.

    >>> as_text(b"\xc3\xa9"), as_text(b"\xa9")
    ('é', b'\xa9')
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def num_bytes(part: str | bytes) -> int:
    """Return the number of bytes of a piece in UTF-8."""
    return len(part) if isinstance(part, bytes) else len(part.encode())
