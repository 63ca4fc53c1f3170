"""Write the text files of public repositories as Parquet files with a `text` column, for the benchmarks that take such.

Files of a megabyte and more, links and what is not UTF-8 are left out. SOURCE.txt lists the repositories.

    python benchmarks/repositories_as_parquet.py FOLDER OUTPUT_DIR

FOLDER holds the repositories as OWNER/NAME.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MOST_BYTES, BYTES_OF_A_FILE = 1_000_000, 32_000_000


def main() -> None:
    folder, output = map(Path, sys.argv[1:])
    output.mkdir(parents=True, exist_ok=True)
    for number, texts in enumerate(parts(folder)):
        table = pa.table({"text": pa.array(texts, pa.large_string())})
        pq.write_table(table, output / f"part-{number:05d}.parquet")
    names = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if path.is_dir())
    (output / "SOURCE.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def parts(folder: Path) -> Iterator[list[str]]:
    found: list[str] = []
    size = 0
    for text in texts(folder):
        found.append(text)
        size += len(text)
        if size > BYTES_OF_A_FILE:
            yield found
            found, size = [], 0
    if found:
        yield found


def texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and ".git" not in path.parts:
            content = path.read_bytes() if path.stat().st_size < MOST_BYTES else b""
            if content and b"\0" not in content:
                try:
                    yield content.decode()
                except UnicodeDecodeError:
                    continue


if __name__ == "__main__":
    main()
