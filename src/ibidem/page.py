"""Building blocks of a page: escaped HTML, tables, bars and curves, without scripts or external resources."""

import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ibidem.figures import margin, percent

MOST_BARS = 15
MOST_ROWS = 200
MOST_COLUMNS = 4  # on a narrow screen
MOST_POINTS = 400  # of a curve; more are averaged
_GENERATOR, _HEAD_BYTES = b'<meta name="generator" content="ibidem">', 1024

Row = Sequence[object]
Point = tuple[float, float]


class Html(str):
    """Text that is already HTML; only `tag`, `join` and `show` create it."""

    __slots__ = ()


def show(value: object) -> Html:
    """Return any value as HTML.

    >>> show("<b>"), show(30118469), show(3.29046), show(True), show(None)
    ('&lt;b&gt;', '30,118,469', '3.29', 'yes', '<span class="missing">NOT MEASURED</span>')
    """
    match value:
        case Html():
            return value
        case None:
            return Html('<span class="missing">NOT MEASURED</span>')
        case bool():
            return Html("yes" if value else "no")
        case int():
            return Html(f"{value:,}")
        case float():
            return Html(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")
        case _:
            return Html(html.escape(str(value).encode(errors="backslashreplace").decode()))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element; `cls` is its class.

    >>> tag("p", "a < b", cls="note")
    '<p class="note">a &lt; b</p>'
    """
    named = {"class" if key == "cls" else key: str(value) for key, value in attributes.items() if value != ""}
    written = "".join(f' {key}="{show(value)}"' for key, value in named.items())
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Concatenate parts."""
    return Html("".join(show(part) for part in parts))


def document(title: str, *body: object) -> str:
    """Return a whole page: one file with its style, no script and no external link."""
    template = Template(resources.files("ibidem").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=show(title), body=join(*body))


def is_page(path: Path) -> bool:
    """Return whether a file is empty or a page that `document` wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return not head or _GENERATOR in head


def table(heads: Row, rows: Sequence[Row] | None, *, right: Iterable[int] = ()) -> Html:
    """Return a table; the columns `right` are aligned as numbers. None was not measured.

    On a narrow screen, each row of a table with many columns becomes a list.
    """
    if not rows:
        return tag("p", None if rows is None else "None.")
    styles = ["n" if column in set(right) else "" for column in range(len(heads))]
    head = tag("tr", *(tag("th", cell, cls=style) for cell, style in zip(heads, styles, strict=True)))
    is_wide = len(heads) > MOST_COLUMNS
    named = [{"data-head": head} if is_wide else {} for head in heads]
    body = [
        tag("tr", *(tag("td", cell, cls=style, **name) for cell, style, name in zip(row, styles, named, strict=True)))
        for row in rows[:MOST_ROWS]
    ]
    more = tag("p", "and ", len(rows) - MOST_ROWS, " more", cls="note") if len(rows) > MOST_ROWS else ""
    whole = tag("table", tag("thead", head), tag("tbody", *body), cls="stack" if is_wide else "")
    return tag("div", whole, more, cls="scroll")


def bars(values: Mapping[str, float] | None, figure: Callable[[float], object] = show) -> Html:
    """Return a horizontal bar for each value, with its share of the total. None was not measured."""
    if not values:
        return tag("p", None if values is None else "None.")
    most, total = max(values.values()) or 1, sum(values.values())
    rows = []
    for name, value in values.items():
        bar = tag("td", tag("i", style=f"width:{value / most:.2%}"))
        figures = (tag("td", figure(value), cls="n"), tag("td", share(value, total), cls="n"))
        rows.append(tag("tr", tag("th", name), bar, *figures))
    return tag("table", tag("tbody", *rows), cls="bars")


def loss(row: Mapping[str, Any]) -> Html:
    """Return the bits per byte of a result on documents, and the margin below."""
    return join(row["bits_per_byte"], tag("div", margin(row) or join("± ", None), cls="soft"))


def line_chart(name: str, unit: str, points: list[Point], *, wide: bool = False, marked: bool = False) -> Html:
    """Draw a curve over steps; with `marked`, a dot at every value."""
    if not points:
        return tag("figure", tag("figcaption", name, " ", None))
    thinned = average(points, MOST_POINTS)
    ends = join("from ", thinned[0][1], " to ", thinned[-1][1])
    per_point = f"each point the mean of {math.ceil(len(points) / MOST_POINTS)} steps" if thinned != points else ""
    notes = (unit, ends if wide else "", per_point)
    caption = tag("figcaption", name, " ", tag("span", ", ".join(filter(None, notes)), cls="soft"))
    width, height = (640, 250) if wide else (330, 190)
    x = Axis(ticks([step for step, _ in thinned], whole=True), 56, width - 14)
    y = Axis(ticks([value for _, value in thinned]), height - 34, 14)
    drawing = join(
        *(tag("line", x1=x.start, x2=x.end, y1=y.at(tick), y2=y.at(tick), cls="grid") for tick in y.ticks),
        *(tag("text", tick, x=x.start - 10, y=y.at(tick), cls="tick") for tick in y.ticks),
        *(tag("text", tick, x=x.at(tick), y=y.start + 26, cls="middle") for tick in x.ticks),
        tag("text", "step", x=x.start - 9 - 4 * len(show(x.ticks[0])), y=y.start + 26, cls="end unit"),
        tag("path", d="M" + "L".join(f"{x.at(step)} {y.at(value)}" for step, value in thinned), cls="line"),
        *_dots(thinned, x, y, cls="point marked" if marked or len(thinned) == 1 else "point"),
    )
    canvas = tag("svg", drawing, viewBox=f"0 0 {width} {height}", role="img", **{"aria-label": f"{name}: {ends}"})
    return tag("figure", caption, canvas, cls="wide" if wide else "")


def _dots(points: Sequence[Point], x: "Axis", y: "Axis", *, cls: str) -> Iterable[Html]:
    """Yield for each point a strip as high as the chart, which shows its dot and value on hover."""
    strip = (x.end - x.start) / max(len(points) - 1, 1)
    for step, value in points:
        left = round(x.at(step) - strip / 2, 1)
        area = tag("rect", x=left, y=y.end, width=round(strip, 1), height=y.start - y.end)
        dot = tag("circle", cx=x.at(step), cy=y.at(value), r=2.5)
        yield tag("g", tag("title", "step ", step, ": ", value), area, dot, cls=cls)


@dataclass(frozen=True)
class Axis:
    """An axis from its first tick, at `start`, to its last, at `end`."""

    ticks: Sequence[float]
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the position of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def ticks(values: Iterable[float], *, whole: bool = False) -> list[float]:
    """Choose three to seven round numbers that enclose the values.

    >>> ticks([3.29, 4.89]), ticks([1, 400], whole=True)
    ([3.0, 3.5, 4.0, 4.5, 5.0], [0, 100, 200, 300, 400])
    """
    low, high = min(values := list(values)), max(values)
    if low == high:
        low, high = (low - 1, high) if whole else (low - abs(low or 1) / 10, high + abs(high or 1) / 10)
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(size * power for size in (1, 2, 5, 10) if size * power * 5 >= high - low)
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step if whole else float(f"{number * step:.10g}") for number in range(first, last + 1)]


def average(points: list[Point], most: int) -> list[Point]:
    """Reduce a curve to at most `most` points: each run of points becomes its mean, at the run's last step."""
    size = max(1, math.ceil(len(points) / most))
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(run[-1][0], sum(value for _, value in run) / len(run)) for run in runs]


def top(counts: Mapping[str, int]) -> dict[str, int]:
    """Keep the largest counts and add up the others."""
    ranked = Counter(counts).most_common()
    rest = ranked[MOST_BARS:]
    return dict(ranked[:MOST_BARS]) | ({f"others ({len(rest)})": sum(n for _, n in rest)} if rest else {})


def spread(items: Sequence[int], most: int) -> list[int]:
    """Choose at most `most` items, including the first and the last.

    >>> spread(range(0, 100, 10), 4)
    [0, 30, 60, 90]
    """
    last = len(items) - 1
    return [items[round(place * last / (most - 1))] for place in range(most)] if last >= most else list(items)


def share(part: float | None, whole: float | None, digits: int = 1) -> str | None:
    """Return a part as a percentage of the whole; nothing of nothing is 0 %.

    >>> share(1, 3), share(0, 0), share(None, 3), share(3, None)
    ('33.3 %', '0.0 %', None, None)
    """
    if part is None or whole is None or (part and not whole):
        return None
    return percent(part / whole if whole else 0.0, digits)
