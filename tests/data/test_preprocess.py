import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import SHARED_DATA
from tests.data.left_out import dropped, quarantined

from ibidem import artifacts, config
from ibidem.data import shards
from ibidem.data.pipeline.steps import Policies
from ibidem.data.preprocess import PreprocessConfig, preprocess, summary
from ibidem.data.sources.spec import Spec
from ibidem.data.text import clean
from ibidem.errors import ArtifactError, ConfigError, DataError

GPL_HEADER = (
    "# This program is free software; you can redistribute it and/or modify it\n"
    "# under the terms of the GNU General Public License as published by the\n"
    "# Free Software Foundation; either version 2 of the License, or any later version.\n"
)


def run(output: Path, *specs: str, **changes: object) -> artifacts.Artifact:
    preprocess(PreprocessConfig(dataset=specs, output_dir=output, **changes))
    artifact = artifacts.verify(output, kind=shards.KIND)
    counts = artifact.counts
    assert counts["kept"] + sum(counts["dropped"].values()) + counts["quarantined"] == counts["read"]
    return artifact


def rows(output: Path) -> list[dict]:
    return [row for path in shards.shard_paths(output) for row in pq.read_table(path).to_pylist()]


def table(path: Path, **columns: list) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_folder_of_files_becomes_rows_that_say_where_they_come_from(source_folder: Path, dataset: Path) -> None:
    found = {row["path"]: row for row in rows(dataset)}
    makefile, readme = found["Makefile"], found["README.md"]
    assert makefile["text"] == "all:\n\techo done\n"
    assert makefile["language"] == "Makefile"
    assert readme["text"] == "# Project\n\nText.  \n\n```python\nx = 1   \n```\n"
    assert readme["num_code_blocks"] == 1
    block = readme["code_blocks"][0]
    assert readme["text"][block["start"] : block["end"]] == "x = 1   \n"
    assert block["language"] == "python"
    assert makefile["record"] == "Makefile"
    assert makefile["source"] == str(source_folder)
    import hashlib
    import subprocess

    raw = (source_folder / "Makefile").read_bytes()
    assert makefile["raw_sha256"] == hashlib.sha256(raw).hexdigest()
    git = subprocess.run(["git", "hash-object", "--stdin"], input=raw, capture_output=True, check=True)
    assert makefile["swhid"] == "swh:1:cnt:" + git.stdout.decode().strip()
    assert artifacts.load(dataset).counts["skipped_files"] == {"unknown kind .png": 1}
    assert summary(artifacts.load(dataset)).endswith("; files of unknown kinds, not read: 1 (.png 1)")


def test_a_dataset_is_not_preprocessed_again(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is an artifact of ibidem already; ibidem blend reads such datasets"):
        preprocess(PreprocessConfig(dataset=(f"{dataset}:train:text",), output_dir=tmp_path / "again"))
    assert not list(tmp_path.iterdir())


def test_shards_span_source_positions_not_survivors(tmp_path: Path) -> None:
    texts = [f"print({number})" for number in range(10)]
    whole = table(tmp_path / "a.parquet", text=texts)
    holes = table(
        tmp_path / "b.parquet", text=[text if number not in (1, 4, 5) else "" for number, text in enumerate(texts)]
    )
    run(tmp_path / "whole", f"{whole}:train:text", shard_size=3)
    run(tmp_path / "holes", f"{holes}:train:text", shard_size=3)
    kept = {path.name: pq.read_table(path)["text"].to_pylist() for path in shards.shard_paths(tmp_path / "holes")}
    assert kept == {
        "shard-00000.parquet": ["print(0)\n", "print(2)\n"],
        "shard-00001.parquet": ["print(3)\n"],
        "shard-00002.parquet": ["print(6)\n", "print(7)\n", "print(8)\n"],
        "shard-00003.parquet": ["print(9)\n"],
    }
    assert len(shards.shard_paths(tmp_path / "whole")) == 4


def test_duplicates_name_the_document_that_is_kept(tmp_path: Path) -> None:
    spec = table(tmp_path / "a.parquet", id=["x", "y", "z"], text=["a = 1\n", "b = 2\n", "a = 1   \r\n\n"])
    run(tmp_path / "out", f"{spec}:train:text")
    (row,) = dropped(tmp_path / "out")
    assert (row["record"], row["reason"], row["kept"], row["similarity"]) == ("z", "duplicate.exact", "x", 1.0)


def test_licenses_are_judged_by_metadata_and_by_header(tmp_path: Path) -> None:
    spec = table(
        tmp_path / "a.parquet",
        text=[f"x = {number}\n" for number in range(6)] + [GPL_HEADER + "x = 7\n"],
        license=["MIT", "GPLv3", "MIT OR GPL-2.0-only", None, "who knows", "LGPL-2.1-or-later", "MIT"],
    )
    run(tmp_path / "out", f"{spec}:train:text")
    assert [row["license"] for row in rows(tmp_path / "out")] == ["MIT", "MIT OR GPL-2.0-only"]
    assert [row["reason"] for row in dropped(tmp_path / "out")] == [
        "license.denied", "license.missing", "license.unknown", "license.denied", "license.header",
    ]  # fmt: skip


PUBLIC = {
    "the-stack": (
        "content",
        {
            "hexsha": ["a" * 40, "b" * 40],
            "size": [9, 9],
            "ext": ["py", "py"],
            "lang": ["Python", "Python"],
            "max_stars_repo_path": ["src/a.py", "src/b.py"],
            "max_stars_repo_name": ["owner/repo", "owner/other"],
            "max_stars_repo_head_hexsha": ["c" * 40, "d" * 40],
            "max_stars_repo_licenses": [["MIT", "Apache-2.0"], ["GPL-3.0"]],
            "content": ["a = 1\n", "b = 2\n"],
        },
        {"record": "a" * 40, "repo": "owner/repo", "path": "src/a.py", "language": "Python", "category": "code",
         "license": "MIT AND Apache-2.0", "revision": "c" * 40},
        1,
    ),
    "starcoderdata": (
        "content",
        {
            "max_stars_repo_path": ["lib/a.rs"],
            "max_stars_repo_name": ["owner/repo"],
            "max_stars_count": [3],
            "id": ["17"],
            "content": ["fn main() {}\n"],
        },
        {"record": "17", "repo": "owner/repo", "path": "lib/a.rs", "language": "Rust", "category": "code"},
        1,
    ),
    "the-pile": (
        "text",
        {"text": ["def f(): pass", "Once."], "meta": [{"pile_set_name": "Github"}, {"pile_set_name": "Books3"}]},
        {"category": "code", "license": None},
        2,
    ),
    "slimpajama": (
        "text",
        {"text": ["Once upon a time."], "meta": [{"redpajama_set_name": "RedPajamaC4"}]},
        {"category": "text", "license": None},
        1,
    ),
    "openwebtext": ("text", {"text": ["Port-au-Prince, Haiti ..."]}, {"category": "text", "license": None}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_datasets_are_known_by_their_columns(name: str, tmp_path: Path) -> None:
    column, columns, expected, kept = PUBLIC[name]
    table(tmp_path / name / "data" / "train-00000-of-00001.parquet", **columns)
    run(tmp_path / "out", f"{tmp_path / name}:train:{column}")
    found = rows(tmp_path / "out")
    assert len(found) == kept
    assert {key: found[0][key] for key in expected} == expected


def test_arrow_files_as_datasets_saves_them_are_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"content": ["a = 1", "b = 2"]}).save_to_disk(tmp_path / "saved")
    run(tmp_path / "out", f"{tmp_path / 'saved'}:train:content")
    assert [row["text"] for row in rows(tmp_path / "out")] == ["a = 1\n", "b = 2\n"]


def test_arrow_files_that_begin_with_a_mark_are_read(tmp_path: Path) -> None:
    batch = pa.record_batch({"text": ["a = 1", "b = 2"], "license": ["MIT", "GPL-3.0"]})
    with pa.ipc.new_file(tmp_path / "a.arrow", batch.schema) as file:
        file.write_batch(batch)
        file.write_batch(batch.slice(1))
    artifact = run(tmp_path / "out", f"{tmp_path / 'a.arrow'}:train:text")
    assert [row["text"] for row in rows(tmp_path / "out")] == ["a = 1\n"]
    assert artifact.counts["dropped"] == {"license.denied": 2}


def test_a_split_is_chosen_among_files_named_by_split(tmp_path: Path) -> None:
    table(tmp_path / "d" / "train-0.parquet", text=["a"])
    table(tmp_path / "d" / "test-0.parquet", text=["b"])
    run(tmp_path / "out", f"{tmp_path / 'd'}:test:text")
    assert [row["text"] for row in rows(tmp_path / "out")] == ["b\n"]
    with pytest.raises(ConfigError, match="no split 'dev' .found: test, train"):
        run(tmp_path / "out2", f"{tmp_path / 'd'}:dev:text")


def test_a_repository_has_no_splits_but_its_test_data_stay_out(tmp_path: Path) -> None:
    for name in ("open/model.py", "open/eval.py", "docs/guide.md"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text(f"name = {name!r}\n")
    (tmp_path / "d" / "open" / "test.jsonl").write_text('{"text": "asked in a test"}\n')
    (tmp_path / "d" / "open" / "more.jsonl").write_text('{"text": "more"}\n')
    artifact = run(tmp_path / "out", f"{tmp_path / 'd'}:train:text", skip=("filters",))
    assert {row["record"] for row in rows(tmp_path / "out")} == {
        "open/model.py", "open/eval.py", "docs/guide.md", "open/more.jsonl:1",
    }  # fmt: skip
    assert artifact.counts["skipped_files"] == {"another split": 1}


def test_a_dataset_with_its_card_and_its_loader_has_splits(tmp_path: Path) -> None:
    table(tmp_path / "d" / "data" / "test-0.parquet", text=["b"])
    for name in ("README.md", "LICENSE.md", "CHANGELOG.md", "loader.py"):
        (tmp_path / "d" / name).write_text("words\n")
    with pytest.raises(ConfigError, match="no split 'train' .found: test"):
        run(tmp_path / "out", f"{tmp_path / 'd'}:train:text")


def test_every_bad_line_is_quarantined_and_no_good_one_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    lines = [
        b'\xef\xbb\xbf{"text": "first"}', b'{"text": "cut', b'{"text": "\xff"}', b'{"text": "\\ud800"}',
        b'{"text": null}',
        b'{"text": 5}', b'{"other": "x"}', b"[1]", b'{"text": "twice", "lang": "C", "lang": "D"}',
        b"", b'{"text": "nul \\u0000"}', b'{"text": "  \\n"}', b'{"text": "last"}',
    ]  # fmt: skip
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    whole = b"".join(b'{"text": "line %d"}\n' % number for number in range(5000))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(whole)[:-200])
    (folder / "c.jsonl.zst").write_bytes(pa.compress(b'{"text": "zst"}\n', codec="zstd", asbytes=True))
    (folder / "c2.jsonl.zst").write_bytes(pa.compress(whole, codec="zstd", asbytes=True)[:-9])
    corrupt = bytearray(gzip.compress(whole))
    corrupt[len(corrupt) // 2] ^= 255
    (folder / "c3.jsonl.gz").write_bytes(corrupt)
    cells = pa.array([b"fine", b"\xff\xfe", b"too"]).view(pa.string())
    pq.write_table(pa.table({"text": cells}), folder / "cells.parquet")
    (folder / "d.parquet").write_bytes(b"PAR1 not really")
    table(folder / "e.parquet", other=["x"])
    (folder / "f.py").write_bytes(b"x = '\xff'\n")
    (folder / "g.py").write_bytes(b"\0\0")
    (tmp_path / "d" / os.fsdecode(b"caf\xe9.py")).write_text("odd = 1\n")
    (folder / ".hidden").mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.py").symlink_to(folder / "nothing.py")
    os.mkfifo(folder / "pipe.py")
    artifact = run(tmp_path / "out", f"{folder}:train:text")
    texts = {row["text"] for row in rows(tmp_path / "out")}
    assert {"first\n", "last\n", "zst\n", "line 0\n", "odd = 1\n", "fine\n", "too\n"} <= texts
    where = {(item["file"], item["line"]) for item in quarantined(tmp_path / "out")}
    assert {("a.jsonl", line) for line in (2, 3, 4, 5, 6, 7, 8, 9)} <= where
    assert ("cells.parquet", 2) in where
    broken = {"a.jsonl", "b.jsonl.gz", "c2.jsonl.zst", "c3.jsonl.gz", "cells.parquet", "d.parquet", "e.parquet"}
    assert {file for file, _ in where} == broken | {"f.py", "g.py"}
    assert artifact.counts["dropped"]["binary"] == 1
    assert artifact.counts["dropped"]["empty"] == 1
    skipped = {"not a regular file": 2, "hidden folder": 1, "symbolic link to a folder": 1}
    assert artifact.counts["skipped_files"] == skipped


def test_a_row_without_license_among_rows_with_one_is_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "license": "MIT"}\n{"text": "c", "license": NaN}\n')
    (folder / "b.jsonl").write_text('{"text": "d"}\n')
    run(tmp_path / "out", f"{folder}:train:text")
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["license.missing"] * 3
    assert [row["text"] for row in rows(tmp_path / "out")] == ["b\n"]


def test_a_data_file_that_states_licenses_does_not_ask_them_of_plain_files(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "license": "MIT"}\n')
    (folder / "plain.py").write_text("x = 1\n")
    artifact = run(tmp_path / "out", f"{folder}:train:text")
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["license.missing"]
    assert [row["license"] for row in rows(tmp_path / "out")] == ["MIT", None]
    assert artifact.counts["license_unstated"] == 1
    run(tmp_path / "asked", f"{folder}:train:text", licenses={"unstated": "drop"})
    assert {row["record"]: row["reason"] for row in dropped(tmp_path / "asked")} == {
        "a.jsonl:1": "license.missing",
        "plain.py": "license.unstated",
    }


MIT_TEXT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    "documentation files (the Software), to deal in the Software without restriction."
)
GPL_TEXT = "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007. Copyright (C) 2007 Free Software Foundation. " * 3


def project(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"{folder}:train:text"


def test_the_nearest_license_file_states_the_license_of_the_files_below_it(tmp_path: Path) -> None:
    spec = project(
        tmp_path / "p",
        LICENSE=MIT_TEXT,
        a_dot_py="a = 1\n",
        header_dot_py=GPL_HEADER + "b = 2\n",
        lib__deep__c_dot_py="c = 3\n",
        gnu__COPYING=GPL_TEXT,
        gnu__d_dot_py="d = 4\n",
        gnu__e_dot_py="# SPDX-License-Identifier: ISC\ne = 5\n",
        odd__LICENSE_dot_md="You may look at it, but only on Sundays. " * 9,
        odd__f_dot_py="f = 6\n",
        both__LICENSE=MIT_TEXT,
        both__LICENSE_dot_txt="Apache License, Version 2.0",
        both__g_dot_py="g = 7\n",
        rows_dot_jsonl='{"text": "h = 8"}\n',
    )
    run(tmp_path / "out", spec, skip=("filters",))
    found = {row["record"]: (row["license"], row["license_evidence"]) for row in rows(tmp_path / "out")}
    assert found == {
        "a.py": ("MIT", "license-file: LICENSE"),
        "lib/deep/c.py": ("MIT", "license-file: LICENSE"),
        "gnu/e.py": ("ISC", "header: SPDX-License-Identifier: ISC"),
        "both/LICENSE.txt": ("MIT AND Apache-2.0", "license-file: both/LICENSE, both/LICENSE.txt"),
        "both/g.py": ("MIT AND Apache-2.0", "license-file: both/LICENSE, both/LICENSE.txt"),
        "rows.jsonl:1": (None, None),
    }
    assert {row["record"]: (row["reason"], row["detail"]) for row in dropped(tmp_path / "out")} == {
        "header.py": ("license.header", "free software; you can redistribute it and/or modify it under the terms of "
                      "the GNU General Public License"),
        "gnu/d.py": ("license.denied", "GPL-3.0-only"),
        "odd/LICENSE.md": ("license.unknown", "license-file: odd/LICENSE.md"),
        "odd/f.py": ("license.unknown", "license-file: odd/LICENSE.md"),
    }  # fmt: skip


GNU, OPEN = "license.denied", "license.unknown"
ODD_TEXT = "You may look at it, but only on Sundays. " * 9


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"COPYING.LESSER": GPL_TEXT}, GNU),
        ({"LICENSE-GPL": GPL_TEXT}, GNU),
        ({"LICENSE.GPL": GPL_TEXT}, GNU),
        ({"LICENSE-MIT": MIT_TEXT, "LICENSE-GPL": GPL_TEXT}, GNU),
        ({"LICENSES/GPL-3.0-only.txt": GPL_TEXT}, GNU),
        ({"LICENSE": MIT_TEXT, "LICENSES/GPL-3.0-only.txt": GPL_TEXT}, GNU),
        ({"COPYING": GPL_TEXT.encode("utf-16")}, GNU),
        ({"COPYING": b"\xef\xbb\xbf" + GPL_TEXT.encode()}, GNU),
        ({"COPYING": Path("nowhere")}, OPEN),
        ({"COPYING": ODD_TEXT}, OPEN),
        ({"COPYING.gz": gzip.compress(GPL_TEXT.encode())}, OPEN),
        ({"LICENSE": MIT_TEXT, "LICENSE-OTHER": Path("nowhere")}, OPEN),
        ({"LICENSE": ODD_TEXT, "LICENSE-MIT": MIT_TEXT}, OPEN),
        ({"LICENSE": MIT_TEXT, "LICENSE-THIRD-PARTY": ODD_TEXT}, None),
        ({"LICENSE-MIT": MIT_TEXT, "LICENSE-APACHE": "Apache License, Version 2.0"}, None),
        ({"UNLICENSE": "This is free and unencumbered software released into the public domain. " * 3}, None),
        ({"COPYING3.LIB": GPL_TEXT}, GNU),
        ({"LICENSE_GPL.txt": GPL_TEXT}, GNU),
        ({"GPL-LICENSE.txt": GPL_TEXT}, GNU),
        ({"LICENSES": GPL_TEXT}, GNU),
        ({"LICENSES/preferred/GPL-2.0": GPL_TEXT}, GNU),
        ({"License.html": "<p>" + GPL_TEXT}, GNU),
        ({"COPYING": os.mkfifo}, OPEN),
        ({"LICENSE.TXT": ODD_TEXT, "LICENSE-MIT": MIT_TEXT}, OPEN),
        ({"LICENSE-GPL": GPL_TEXT.encode("utf-16-le"), "LICENSE-MIT": MIT_TEXT}, OPEN),
        ({"LICENSES/MIT.txt": MIT_TEXT, "LICENSES/LicenseRef-Own.txt": ODD_TEXT}, OPEN),
        ({"LICENSES/MIT.txt": MIT_TEXT, "LICENSES/BSD-3-Clause.txt": "See there."}, None),
        ({"LICENSE": MIT_TEXT, "license.svg": "<svg/>"}, None),
        ({"license.key": "abc", "no-license-check.cfg": "x"}, None),
        ({"license.py": GPL_TEXT, "copying": None}, None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_license_files_have_many_names(
    files: dict[str, str | bytes | Path | Callable[[Path], None] | None], reason: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    spec = project(folder, a_dot_py="a = 1\n")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case None:
                path.mkdir()
            case Path():
                path.symlink_to(content)
            case _ if callable(content):
                content(path)
            case _:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
    run(tmp_path / "out", spec, skip=("filters",))
    assert {row["record"]: row["reason"] for row in dropped(tmp_path / "out")}.get("a.py") == reason


def test_a_byte_order_mark_hides_no_header(tmp_path: Path) -> None:
    spec = project(
        tmp_path / "p", a_dot_c="\ufeff// SPDX-License-Identifier: GPL-3.0-only\nint a;\n", b_dot_c="int b;\n"
    )
    run(tmp_path / "out", spec, skip=("clean",))
    assert [(row["record"], row["reason"]) for row in dropped(tmp_path / "out")] == [("a.c", "license.header")]


def test_a_license_file_that_changes_is_read_again(tmp_path: Path) -> None:
    spec = project(tmp_path / "p", LICENSE="Ask me. " * 30, a_dot_py="a = 1\n")
    unrecognized = run(tmp_path / "out", spec)
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["license.unknown"]
    project(tmp_path / "p", LICENSE="Ask her. " * 30)
    assert run(tmp_path / "out", spec).digest != unrecognized.digest
    project(tmp_path / "p", LICENSE=MIT_TEXT)
    assert run(tmp_path / "out", spec).digest != unrecognized.digest
    assert [row["license"] for row in rows(tmp_path / "out")] == ["MIT"]


def test_a_text_that_a_license_page_includes_is_read_again_when_it_changes(tmp_path: Path) -> None:
    page = "License\n\n.. include:: ../legal.inc\n"
    spec = project(tmp_path / "p", docs__license_dot_rst=page, legal_dot_inc=MIT_TEXT, docs__conf_dot_py="a = 1\n")
    run(tmp_path / "out", spec, skip=("filters",))
    assert "MIT" in {row["license"] for row in rows(tmp_path / "out")}
    project(tmp_path / "p", legal_dot_inc=GPL_TEXT)
    run(tmp_path / "out", spec, skip=("filters",))
    assert {row["reason"] for row in dropped(tmp_path / "out")} == {"license.denied"}


def test_the_same_input_gives_the_same_bytes_and_is_not_done_twice(source_folder: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "one", f"{source_folder}:train:text")
    second = run(tmp_path / "two", f"{source_folder}:train:text")
    assert first.digest == second.digest
    before = (tmp_path / "one" / artifacts.MANIFEST).stat().st_mtime_ns
    run(tmp_path / "one", f"{source_folder}:train:text")
    assert (tmp_path / "one" / artifacts.MANIFEST).stat().st_mtime_ns == before
    assert run(tmp_path / "one", f"{source_folder}:train:text", shard_size=7).digest != first.digest


def test_an_output_with_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    spec = table(tmp_path / "a.parquet", text=["x = 1\n", "y = 2\n"])
    digest = run(tmp_path / "out", f"{spec}:train:text").digest
    (shard,) = shards.shard_paths(tmp_path / "out")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert run(tmp_path / "out", f"{spec}:train:text").digest == digest  # `run` hashes every file again


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("openwebtext", ConfigError, "NAME[:VERSION]:SPLIT:COLUMN"),
        ("a::text", ConfigError, "NAME[:VERSION]:SPLIT:COLUMN"),
        ("./missing:train:text", ConfigError, "no such file or folder"),
        ("missing.jsonl:train:text", ConfigError, "no such file or folder"),
        ("EMPTY:train:text", DataError, "it contains no documents"),
        ("WRONG.parquet:train:txt", DataError, "no column 'txt' (columns: text)"),
        ("FILES:train:nonsense", ConfigError, "no column 'nonsense', for each of its files is one document; use"),
        ("FILES/a.py:train:nonsense", ConfigError, "a.py:train:text"),
        ("installed-packages:train:nonsense", ConfigError, "use installed-packages:train:text"),
        ("openwebtext:train:text", DataError, "not available from the Hugging Face hub"),
        ("bigcode/the-stack-dedup:v1:train:content", DataError, "not available from the Hugging Face hub"),
    ],
)
def test_a_source_that_gives_nothing_is_one_clear_line(
    spec: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    (tmp_path / "EMPTY").mkdir()
    table(tmp_path / "WRONG.parquet", text=["x"])
    project(tmp_path / "FILES", a_dot_py="x = 1\n")
    spec = spec.replace("FILES", str(tmp_path / "FILES"))
    spec = spec.replace("EMPTY", str(tmp_path / "EMPTY")).replace("WRONG", str(tmp_path / "WRONG"))
    with pytest.raises(error) as caught:
        run(tmp_path / "out", spec)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_output_does_not_go_into_its_own_source(tmp_path: Path) -> None:
    table(tmp_path / "d" / "a.parquet", text=["x"])
    with pytest.raises(ConfigError, match="inside the dataset"):
        run(tmp_path / "d" / "out", f"{tmp_path / 'd'}:train:text")


def test_a_version_is_a_configuration_of_the_hub_dataset_or_else_a_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets
    import huggingface_hub

    asked = []

    class Hub:
        def dataset_info(self, _: str, revision: str | None = None) -> object:
            return type("Info", (), {"sha": f"commit of {revision or 'main'}"})

    def load(name: str, configuration: str | None, **how: object) -> datasets.IterableDataset:
        asked.append((name, configuration, how))
        return datasets.IterableDataset.from_generator(lambda: iter([{"content": "a = 1"}]))

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda _: ["en"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    for number, version in enumerate(("en", "v1.2")):
        run(tmp_path / str(number), f"some/dataset:{version}:train:content")
    how = {"split": "train", "streaming": True}
    assert asked == [
        ("some/dataset", "en", {"revision": "commit of main"} | how),
        ("some/dataset", None, {"revision": "commit of v1.2"} | how),
    ]
    assert rows(tmp_path / "1")[0]["revision"] == "commit of v1.2"
    assert shards.shard_paths(tmp_path / "0")[0].relative_to(tmp_path / "0").parent == Path("some--dataset/train")


def test_specs_are_read_from_the_right(tmp_path: Path) -> None:
    odd = tmp_path / "with:colon"
    odd.mkdir()
    assert Spec.parse(f"{odd}:train:text") == Spec(str(odd), None, "train", "text")
    assert Spec.parse("a/b:train:text") == Spec("a/b", None, "train", "text")


@pytest.mark.parametrize("split", ["..", ".", "../../x", "a/b", "-x"])
def test_a_split_is_a_name(split: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the name of a split"):
        Spec.parse(f"{tmp_path}:{split}:text")


def test_a_link_is_not_replaced_by_the_output(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", text=["value = 1"])
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with pytest.raises(ArtifactError, match=f"is a symbolic link.*use {tmp_path / 'disk'}"):
        run(tmp_path / "out", f"{tmp_path / 'a.parquet'}:train:text")


def test_installed_packages_show_the_prey_of_the_license_filter(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    artifact = run(tmp_path / "out", "installed-packages:train:text", package_cap_bytes=500_000)
    gone = dropped(tmp_path / "out")
    chardet = {row["reason"] for row in gone if row["repo"] == "chardet"}
    assert chardet <= {"license.denied", "empty", "duplicate.exact"}
    assert "license.denied" in chardet
    autocommand = [row for row in gone if "_vendor/autocommand/" in (row["path"] or "")]
    assert autocommand
    assert {row["reason"] for row in autocommand} == {"license.header"}
    assert {row["repo"] for row in autocommand} == {"setuptools"}
    assert artifact.counts["source"] == {"installed-packages": artifact.counts["kept"]}
    kept_size: dict[str, int] = {}
    for row in rows(tmp_path / "out"):
        kept_size[row["repo"]] = kept_size.get(row["repo"], 0) + len(row["text"].encode())
    assert max(kept_size.values()) <= 500_000
    assert len(kept_size) > 20


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```\na\n```\n", [("a\n", None)]),
        ("~~~ py extra\na\n```\nb\n~~~~\n", [("a\n```\nb\n", "py")]),
        ("````\n```\n````\n", [("```\n", None)]),
        ("text\n```js\nopen to the end", [("open to the end", "js")]),
        ("inline ```x``` code\n", []),
        ("    ```\n    indented\n", []),
        ("```\n    ```\n> ```\n- ```\n```\n", [("    ```\n> ```\n- ```\n", None)]),
        ("- ```sh\n  ls\n  ```\nprose\n", [("  ls\n", "sh")]),
        ("10. ```sh\n    ls\n    ```\nprose\n", [("    ls\n", "sh")]),
        ("   ```\n    ```\n  ```\n", [("    ```\n", None)]),
    ],
)
def test_fences_follow_commonmark(text: str, blocks: list[tuple[str, str | None]]) -> None:
    assert [(text[start:end], language) for start, end, language in clean.code_blocks(text)] == blocks


def test_real_source_code_is_read(tmp_path: Path) -> None:
    corpus = SHARED_DATA / "corpus"
    if not corpus.exists():
        pytest.skip("shared/data/corpus is not here")
    artifact = run(tmp_path / "out", f"{corpus}:train:text", max_documents=1500)
    assert artifact.counts["read"] == 1500
    assert artifact.counts["kept"] > 500


def test_the_same_text_under_the_same_id_is_kept_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        table(tmp_path / "d" / f"{name}.parquet", id=["7"], text=["x = 1"])
    artifact = run(tmp_path / "out", f"{tmp_path / 'd'}:train:text")
    assert artifact.counts["dropped"] == {"duplicate.exact": 1}


def test_code_blocks_are_where_they_are_after_scrubbing(tmp_path: Path) -> None:
    text = "Write to ann.very.long.name@ibidem-company.org please.\n\n```python\nx = 1\n```\n" + "Then wait. " * 9
    table(tmp_path / "a.parquet", text=[text])
    run(tmp_path / "out", f"{tmp_path / 'a.parquet'}:train:text")
    (row,) = rows(tmp_path / "out")
    (block,) = row["code_blocks"]
    assert row["scrubbed"]
    assert row["text"][block["start"] : block["end"]] == "x = 1\n"


def test_steps_can_be_left_out_and_licenses_still_be_lists(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", text=["value = 1"], license=[["MIT", "ISC"]])
    skip = ("licenses", "filters", "scrub", "contamination")
    run(tmp_path / "out", f"{tmp_path / 'a.parquet'}:train:text", skip=skip)
    (row,) = rows(tmp_path / "out")
    assert (row["license"], row["license_raw"]) == (None, '["MIT", "ISC"]')


def test_texts_enter_as_they_are_where_cleaning_is_left_out(tmp_path: Path) -> None:
    prose = "The quick brown fox jumps over the lazy dog, \r\nand the dog does not care at all.\n\n\n\n```sh\nls\n```"
    blank = ["", " \r\n\t", "\ufeff", "\ufeff \n", "\u00a0\u2003\n", "\x1c\x1d", "\u2028"]
    table(tmp_path / "a.parquet", text=[prose, "\ufeffvalue = 1", *blank, "nul\0"])
    flags = {"dedup": {"near": False}, "skip": ("clean", "natural_languages", "filters")}
    run(tmp_path / "out", f"{tmp_path / 'a.parquet'}:train:text", **flags)
    found = rows(tmp_path / "out")
    assert [row["text"] for row in found] == [prose, "\ufeffvalue = 1"]
    assert [row["natural_language"] for row in found] == [None, None]
    (block,) = found[0]["code_blocks"]
    assert prose[block["start"] : block["end"]] == "ls\n"
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["empty"] * len(blank) + ["binary"]


def test_the_language_of_prose_is_not_left_out_where_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="natural_languages cannot be skipped"):
        config.build(Policies, {"filters": {"natural_languages": ["en"]}, "skip": ["natural_languages"]})


def test_a_license_nested_too_deep_is_unknown(tmp_path: Path) -> None:
    nested = "MIT"
    for _ in range(40):
        nested = f"A OR B AND ({nested})"
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "one", "license": nested}) + "\n" + json.dumps({"text": "two", "license": "MIT"}) + "\n"
    )
    run(tmp_path / "out", f"{tmp_path / 'a.jsonl'}:train:text")
    assert [row["text"] for row in rows(tmp_path / "out")] == ["two\n"]
    assert [row["reason"] for row in dropped(tmp_path / "out")] == ["license.unknown"]


def test_the_output_does_not_replace_what_it_is_compared_with(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", text=["value = 1"])
    run(tmp_path / "out", f"{tmp_path / 'a.parquet'}:train:text")
    with pytest.raises(ConfigError, match="is also the output_dir"):
        run(tmp_path / "out", f"{tmp_path / 'a.parquet'}:train:text", dedup={"against": (tmp_path / "out",)})


def test_shards_are_hashed_by_the_tasks_that_write_them(
    source_folder: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, hashed = artifacts.sha256_of, []

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return usual(path)

    monkeypatch.setattr(artifacts, "sha256_of", noted)
    settings = {"dataset": (f"{source_folder}:train:text",), "shard_size": 100}
    preprocess(PreprocessConfig(output_dir=tmp_path / "out", **settings))
    assert not hashed
    assert artifacts.verify(tmp_path / "out").digest == artifacts.load(dataset).digest
