"""How figures are written for people."""

from collections.abc import Mapping, Sequence
from typing import Any

NOT_MEASURED = "NOT MEASURED"
MARGIN = (
    "±: the 95 % margin over the documents, by which others of the same kind may differ; fewer than ten are too few."
)
TWO_SIDED = 1.96  # standard errors that hold 95 % of a normal distribution
DAY_S = 24 * 3600
DAYS_PER_YEAR = 365.25


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number of things; the plural is the noun with an s unless it is given.

    >>> counted(1, "completion"), counted(1234, "completion"), counted(2, "entry", "entries")
    ('1 completion', '1,234 completions', '2 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def between(bounds: tuple[float, float]) -> str:
    """Write the bounds of a figure, each with 95 % confidence.

    >>> between((0.0, 0.0181))
    '0.0 to 1.8 %'
    """
    lower, upper = (f"{100 * bound:.1f}" for bound in bounds)
    return f"{lower} to {upper} %"


def margin(row: Mapping[str, Any]) -> str | None:
    """Write the margin of a figure that is a ratio over documents, with 95 % confidence; None was not measured.

    >>> margin({"bits_per_byte_error": 0.023}), margin({"bits_per_byte_error": None}), margin({})
    ('± 0.045', 'too few', None)
    """
    if "bits_per_byte_error" not in row:
        return None
    error = row["bits_per_byte_error"]
    return "too few" if error is None else f"± {TWO_SIDED * error:.3f}"


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share; None was not measured.

    >>> percent(0.1234), percent(1, digits=0), percent(None)
    ('12.34 %', '100 %', 'NOT MEASURED')
    """
    return NOT_MEASURED if share is None else f"{100 * share:.{digits}f} %"


def size(num_bytes: float) -> str:
    """Write a size in bytes.

    >>> size(2_667_896_832), size(512)
    ('2.67 GB', '512 B')
    """
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} GB"


def visible(text: str) -> str:
    r"""Write a text on one line of a terminal: what is not printable is escaped.

    >>> visible("a\tb\x1b[2J\n")
    'a\\tb\\x1b[2J\\n'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def terminal_text(text: str) -> str:
    r"""Return a text of several lines for a terminal, which it must not control.

    >>> terminal_text("a\tb\n\x1b[2J")
    'a       b\n\\x1b[2J'
    """
    return "\n".join(visible(line.expandtabs()) for line in text.split("\n"))


def short(number: float) -> str:
    """Write a large number in three digits.

    >>> short(5_813_305_344), short(36_312), short(0.5)
    ('5.81 G', '36.3 k', '0.5')
    """
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g} G"


def duration(seconds: float) -> str:
    """Write a time.

    >>> duration(15.2), duration(62), duration(7500)
    ('15.2 s', '1 min 02 s', '2 h 05 min')
    >>> duration(200_000), duration(200_000_000), duration(3_600_000_000)
    ('2.3 days', '6.3 years', '114 years')
    """
    days = seconds / DAY_S
    if days >= DAYS_PER_YEAR:
        years = days / DAYS_PER_YEAR
        return f"{years:.1f} years" if years < 10 else f"{years:,.0f} years"
    if days >= 2:
        return f"{days:.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def aligned(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the lines of a table: names to the left, the cells of each column to the right.

    >>> aligned([("tokens", ["1 M", "20 M"]), ("cost", ["7", "9"])])
    ['tokens  1 M  20 M', 'cost      7     9']
    """
    names = max(len(name) for name, _ in rows)
    widths = [max(map(len, cells)) for cells in zip(*(cells for _, cells in rows), strict=True)]
    return [
        f"{name:<{names}}  {'  '.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))}"
        for name, cells in rows
    ]
