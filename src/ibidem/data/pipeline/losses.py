"""What a source loses, file by file: the list of `ibidem preprocess --explain`, before or after it is written.

lost: 3 of 120 documents
filter.lines: 2
  src/math/table.js     characters in long lines: 0.72, at most 0.6
  src/data.py           longest line: 20480, at most 10000
duplicate.exact: 1
  src/copy.py           kept instead: src/original.py
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ibidem import artifacts
from ibidem.data import shards
from ibidem.data.sources.readers import Piece, read
from ibidem.figures import visible
from ibidem.records import Document, Unreadable

UNREADABLE = "unreadable"
WIDEST = 60


class Loss(NamedTuple):
    """One document or file that does not enter."""

    record: str
    reason: str
    detail: str = ""


def of_row(row: dict[str, Any]) -> Loss:
    """Describe the row of a dropped document; what is kept instead belongs to the detail."""
    kept = f"kept instead: {row['kept']} (similarity {row['similarity']:.2f})" if row["kept"] else ""
    return Loss(row["record"], row["reason"], ", ".join(filter(None, (row["detail"], kept))))


def of_dataset(dataset: artifacts.Artifact) -> list[Loss]:
    """Read what a finished dataset dropped or could not read."""
    columns = ["record", "reason", "detail", "kept", "similarity"]
    dropped = (row for table in shards.read_dropped(dataset, columns) for row in table.to_pylist())
    return [*map(of_row, dropped), *map(_unread, shards.read_quarantine(dataset))]


def of_pieces(pieces: Iterable[Piece], process: Callable[[Document], None], end: int) -> tuple[int, list[Loss]]:
    """Process documents without writing them; return their number and what is lost. Duplicates are not looked for.

    Args:
        pieces: of a source.
        process: takes a document through all steps.
        end: first position that is not read any more.
    """
    count, lost = 0, []
    for item in _items(pieces, end):
        count += 1
        if isinstance(item, Unreadable):
            lost.append(_unread(item))
            continue
        process(item)
        if item.drop is not None:
            lost.append(Loss(item.record, str(item.drop.reason), item.drop.detail or ""))
    return count, lost


def listed(lost: Iterable[Loss], read: int) -> list[str]:
    """Return the lines of the list: by reason, the most frequent first, and by file.

    >>> listed([Loss("a.py", "filter.lines", "mean line: 120, at most 100")], 2)
    ['lost: 1 of 2 documents', 'filter.lines: 1', '  a.py  mean line: 120, at most 100']
    """
    groups: dict[str, list[Loss]] = defaultdict(list)
    for loss in lost:
        groups[loss.reason].append(loss)
    lines = [f"lost: {sum(map(len, groups.values())):,} of {read:,} documents"]
    for reason, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        width = min(WIDEST, max(len(visible(loss.record)) for loss in group))
        lines.append(f"{reason}: {len(group):,}")
        lines += [f"  {visible(loss.record):<{width}}  {visible(loss.detail)}".rstrip() for loss in group]
    return lines


def _items(pieces: Iterable[Piece], end: int) -> Iterator[Document | Unreadable]:
    for piece in pieces:
        for position, item in read(piece, piece.first):
            if position >= end:
                return
            yield item


def _unread(item: Unreadable) -> Loss:
    where = item.file if item.line is None else f"{item.file}:{item.line}"
    return Loss(where, UNREADABLE, item.reason)
