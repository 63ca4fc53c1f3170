"""Read a page as its reader sees it: without what is hidden and without navigation; headings begin sections.

The parser builds the tree that browsers build (lexbor, by the HTML standard), so that a malformed page cannot hide a
text from the reader's browser and yet show it here. If a page says what its main part is, the rest is left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from ibidem.errors import DataError
from ibidem.grounding.documents import hidden
from ibidem.grounding.documents.readable import Content, Title, sections_between, title_of

MAX_DEPTH = 1000
"""Maximum nesting; the standard's algorithm takes time by number of elements x depth."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)")
_UNNESTED_TAGS = """
a p li dt dd tr td th thead tbody tfoot option optgroup colgroup html head body area base br col embed hr img input
link meta param source track wbr rt rp
"""
_UNNESTED = frozenset(_UNNESTED_TAGS.split())
"""Elements that do not nest, or need no end."""
_UNSEEN_TAGS = """
script style template noscript head iframe object video audio canvas svg map noframes noembed frameset datalist select
button rp annotation annotation-xml nav title area
"""
_UNSEEN = frozenset(_UNSEEN_TAGS.split())
_NAVIGATION = "navigation search banner contentinfo doc-toc doc-pagelist doc-index menu menubar toolbar tablist"
_UNSEEN_ROLES = frozenset(_NAVIGATION.split())
_FURNITURE = """
headerlink viewcode-link sphinxsidebar related toctree-wrapper genindextable indextable genindex-jumpbox
modindex-jumpbox
"""
_UNSEEN_CLASSES = frozenset(_FURNITURE.split())
"""What generators of documentation add to a page."""
_SECTIONING = frozenset({"article", "aside", "main", "nav", "section"})
_BLOCK_TAGS = """
address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure footer
form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu ol p pre section summary table tbody td tfoot th thead tr ul
"""
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_PARAGRAPH_TAGS = "p pre h1 h2 h3 h4 h5 h6 table ul ol dl blockquote figure section article hr"
_PARAGRAPHS = frozenset(_PARAGRAPH_TAGS.split())
"""Blocks with a blank line around them."""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_TABLE_PARTS = frozenset({"table", "tr"})
_NOTED = frozenset({*_HEADINGS, "pre", "table", "dt"})
_LAYOUT = ", ".join(f"table {tag}" for tag in ("table", "pre", *_HEADINGS, "ul", "ol", "dl"))
"""What no table of data holds."""
_DEFINITIONS = 7  # level of the first depth of definitions, below all headings
_BLANKS = re.compile(r"[ \t\n\r\f]+")
_SIGNATURE_END = re.compile(r"[(\n¶]")
_MAX_BLANK_DEPTH = 8


def read(text: str) -> Content:
    """Return the readable text of a page.

    Tables have a line for each row, cells with ` | ` between; lists have `- ` or numbers; preformatted text keeps its
    lines. Below the headings, what Sphinx documents by a signature (`dt.sig`) is a section.

    Raises:
        DataError: its elements are nested too deep.
    """
    _check_depth(text)
    tree = _parser()(text)
    concealed = _concealed(tree)
    page = _Page()
    for root in _roots(tree):
        _walk(root, page, concealed)
    body = "".join(page.parts)
    has_h1 = any(title and level == 1 for level, title in page.headings)
    root_title = () if has_h1 else _title(tree)
    marks = [(start, (*root_title, *title)) for start, title in page.marks]
    return Content(body, sections_between(body, marks), tuple(page.whole))


@cache
def _parser() -> Any:
    from selectolax.lexbor import LexborHTMLParser

    return LexborHTMLParser


def _check_depth(text: str) -> None:
    depth = 0
    for match in _TAG.finditer(text):
        if match[2].lower() not in _UNNESTED:
            depth = max(0, depth - 1) if match[1] else depth + 1
            if depth > MAX_DEPTH:
                raise DataError(f"elements nested deeper than {MAX_DEPTH:,}")


def _concealed(tree: Any) -> frozenset[int]:
    """Return the elements that the page's own style sheets hide."""
    selectors = (each for sheet in tree.css("style") for each in hidden.hidden_selectors(sheet.text() or ""))
    return frozenset(node.mem_id for selector in selectors for node in _selected(tree, selector))


def _selected(tree: Any, selector: str) -> list[Any]:
    try:
        return list(tree.css(selector))
    except ValueError:
        return []


def _roots(tree: Any) -> list[Any]:
    """Return the main parts of a page; its body, if it names none."""
    mains = [node for node in tree.css("main, [role=main]") if not any(_is_main(each) for each in _around(node))]
    mains = [node for node in mains if (node.text() or "").strip()]
    return mains or ([tree.body] if tree.body is not None else [])


def _is_main(node: Any) -> bool:
    return node.tag == "main" or (node.attributes.get("role") or "") == "main"


def _around(node: Any) -> Iterator[Any]:
    while (node := node.parent) is not None and node.is_element_node:
        yield node


def _title(tree: Any) -> Title:
    node = tree.css_first("title")
    title = title_of(node.text()) if node is not None else ""
    return (title,) if title else ()


def _walk(root: Any, page: "_Page", concealed: frozenset[int]) -> None:
    """Visit what is seen of an element, in order; without recursion, since pages may be deep."""
    behind = hidden.WHITE
    for node in reversed(list(_around(root))):
        if _is_unseen(node, concealed, behind):
            return
        behind = hidden.background(_style(node), behind)
    stack: list[tuple[Any, hidden.Color | None]] = [(root, behind)]
    while stack:
        node, behind_it = stack.pop()
        if behind_it is None:
            page.close(node)
        elif node.is_text_node:
            page.text(node.text_content or "")
        elif node.is_element_node and not _is_unseen(node, concealed, behind_it) and not page.leaves_out(node):
            page.open(node)
            stack.append((node, None))
            inside = hidden.background(_style(node), behind_it)
            child = node.last_child
            while child is not None:
                stack.append((child, inside))
                child = child.prev


def _style(node: Any) -> hidden.Declarations:
    attributes = node.attributes
    style = hidden.declarations(attributes.get("style") or "") if "style" in attributes else {}
    if color := attributes.get("bgcolor"):
        style.setdefault("background-color", color.lower())
    if node.tag == "font" and (color := attributes.get("color")):
        style.setdefault("color", color.lower())
    return style


def _is_unseen(node: Any, concealed: frozenset[int], behind: hidden.Color) -> bool:
    if node.tag in _UNSEEN or (concealed and node.mem_id in concealed):
        return True
    attributes = node.attributes
    if not attributes:
        return False
    role = (attributes.get("role") or "").lower()
    if "hidden" in attributes or (attributes.get("aria-hidden") or "").lower() == "true" or role in _UNSEEN_ROLES:
        return True
    if "popover" in attributes or not _UNSEEN_CLASSES.isdisjoint((attributes.get("class") or "").split()):
        return True
    style = _style(node)
    return bool(style) and hidden.hides(style, hidden.background(style, behind))


class _Page:
    """The readable text of a page so far."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.marks: list[tuple[int, Title]] = [(0, ())]
        self.headings: list[tuple[int, str]] = []
        self.whole: list[tuple[int, int]] = []
        self._above: list[tuple[int, str]] = []
        self._length = 0
        self._newlines = 0  # wanted before the next text
        self._blank = False  # wanted before the next text
        self._at_start = True  # of a line
        self._pre = self._rows = self._sectioning = self._definitions = 0
        self._cell = False  # wanted a bar before the next text
        self._lists: list[int] = []  # number of the next item; 0: no numbers
        self._starts: list[int] = []  # of open headings, terms, and what stays whole
        self._num_titles = 0  # open headings and signatures: what is inside of one is a part of it
        self._is_signature = False  # the last term was one, and nothing explained it yet

    def leaves_out(self, node: Any) -> bool:
        """Return whether an element is the header or footer of the page, or a dialog that is not open."""
        if node.tag == "dialog":
            return "open" not in node.attributes
        return node.tag in {"header", "footer"} and self._sectioning == 0

    def open(self, node: Any) -> None:
        tag = node.tag
        self._sectioning += tag in _SECTIONING
        self._pre += tag == "pre"
        if tag == "br":
            self._newlines = max(self._newlines, 1)
        elif tag in _BLOCKS:
            self._break(tag)
        if tag in _TABLE_PARTS:
            self._open_table(node)
        else:
            self._open_list(node)
        if tag in _NOTED:
            self._flush()
            self._starts.append(self._length)
            self._num_titles += _is_title(node)

    def _open_list(self, node: Any) -> None:
        match node.tag:
            case "ul" | "ol" | "menu" | "dir":
                self._lists.append(_first_number(node) if node.tag == "ol" else 0)
            case "li":
                self._item()
            case "dl":
                self._definitions += 1
            case "dd":
                self._is_signature = False

    def _open_table(self, node: Any) -> None:
        if node.tag == "table":
            self._rows += bool(self._rows) or node.css_first(_LAYOUT) is None
        elif self._rows:
            self._newlines, self._cell = max(self._newlines, 1), False

    def close(self, node: Any) -> None:
        tag = node.tag
        self._sectioning -= tag in _SECTIONING
        if tag in _NOTED:
            self._num_titles -= _is_title(node)
            self._end(node, self._starts.pop())
        self._pre -= tag == "pre"
        if tag in _LISTS:
            self._lists.pop()
        elif tag == "table":
            self._rows, self._cell = max(0, self._rows - 1), False
        elif tag in {"td", "th"}:
            self._cell = self._rows > 0
        elif tag == "dl":
            self._definitions -= 1
            self._leave(_DEFINITIONS + self._definitions)
        if tag == "li":
            self._newlines = 1  # items follow each other, whatever paragraphs are in them
        elif tag in _BLOCKS:
            self._break(tag)

    def text(self, text: str) -> None:
        if self._pre and not self._rows:
            self._write(text.replace("\r\n", "\n").replace("\r", "\n"))
            return
        shown = _BLANKS.sub(" ", text)
        self._blank = self._blank or shown.startswith(" ")
        if body := shown.strip(" "):
            self._write(body)
            self._blank = shown.endswith(" ")

    def _write(self, text: str) -> None:
        self._flush()
        if self._cell:
            self._put(" | ")
        elif self._blank and not self._at_start and not self._pre:
            self._put(" ")
        self._cell = self._blank = False
        self._put(text)
        self._at_start = text.endswith("\n")

    def _flush(self) -> None:
        """Write the line ends that are wanted."""
        if self._newlines and self._length:
            self._put(
                "\n" * (self._newlines - (self._at_start and self._newlines > 0 and self.parts[-1].endswith("\n")))
            )
            self._at_start, self._blank = True, False
        self._newlines = 0

    def _put(self, text: str) -> None:
        if text:
            self.parts.append(text)
            self._length += len(text)

    def _break(self, tag: str) -> None:
        if self._rows and tag not in {"tr", "table"}:
            self._blank = True
        elif not (self._at_start and self._length and self._newlines == 0 and self.parts[-1].endswith(("- ", ". "))):
            is_tight = tag in {"ul", "ol"} and len(self._lists) > 0
            self._newlines = max(self._newlines, 2 if tag in _PARAGRAPHS and not is_tight else 1)

    def _item(self) -> None:
        self._flush()
        number = self._lists[-1] if self._lists else 0
        indent = "  " * min(max(0, len(self._lists) - 1), _MAX_BLANK_DEPTH)
        if not self._rows:
            self._put(indent + (f"{number}. " if number else "- "))
            self._at_start = True
        if number:
            self._lists[-1] += 1

    def _end(self, node: Any, start: int) -> None:
        """Note what an element was that has ended."""
        tag = node.tag
        if tag in {"pre", "table"}:
            if start < self._length and not (self.whole and self.whole[-1][1] > start) and (tag == "pre" or self._rows):
                self.whole.append((start, self._length))
            return
        shown = "".join(_since(self.parts, self._length - start))
        if tag == "dt":
            if _is_title(node) and not self._num_titles and not self._is_signature and shown.strip():
                self._is_signature = True
                self._enter(_DEFINITIONS + self._definitions - 1, _signed(node, shown.strip()), start)
        elif shown.strip() and not self._num_titles:
            self._enter(_HEADINGS[tag], shown, start)

    def _enter(self, level: int, title: str, start: int) -> None:
        self._pop(level)
        self._above.append((level, title_of(title)))
        self.headings.append(self._above[-1])
        self.marks.append((start, tuple(title for _, title in self._above)))

    def _leave(self, level: int) -> None:
        if self._pop(level):
            self.marks.append((self._length, tuple(title for _, title in self._above)))

    def _pop(self, level: int) -> bool:
        before = len(self._above)
        while self._above and self._above[-1][0] >= level:
            self._above.pop()
        return len(self._above) < before


def _is_title(node: Any) -> bool:
    return node.tag in _HEADINGS or (node.tag == "dt" and "sig" in (node.attributes.get("class") or "").split())


def _signed(node: Any, signature: str) -> str:
    """Return the name that a signature is about."""
    name = "".join(part.text() for part in node.css(".sig-prename, .sig-name")).strip()
    return name or _SIGNATURE_END.split(signature, maxsplit=1)[0]


def _since(parts: list[str], length: int) -> list[str]:
    """Return the last parts of a length."""
    first = len(parts)
    while length > 0:
        first -= 1
        length -= len(parts[first])
    return parts[first:]


def _first_number(node: Any) -> int:
    start = node.attributes.get("start") or ""
    return int(start) if start.isdecimal() and len(start) < 6 else 1
