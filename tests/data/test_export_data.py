"""A copy of a dataset opens elsewhere, and takedowns reach it wherever it is."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file
from tests.test_docs import check_described

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.provenance import export_data as copies


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two sources, with the splits train and test, in shards of 20."""
    folder = tmp_path_factory.mktemp("data")
    for name, first, number in (("one", 0, 50), ("two", 500, 9)):
        (folder / name).mkdir()
        for seed in range(first, first + number):
            (folder / name / f"m_{seed}.py").write_text(f"# write to ada@firm-{seed}.org\n{python_file(seed)}")
    chats = [{"messages": [{"role": "user", "content": f"Add {n} to the buffer of node {n * n}, please."},
                           {"role": "assistant", "content": f"The value is {n}, the index is {7 * n}."}]}
             for n in range(30)]  # fmt: skip
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    specs = [f"{folder / 'one'}:train:text", f"{folder / 'two'}:test:text", f"{folder / 'chats.jsonl'}:train:messages"]
    flags = [word for spec in specs for word in ("--dataset", spec)]
    words = ["--output-dir", str(folder / "data"), "--shard-size", "20", "--quiet"]
    assert main(["preprocess", *flags, *words]) == 0
    return folder / "data"


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    assert main(["export-data", str(data), "--output-dir", str(tmp_path / "copy"), "--quiet"]) == 0
    return tmp_path / "copy"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in shards.shard_paths(folder) for row in shards.read_rows(path, shards.SCHEMA.names)]


def opened(folder: Path, cache: Path) -> Any:
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_a_copy_opens_with_splits_and_columns_without_our_code(data: Path, copy: Path, tmp_path: Path) -> None:
    found = opened(copy, tmp_path / "cache")
    assert set(found) == {"train", "test"}
    assert found["train"].column_names == shards.SCHEMA.names
    expected = {row["sha256"]: row for row in rows_of(data)}
    rows = [row for split in found.values() for row in split]
    assert len(rows) == len(expected) > 80
    assert any(row["messages"] for row in rows)
    assert any(row["scrubbed"] for row in rows)
    for row in rows:
        theirs = dict(row, scrubbed=[(each["kind"], each["places"]) for each in row["scrubbed"]])
        assert theirs == expected[row["sha256"]]
    in_test = {row["sha256"] for row in found["test"]}
    assert in_test == {row["sha256"] for path in data.glob("two/test/*.parquet") for row in rows_of(path.parent)}


def test_a_blend_opens_too(data: Path, tmp_path: Path) -> None:
    flags = ["--datasets.a.path", str(data), "--shares.code", "1", "--output-dir", str(tmp_path / "blend"), "--quiet"]
    assert main(["blend", *flags]) == 0
    assert main(["export-data", str(tmp_path / "blend"), "--output-dir", str(tmp_path / "copy"), "--quiet"]) == 0
    found = opened(tmp_path / "copy", tmp_path / "cache")
    assert set(found) == {"train"}
    assert len(found["train"]) == artifacts.load(tmp_path / "blend").counts["kept"]


def test_croissant_has_every_shard_by_its_hash_and_every_plain_column(data: Path, copy: Path) -> None:
    croissant = json.loads((copy / "croissant.json").read_text())
    files = {item["contentUrl"]: item["sha256"] for item in croissant["distribution"] if "sha256" in item}
    assert files == {
        path.relative_to(copy).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in copy.rglob("*.parquet")
    }
    nested = {"messages", "rejected", "code_blocks", "scrubbed"}
    fields = [field["name"] for field in croissant["recordSet"][0]["field"]]
    assert fields == [name for name in shards.SCHEMA.names if name not in nested]
    assert croissant["identifier"] == artifacts.load(data).digest


def test_the_same_dataset_gives_the_same_copy_which_may_be_moved(data: Path, copy: Path, tmp_path: Path) -> None:
    assert main(["export-data", str(data), "--output-dir", str(tmp_path / "again"), "--quiet"]) == 0
    first, second = (check_described(tmp_path / name) for name in ("copy", "again"))
    assert first.digest == second.digest
    (tmp_path / "far").mkdir()
    copy.rename(tmp_path / "far" / "away")
    assert artifacts.verify(tmp_path / "far" / "away", kind=copies.KIND).digest == first.digest


def test_a_copy_that_opens_otherwise_does_not_appear(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = copies.splits_of
    for change, said in (
        ({"train": ["nowhere/shard-0.parquet"]}, "the copy does not open"),
        ({"all": list(artifacts.load(data).files)}, "the copy does not open"),
    ):
        monkeypatch.setattr(copies, "splits_of", lambda names, change=change: right(names) | change)
        monkeypatch.setattr(copies, "_documents", lambda _draft, names: len(list(names)))
        assert main(["export-data", str(data), "--output-dir", str(tmp_path / "copy"), "--quiet"]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "copy").exists()


# Takedown


@pytest.fixture
def taken_down(data: Path, copy: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A dataset after a takedown, its certificate, and a copy from before, which is elsewhere."""
    shutil.copytree(data, tmp_path / "d" / "data")
    copy.rename(tmp_path / "far")
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({"kind": "path", "value": f"m_{n}.py"}) + "\n" for n in (3, 7, 41)))
    words = [str(requests), "--dataset", str(tmp_path / "d" / "data"), "--artifacts", str(tmp_path / "d"), "--quiet"]
    assert main(["takedown", "apply", *words]) == 0
    (certificate,) = (tmp_path / "d").glob("*.takedown-*.json")
    return tmp_path / "d" / "data", certificate, tmp_path / "far"


def test_what_is_no_certificate_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "object.json").write_text('{"architectures": []}')
    (tmp_path / "page.json").write_text("<html>")
    for name, said in (
        (
            "object.json",
            f"{tmp_path / 'object.json'}: not a certificate; give the JSON file that ibidem takedown apply",
        ),
        ("page.json", f"{tmp_path / 'page.json'}: not a certificate; give the JSON file that ibidem"),
        (".", f"certificate {tmp_path}: Is a directory\n"),
        ("none.json", f"certificate {tmp_path / 'none.json'}: No such file or directory\n"),
    ):
        assert main(["takedown", "copy", str(tmp_path / name), "--copy", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"ibidem: {said}")


def test_a_takedown_reaches_a_copy_that_is_elsewhere(
    taken_down: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, certificate, copy = taken_down
    gone = copies.removed_by(certificate)
    assert len(gone) == 3
    assert gone <= {row["sha256"] for row in rows_of(copy)}
    before = artifacts.load(copy)
    assert main(["takedown", "copy", str(certificate), "--copy", str(copy)]) == 0
    assert "3 documents removed from 2 shards, none is left" in capsys.readouterr().out
    assert not gone & {row["sha256"] for row in rows_of(copy)}
    assert main(["export-data", str(dataset), "--output-dir", str(tmp_path / "fresh"), "--quiet"]) == 0
    after, fresh = check_described(copy), artifacts.load(tmp_path / "fresh")
    assert {name: after.files[name] for name in shards.shard_names(after)} == {
        name: fresh.files[name] for name in shards.shard_names(fresh)
    }
    assert after.counts == fresh.counts
    assert sum(after.files[name] != before.files[name] for name in shards.shard_names(after)) == 2
    assert len(opened(copy, tmp_path / "cache")["train"]) == after.counts["splits"]["train"]
    assert {item.role for item in after.inputs} == {"dataset", "removals"}
    assert main(["takedown", "copy", str(certificate), "--copy", str(copy)]) == 0
    assert "holds none of 3 documents" in capsys.readouterr().out


def test_a_copy_among_the_artifacts_is_named_by_a_takedown(
    taken_down: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, certificate, copy = taken_down
    words = [str(tmp_path / "requests.jsonl"), "--dataset", str(dataset), "--artifacts", str(tmp_path)]
    assert main(["takedown", "verify", *words]) == 1  # the dataset that it was copied from, too
    said = capsys.readouterr().out
    assert "still contain removed documents" in said
    assert "ibidem takedown copy" in said
    assert str(copy) in said
    assert main(["takedown", "copy", str(certificate), "--copy", str(copy)]) == 0
    assert main(["takedown", "verify", *words]) == 1  # the dataset that it was copied from, too
    assert str(copy) not in capsys.readouterr().out.partition("copy:")[2]


def test_what_is_no_certificate_or_no_copy_is_refused_in_one_line(
    data: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text("{}")
    assert main(["takedown", "copy", str(tmp_path / "c.json"), "--copy", str(copy)]) == 2
    assert "c.json: not a certificate of ibidem takedown apply" in capsys.readouterr().err
    (tmp_path / "c.json").write_text(json.dumps([{"predicate": {"removed": [{"sha256": "0"}]}}]))
    assert main(["takedown", "copy", str(tmp_path / "c.json"), "--copy", str(data)]) == 2
    assert "this is a dataset; expected a data-export" in capsys.readouterr().err


@pytest.mark.peer
def test_mlcroissant_reads_every_document(copy: Path) -> None:
    """PEERS_PYTHON names a Python that has it: `pip install mlcroissant==1.1.1 pyarrow`."""
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import mlcroissant"], capture_output=True, check=False).returncode:
        pytest.skip("mlcroissant is not installed; name a Python that has it in PEERS_PYTHON")
    script = (
        "import json, sys, mlcroissant\n"
        "read = mlcroissant.Dataset(jsonld=sys.argv[1])\n"
        "rows = [row['documents/sha256'].decode() for row in read.records('documents')]\n"
        "print(json.dumps([sorted(read.metadata.ctx.issues.errors), rows]))\n"
    )
    command = [python, "-c", script, str(copy / "croissant.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors, rows = json.loads(done.stdout.splitlines()[-1])
    assert errors == []
    assert sorted(rows) == sorted(
        value for path in shards.shard_paths(copy) for value in pq.read_table(path)["sha256"].to_pylist()
    )
