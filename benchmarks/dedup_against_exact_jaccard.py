r"""What near-duplicate removal takes out of 7,000 real files, against exact Jaccard similarity between all pairs.

A document is the set of its 5-grams of lower-cased `\w+` words, without the license comments at its head; a shorter
document is one shingle. All pairs at 0.8 or
above are found with an inverted index over prefixes (Chaudhuri et al. 2006, doi:10.1109/ICDE.2006.9), which misses
none, by code that shares nothing with the package.

    precision    removed documents that are similar to the kept one that is named for them
    left         pairs of kept documents that are similar
    ideal        documents that a pass in order removes, if it keeps each that is similar to no kept one

    python benchmarks/dedup_against_exact_jaccard.py CORPUS_DIR benchmarks/results/dedup_against_exact_jaccard.json
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ibidem import artifacts
from ibidem.data import shards

COMMENT = re.compile(
    r"\s*(?:(?:<\?|#!)[^\n]*\n?\s*)*"  # what may stand in front of it
    r"(/\*.*?\*/|<!--.*?-->|(?=(?P<sign>.))(?://|--|;;|##|%%|[#%](?=\s))[^\n]*(?:\n[ \t]*(?P=sign)[^\n]*)*)",
    re.DOTALL,
)
HEAD_CHARS, MAX_COMMENTS = 8192, 4
DOCUMENTS, SIMILARITY, WORDS = 7000, 0.8, 5
SKIP = ("licenses", "filters", "scrub", "contamination")


def main() -> None:
    corpus, output = map(Path, sys.argv[1:])
    texts = pa.concat_tables([pq.read_table(path, columns=["text"]) for path in sorted(corpus.glob("*.parquet"))])
    texts = texts["text"].to_pylist()[:: len(texts) // DOCUMENTS][:DOCUMENTS]
    removed, kept = removed_and_kept(texts)
    sets = [shingles(text) for text in texts]
    similar = similar_pairs(sets)
    stays: set[int] = set()
    for document in range(len(texts)):
        if not stays.intersection(similar[document]):
            stays.add(document)
    right = sum(keeper in similar[document] and keeper in kept for document, keeper in removed.items())
    left = sum(other in kept for document in kept for other in similar[document]) // 2
    result: dict[str, Any] = {
        "command": f"python benchmarks/{Path(__file__).name} CORPUS_DIR {output.as_posix()}",
        "documents": len(texts),
        "similar_pairs": sum(map(len, similar.values())) // 2,
        "removed": len(removed),
        "ideal": len(texts) - len(stays),
        "same_documents_as_ideal": kept == stays,
        "precision": right / max(1, len(removed)),
        "left": left,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def removed_and_kept(texts: list[str]) -> tuple[dict[int, int], set[int]]:
    """Give the keeper of each removed document, and the documents that stay."""
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder, "source")).mkdir()
        table = pa.table({"text": texts, "id": [str(number) for number in range(len(texts))]})
        pq.write_table(table, source / "part.parquet")
        flags = ["--dataset", f"{source}:train:text", "--output-dir", f"{folder}/out", "--skip", *SKIP]
        subprocess.run([sys.executable, "-m", "ibidem", "preprocess", *flags], check=True, capture_output=True)
        tables = shards.read_dropped(artifacts.load(Path(folder, "out")))
        rows = [row for table in tables for row in table.to_pylist()]
        found = [pq.read_table(path, columns=["record"])["record"] for path in Path(folder, "out").rglob("shard-*")]
    duplicates = {int(row["record"]): int(row["kept"]) for row in rows if row["reason"].startswith("duplicate.")}
    return duplicates, {int(record.as_py()) for column in found for record in column}


def body(text: str) -> str:
    """Return a text without the leading comments up to the last that names a license or a copyright."""
    place = end = 0
    for _ in range(MAX_COMMENTS):
        comment = COMMENT.match(text, place, HEAD_CHARS)
        if comment is None:
            break
        place = comment.end()
        end = place if re.search("licen|copyright", comment[1].lower()) else end
    return text[end:] if len(re.findall(r"\w+", text[end:])) >= WORDS else text


def shingles(text: str) -> frozenset[int]:
    words = re.findall(r"\w+", body(text).lower())
    return frozenset(hash(tuple(words[i : i + WORDS])) for i in range(max(1, len(words) - WORDS + 1)))


def similar_pairs(sets: list[frozenset[int]]) -> dict[int, set[int]]:
    frequency = Counter(shingle for own in sets for shingle in own)
    index: defaultdict[int, list[int]] = defaultdict(list)
    found: dict[int, set[int]] = {document: set() for document in range(len(sets))}
    for document, own in enumerate(sets):
        ordered = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        prefix = ordered[: len(ordered) - int(SIMILARITY * len(ordered) + 0.999999) + 1]
        for other in {other for shingle in prefix for other in index[shingle]}:
            shared = len(own & sets[other])
            if shared >= SIMILARITY * (len(own) + len(sets[other]) - shared):
                found[document].add(other)
                found[other].add(document)
        for shingle in prefix:
            index[shingle].append(document)
    return found


if __name__ == "__main__":
    main()
