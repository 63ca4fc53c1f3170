"""What the quality filters keep and drop of files of real packages, against labels.

`packages_labeled.jsonl` names 883 files of 49 packages by digest: those that people wrote (the sources, types, pages
and modules of a package: `written`), and those that a program made: `minified`, `bundled`, `generated`. The label
follows from the place in the package and from how the package makes it; where a file that was judged otherwise turned
out to be labeled wrongly when read (four were), the label was corrected. The packages are fetched by `npm pack` and
`pip download` into a folder, which is kept, and each file is compared with its digest.

    python benchmarks/filters_on_packages.py FOLDER [RESULT.json]
"""

import json
import platform
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ibidem.data.filters.quality import FilterPolicy, Filters
from ibidem.data.text import clean, language
from ibidem.records import Document, Drop

LABELS = Path(__file__).with_name("packages_labeled.jsonl")
DEFAULT_RESULT = Path("benchmarks/results/filters_on_packages.json")
WRITTEN = "written"


def main() -> None:
    folder = Path(sys.argv[1])
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_RESULT
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    judged = list(judge(folder, rows))
    path.write_text(json.dumps(report(judged), indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def judge(folder: Path, rows: list[dict[str, str]]) -> Iterator[tuple[dict[str, str], Drop | None, bool]]:
    """Yield each row with why its file is dropped, and whether it is there as it was labeled."""
    filters = Filters(FilterPolicy())
    for package, group in groupby(rows, key=itemgetter("package")):
        labeled = list(group)
        files = read(fetch(package, folder), {row["path"] for row in labeled})
        for row in labeled:
            data = files.get(row["path"], b"")
            is_there = sha256(data).hexdigest() == row["sha256"]
            yield row, filters(document_of(row["path"], data)) if is_there else None, is_there


def document_of(path: str, data: bytes) -> Document:
    kind = language.by_name(path)
    category = language.category(kind)
    document = Document(raw=data, source="s", revision=None, record="1", path=path, language=kind, category=category)
    document.text = clean.whitespace(document.text, category)
    return document


def fetch(package: str, folder: Path) -> Path:
    """Return the archive of a package in the folder, fetched if it is not there."""
    registry, _, spec = package.partition(":")
    place = folder / registry / spec.replace("/", "+")
    if not list(place.glob("*")):
        place.mkdir(parents=True, exist_ok=True)
        command = {
            "npm": ["npm", "pack", "--silent", spec, "--pack-destination", str(place)],
            "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", spec, "-d", str(place)],
        }[registry]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(place.glob("*"))


def read(archive: Path, names: set[str]) -> dict[str, bytes]:
    """Read some files of an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if name in names}
    with tarfile.open(archive) as tar:
        found = ((item.name, tar.extractfile(item)) for item in tar if item.name in names)
        return {name: file.read() for name, file in found if file}


def report(judged: list[tuple[dict[str, str], Drop | None, bool]]) -> dict[str, Any]:
    total: Counter[str] = Counter(row["label"] for row, _, is_there in judged if is_there)
    dropped: Counter[str] = Counter(row["label"] for row, drop, _ in judged if drop)
    wrong: dict[str, list[str]] = defaultdict(list)
    for row, drop, is_there in judged:
        if is_there and (drop is not None) == (row["label"] == WRITTEN):
            reason = f": {drop.reason}, {drop.detail}" if drop else ""
            wrong["dropped" if drop else "kept"].append(f"{row['package']} {row['path']} ({row['label']}){reason}")
    return {
        "command": f"python benchmarks/{Path(__file__).name} FOLDER",
        "machine": platform.machine(),
        "files": dict(total),
        "missing": sum(not is_there for _, _, is_there in judged),
        "dropped_share": {label: dropped[label] / count for label, count in total.items()},
        "written_of_100_dropped": 100 * dropped[WRITTEN] / max(1, dropped.total()),
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
