"""The report shows the evidence for what was kept and dropped, and a measured zero as 0."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.serving.test_report import MISSING, dropped_row, make_dataset

from ibidem import artifacts
from ibidem.data import shards
from ibidem.page import Html, bars, share, table
from ibidem.serving.report_corpus import MOST_EXAMPLES, corpora, corpus, licenses_by_repository


def text_of(page: Html) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page)).strip()


def counted(path: Path, rows: list[dict[str, Any]], **more: Any) -> artifacts.Artifact:
    made = make_dataset(path, rows)
    dropped = {reason: sum(row["reason"] == reason for row in rows) for reason in {row["reason"] for row in rows}}
    made.counts.update({"dropped": dropped} | more)
    return made


def test_the_first_drops_of_each_reason_are_shown_with_their_evidence(tmp_path: Path) -> None:
    rows = [dropped_row("filter.lines", "p", f"long-{n}.py", f"longest line: {n}") for n in range(5)]
    near = dropped_row("duplicate.near", "p", "copy.py", "") | {"kept": "original.py", "similarity": 0.92553}
    text = text_of(corpus(counted(tmp_path / "data", [*rows, near | {"detail": None}])))
    examples, every = text.split("What each repository lost")
    for n in range(MOST_EXAMPLES):
        assert f"long-{n}.py longest line: {n}" in examples
    assert f"long-{MOST_EXAMPLES}.py" not in examples
    assert re.search(r"copy\.py kept instead: original\.py , similarity 0\.926", examples)
    for n in range(5):
        assert f"long-{n}.py filter.lines longest line: {n}" in every


def test_what_was_removed_on_request_is_not_named_again(tmp_path: Path) -> None:
    rows = [dropped_row("removal.requested", "p", "secret-path.py", "request 7")]
    text = text_of(corpus(counted(tmp_path / "data", rows)))
    assert "removal.requested" in text
    assert "secret-path" not in text


def test_licenses_are_counted_by_repository(dataset: Path, tmp_path: Path) -> None:
    made = artifacts.load(dataset)
    text = text_of(licenses_by_repository(made))
    kept = sum(pq.read_metadata(path).num_rows for path in shards.shard_paths(dataset))
    assert f"repository (1) Repository License Documents not stated none stated {kept}" in text
    shutil.copytree(dataset, tmp_path / "copy")
    shards.shard_paths(tmp_path / "copy")[-1].unlink()
    assert f"{MISSING} The shards are missing" in text_of(licenses_by_repository(artifacts.load(tmp_path / "copy")))


@pytest.mark.parametrize("aspect", ["license", "language", "natural_language", "category", "source", "lengths"])
def test_nothing_counted_is_none_and_only_what_was_not_counted_is_missing(aspect: str, tmp_path: Path) -> None:
    made = counted(tmp_path / "data", [])
    title = "length, in characters up to" if aspect == "lengths" else aspect.replace("_", " ")
    made.counts[aspect] = {}
    assert f"Kept by {title} None." in text_of(corpus(made))
    del made.counts[aspect]
    assert f"Kept by {title} {MISSING}" in text_of(corpus(made))


def test_zeros_are_shown_as_zeros(tmp_path: Path) -> None:
    counts = {"read": 0, "kept": 0, "quarantined": 0, "license_unstated": 0, "dropped": {}, "scrubbed": {}}
    counts["clusters"] = {"clusters": 0, "documents": 0, "largest": 0}  # type: ignore[assignment]
    text = text_of(corpora([counted(tmp_path / "data", [], **counts)]))
    assert "0 kept + 0 dropped + 0 quarantined = 0 documents read" in text
    assert "Largest 0 0 0" in text
    assert "placeholders None." in text
    assert share(0, 0) == "0.0 %"
    assert "0.0 %" in bars({"a": 0})
    assert MISSING in table(("a",), None)
