"""Tell from inline styles and simple rules of style sheets what a page hides from its reader.

What only other files, scripts or the computed layout hide is not seen.
"""

import re
from collections.abc import Iterator
from itertools import islice

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
_NAMED: dict[str, Color] = {
    "white": WHITE,
    "snow": (255, 250, 250),
    "ivory": (255, 255, 240),
    "ghostwhite": (248, 248, 255),
    "whitesmoke": (245, 245, 245),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "grey": (128, 128, 128),
    "silver": (192, 192, 192),
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "navy": (0, 0, 128),
}
_SAME_COLOR = 8
_FAINT = 0.05
_FAR_PX = 500
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})\s?|(.))", re.DOTALL)
_LENGTH = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))(px|pt|pc|em|rem|ex|ch|%|vw|vh|cm|mm|in)?")
_HEX = re.compile(r"#([0-9a-f]{3,8})")
_PART = r"(\d+(?:\.\d*)?|\.\d+)"
_RGB = re.compile(rf"rgba?\(\s*{_PART}(%?)[\s,]+{_PART}%?[\s,]+{_PART}%?(?:[\s,/]+{_PART}(%?))?\s*\)")
_PX = {"px": 1.0, "pt": 1.33, "pc": 16.0, "em": 16.0, "rem": 16.0, "ex": 8.0, "ch": 8.0, "%": 0.16, None: 1.0}
_PX |= {"cm": 37.8, "mm": 3.78, "in": 96.0, "vw": 10.0, "vh": 10.0}
_MIN_FONT_PX = 1.99
_CLIPPED = re.compile(r"rect\(\s*(?:0|1)(?:px)?[\s,]+(?:0|1)(?:px)?[\s,]|inset\(\s*(?:[5-9]\d|100)%|circle\(\s*0")
_SCALED = re.compile(r"scale[xy3d]*+\(\s*+0*+\.?0*+\s*+[,)]")
_BRACE_OR_END = re.compile(r"[{};]")
_SIMPLE = re.compile(r"[\w-]*(?:[.#][\w-]+)*")
_MAX_SHEET_CHARS = 1 << 20
_MAX_SELECTORS = 100

Declarations = dict[str, str]


def declarations(style: str) -> Declarations:
    r"""Return the declarations of a style; the last of a name wins, unless an earlier one is important.

    >>> declarations(r"DISPLAY: none !important; d\69 splay: block; color: #FFF")
    {'display': 'none', 'color': '#fff'}
    """
    found: Declarations = {}
    important: set[str] = set()
    for part in _ESCAPE.sub(_unescaped, _COMMENT.sub("", style)).lower().split(";"):
        name, colon, value = (piece.strip() for piece in part.partition(":"))
        value, mark, _ = value.partition("!")
        if colon and (mark or name not in important):
            found[name] = value.strip()
            important |= {name} if mark else set()
    return found


def background(style: Declarations, around: Color) -> Color:
    """Return the color behind a text, if the style says one; otherwise the color around it."""
    words = f"{style.get('background', '')} {style.get('background-color', '')}"
    for word in re.findall(r"[a-z-]+\([^()]*\)|[^\s()]+", words):
        if (found := color(word)) is not None:
            return found
    return around


def hides(style: Declarations, behind: Color) -> bool:
    """Return whether a style makes a text invisible to readers: not shown, transparent, tiny, outside, or camouflaged.

    Args:
        style: the declarations.
        behind: the color behind the text.

    >>> hides({"font-size": "0"}, WHITE), hides({"color": "#fefefe"}, WHITE), hides({"color": "#fefefe"}, (0, 0, 0))
    (True, True, False)
    """
    get = style.get
    is_cut = (
        "hidden" in (overflow := f"{get('overflow')} {get('overflow-x')} {get('overflow-y')}") or "clip" in overflow
    )
    boxes = ("width", "height", "max-width", "max-height")
    ink = color(get("color", ""))
    return (
        get("display") == "none"
        or get("visibility") in {"hidden", "collapse"}
        or get("content-visibility") == "hidden"
        or _number(get("opacity", "1")) <= _FAINT
        or _is_tiny(get("font-size", "")) or _font_is_tiny(get("font", ""))
        or (is_cut and any((size := _px(get(box, ""))) is not None and size <= 1 for box in boxes))
        or (_px(get("text-indent", "")) or 0) <= -_FAR_PX
        or (get("position") in {"absolute", "fixed"} and _is_outside(style))
        or bool(_CLIPPED.search(f"{get('clip', '')} {get('clip-path', '')}"))
        or bool(_SCALED.search(get("transform", "")))
        or _is_transparent(get("color", ""))
        or (ink is not None and all(abs(one - other) <= _SAME_COLOR for one, other in zip(ink, behind, strict=True)))
    )  # fmt: skip


def hidden_selectors(sheet: str) -> Iterator[str]:
    """Yield the selectors of a style sheet's plain rules that hide what they select.

    Rules inside `@media` and the like hold only sometimes, and are left out; so are selectors of more than one element.

    >>> list(hidden_selectors(".a, p.b { display: none } @media print { .c { display: none } } .d { color: red }"))
    ['.a', 'p.b']
    """
    rules = _rules(_COMMENT.sub("", sheet[:_MAX_SHEET_CHARS]))
    hiding = (names for names, body in rules if hides(declarations(body) | {"color": ""}, WHITE))
    selectors = dict.fromkeys(each.strip() for names in hiding for each in names.split(","))
    yield from islice((each for each in selectors if each and _SIMPLE.fullmatch(each)), _MAX_SELECTORS)


def color(value: str) -> Color | None:
    """Return the red, green and blue of a color; None if it is none, or not simple.

    >>> color("#FFF".lower()), color("rgb(0, 0, 255)"), color("inherit")
    ((255, 255, 255), (0, 0, 255), None)
    """
    if match := _HEX.fullmatch(value):
        digits = match[1]
        pairs = [digit * 2 for digit in digits] if len(digits) < 6 else re.findall("..", digits)
        return (int(pairs[0], 16), int(pairs[1], 16), int(pairs[2], 16))
    if match := _RGB.fullmatch(value):
        scale = 2.55 if match[2] else 1.0
        red, green, blue = (round(min(255.0, float(match[part]) * scale)) for part in (1, 3, 4))
        return (red, green, blue)
    return _NAMED.get(value)


def _rules(sheet: str) -> Iterator[tuple[str, str]]:
    """Yield the selectors and declarations of each rule that is neither inside another one nor begins with `@`.

    The end of the sheet ends a rule, as in browsers.

    >>> list(_rules("@import x; p { a: b; q { c: d } } @media print { r { e: f } } s { g: h"))
    [(' p ', ' a: b; '), (' s ', ' g: h')]
    """
    depth, start, names, body = 0, 0, "", list[str]()
    for mark in _BRACE_OR_END.finditer(sheet + "}"):
        piece, start = sheet[start : mark.start()], mark.end()
        if mark[0] == "{":
            names, body = (piece, []) if depth == 0 else (names, body)
            depth += 1
            continue
        if depth == 1:
            body.append(piece)
        if mark[0] == "}" and depth:
            depth -= 1
            if depth == 0 and not names.lstrip().startswith("@"):
                yield names, ";".join(body)


def _unescaped(match: re.Match[str]) -> str:
    code = int(match[1], 16) if match[1] else 0
    return match[2] or (chr(code) if 0 < code < 0x110000 else "")


def _is_transparent(value: str) -> bool:
    if value == "transparent":
        return True
    if (match := _HEX.fullmatch(value)) and len(match[1]) in {4, 8}:
        return int(match[1][-1] * 2 if len(match[1]) == 4 else match[1][-2:], 16) <= 255 * _FAINT
    if (match := _RGB.fullmatch(value)) and match[5]:
        return float(match[5]) / (100 if match[6] else 1) <= _FAINT
    return False


def _number(value: str) -> float:
    match = _LENGTH.fullmatch(value)
    return 1.0 if match is None else float(match[1]) / (100 if match[2] == "%" else 1)


def _px(value: str) -> float | None:
    match = _LENGTH.fullmatch(value)
    return None if match is None else float(match[1]) * _PX[match[2]]


def _is_tiny(size: str) -> bool:
    pixels = _px(size)
    return pixels is not None and pixels <= _MIN_FONT_PX


def _font_is_tiny(font: str) -> bool:
    """Check the size in the short form, `bold 0/1 serif`: the first length is the size."""
    sizes = [word.partition("/")[0] for word in font.split() if _LENGTH.fullmatch(word.partition("/")[0])]
    lengths = [size for size in sizes if not size.isdigit() or size == "0"]  # 700 is a weight
    return bool(lengths) and _is_tiny(lengths[0])


def _is_outside(style: Declarations) -> bool:
    sides = (_px(style.get(side, "")) for side in ("left", "right", "top", "bottom"))
    return any(side is not None and side <= -_FAR_PX for side in sides)
