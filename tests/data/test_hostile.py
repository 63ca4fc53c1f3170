# ruff: noqa: E501 - a table
"""Whatever is thrown at it: every good row comes out, every bad one is told with file, line and reason."""

import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tests.data.left_out import quarantined

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data.shards import read_rows, shard_paths

Content = bytes | Callable[[Path], None]


@dataclass
class Kind:
    """One kind of hostile input: files, and what must become of them."""

    files: dict[str, Content]
    good: list[str] = field(default_factory=list)
    """Texts that come out, beside that of the harmless neighbor."""
    bad: list[tuple[str, int | None, str]] = field(default_factory=list)
    """(file, line, part of the reason) of each line in quarantine."""
    dropped: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    licensed: bool = False
    """It states licenses, so the neighbor lacks one."""


def jsonl(*texts: object, **more: object) -> bytes:
    return b"".join(json.dumps({"text": text, **more}).encode() + b"\n" for text in texts)


def parquet(path: Path, table: pa.Table, **options: object) -> None:
    pq.write_table(table, path, **options)


def column(values: list[object], kind: pa.DataType | None = None) -> Callable[[Path], None]:
    return lambda path: parquet(path, pa.table({"text": pa.array(values, kind)}))


def twice_named(path: Path) -> None:
    parquet(path, pa.Table.from_arrays([pa.array(["one"]), pa.array(["two"])], names=["text", "text"]))


def not_utf8(path: Path) -> None:
    parquet(path, pa.table({"text": pa.array([b"fine", b"\xff\xfe", b"also"]).view(pa.string())}))


def damaged_page(path: Path) -> None:
    column(["lost " * 50])(path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)


def truncated(writer: Callable[[Path], None], length: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        writer(path)
        path.write_bytes(path.read_bytes()[:length])

    return write


def arrow(path: Path) -> None:
    batches = [pa.record_batch({"text": [f"row {number} of an arrow file"] * 2}) for number in range(3)]
    with pa.ipc.new_stream(path, batches[0].schema) as stream:
        for batch in batches:
            stream.write_batch(batch)


def cut_arrow(path: Path) -> None:
    arrow(path)
    path.write_bytes(path.read_bytes()[:-200])


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def chain(path: Path) -> None:
    path.symlink_to(path.with_name("b.py"))
    path.with_name("b.py").symlink_to(path)


def beyond(path: Path) -> None:
    outside = path.parents[1] / "outside.jsonl"
    outside.write_bytes(jsonl("one"))
    path.symlink_to(outside)


def notebook(*cells: object, **more: object) -> bytes:
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": cells} | more).encode()


def code_cell(source: object) -> dict[str, object]:
    return {"cell_type": "code", "source": source, "outputs": []}


def numbered(count: int) -> bytes:
    return jsonl(*(f"line {number} of many" for number in range(count)))


CUT_GZIP = gzip.compress(numbered(9000))
BROKEN_GZIP = CUT_GZIP[: len(CUT_GZIP) // 2] + b"\0" * 40 + CUT_GZIP[len(CUT_GZIP) // 2 + 40 :]
ZSTD = zstandard.ZstdCompressor()

KINDS = {
    "byte order mark": Kind({"a.jsonl": b"\xef\xbb\xbf" + jsonl("first", "second")}, ["first", "second"]),
    "byte order mark alone": Kind({"a.jsonl": b"\xef\xbb\xbf\n" + jsonl("first")}, ["first"]),
    "utf-16": Kind({"a.jsonl": jsonl("x").decode().encode("utf-16")}, bad=[("a.jsonl", 1, "not UTF-8"), ("a.jsonl", 2, "not JSON")]),
    "latin-1 in one line": Kind({"a.jsonl": jsonl("one") + b'{"text": "caf\xe9"}\n' + jsonl("two")}, ["one", "two"], [("a.jsonl", 2, "not UTF-8")]),
    "overlong utf-8": Kind({"a.jsonl": b'{"text": "\xc0\xaf"}\n' + jsonl("one")}, ["one"], [("a.jsonl", 1, "not UTF-8")]),
    "surrogates as bytes": Kind({"a.jsonl": b'{"text": "\xed\xa0\x80"}\n'}, bad=[("a.jsonl", 1, "not UTF-8")]),
    "a lone surrogate": Kind({"a.jsonl": b'{"text": "a \\ud800 b"}\n' + jsonl("one")}, ["one"], [("a.jsonl", 1, "lone surrogate")]),
    "a surrogate in the path": Kind({"a.jsonl": b'{"text": "a b", "path": "\\ud800.py"}\n'}, bad=[("a.jsonl", 1, "surrogate")]),
    "a pair of surrogates": Kind({"a.jsonl": b'{"text": "smile \\ud83d\\ude00 smile"}\n'}, ["smile \U0001f600 smile"]),
    "nul in a row": Kind({"a.jsonl": b'{"text": "nul \\u0000"}\n' + jsonl("one")}, ["one"], dropped={"binary": 1}),
    "nul in a file": Kind({"a.py": b"x = 1\0\n"}, bad=[("a.py", None, "NUL")]),
    "latin-1 in a file": Kind({"a.py": b"# \xa9 Jos\xe9\ny = 1\n"}, ["# \xa9 Jos\xe9\ny = 1"]),
    "utf-16 in a file": Kind({"a.py": "y = '\u6f22'\n".encode("utf-16")}, ["y = '\u6f22'"]),
    "broken utf-16 in a file": Kind({"a.py": b"\xff\xfey\0\0\xd8"}, bad=[("a.py", 1, "not UTF-8")]),
    "utf-16 with nul in a file": Kind({"a.py": "y\0z".encode("utf-16")}, bad=[("a.py", 1, "not UTF-8")]),
    "damaged utf-8 in a file": Kind({"a.py": b"# caf\xc3\xa9\ny = '\xe9'\n"}, bad=[("a.py", 2, "not UTF-8")]),
    "no letters in a file": Kind({"a.py": b"y = '\x81'\nz = '\xff'\n"}, bad=[("a.py", 1, "not UTF-8")]),
    **{
        f"{name} in a file": Kind({"a.py": f"# {text}\ny = 1\n".encode(name)}, bad=[("a.py", 1, "not UTF-8")])
        for name, text in {
            "shift-jis": "\u30c6\u30b9\u30c8 a", "euc-jp": "\u3042", "gbk": "\u4e2d\u6587", "big5": "\u4e2d\u6587",
            "koi8-r": "\u043c\u0438\u0440", "cp1251": "\u043c\u0438\u0440", "euc-kr": "\ud55c\uad6d",
        }.items()
    },
    "line separators": Kind({"a.jsonl": jsonl("one\u2028two\x0bthree")}, ["one\u2028two\x0bthree"]),
    "truncated gzip": Kind({"a.jsonl.gz": CUT_GZIP[:-30]}, ["line 0 of many", "line 8000 of many"], [("a.jsonl.gz", -1, "ended before")]),
    "damaged gzip": Kind({"a.jsonl.gz": BROKEN_GZIP}, bad=[("a.jsonl.gz", None, "none of its rows can be trusted")]),
    "no gzip at all": Kind({"a.jsonl.gz": b"plain text"}, bad=[("a.jsonl.gz", None, "gzip")]),
    "empty gzip": Kind({"a.jsonl.gz": gzip.compress(b"")}),
    "two gzip members": Kind({"a.jsonl.gz": gzip.compress(jsonl("one")) + gzip.compress(jsonl("two"))}, ["one", "two"]),
    "truncated zstd": Kind({"a.jsonl.zst": ZSTD.compress(jsonl("one") * 2)[:-6]}, bad=[("a.jsonl.zst", -1, "ended before")]),
    "no zstd at all": Kind({"a.jsonl.zst": b"plain text"}, bad=[("a.jsonl.zst", None, "zstd")]),
    "two zstd frames": Kind({"a.jsonl.zst": ZSTD.compress(jsonl("one")) + ZSTD.compress(jsonl("two"))}, ["one", "two"]),
    "truncated parquet": Kind({"a.parquet": truncated(column(["one"] * 99), 150)}, bad=[("a.parquet", None, "Parquet")]),
    "no parquet at all": Kind({"a.parquet": b"PAR1 not really PAR1"}, bad=[("a.parquet", None, "")]),
    "empty parquet file": Kind({"a.parquet": b""}, bad=[("a.parquet", None, "")]),
    "damaged parquet page": Kind({"a.parquet": damaged_page}, bad=[("a.parquet", None, "")]),
    "parquet of no rows": Kind({"a.parquet": column([], pa.string())}),
    "parquet without the column": Kind({"a.parquet": lambda path: parquet(path, pa.table({"body": ["x"]}))}, bad=[("a.parquet", None, "no column 'text' (columns: body)")]),
    "parquet with the column twice": Kind({"a.parquet": twice_named}, bad=[("a.parquet", None, "twice")]),
    "parquet of numbers": Kind({"a.parquet": column([1, 2])}, bad=[("a.parquet", 1, "int, not text"), ("a.parquet", 2, "int")]),
    "parquet of bytes": Kind({"a.parquet": column([b"bytes of text", b"\xff"])}, ["bytes of text"], [("a.parquet", 2, "not UTF-8")]),
    "parquet of lists": Kind({"a.parquet": column([["a"], ["b"]])}, bad=[("a.parquet", 1, "list, not text"), ("a.parquet", 2, "list")]),
    "parquet with nulls": Kind({"a.parquet": column(["one", None])}, ["one"], [("a.parquet", 2, "missing")]),
    "parquet that is not utf-8": Kind({"a.parquet": not_utf8}, ["fine", "also"], [("a.parquet", 2, "not UTF-8")]),
    "parquet of dictionaries": Kind({"a.parquet": column(["one"], pa.dictionary(pa.int32(), pa.string()))}, ["one"]),
    "parquet of string views": Kind({"a.parquet": column(["one"], pa.string_view())}, ["one"]),
    "schemas that drift": Kind({"a.parquet": column(["one"]), "b.parquet": lambda path: parquet(path, pa.table({"id": [7], "text": pa.array(["two"], pa.large_string())})), "c.jsonl": jsonl("three", id=[1])}, ["one", "two", "three"]),
    "truncated arrow": Kind({"a.arrow": cut_arrow}, ["row 0 of an arrow file"], [("a.arrow", -1, "")], {"duplicate.exact": 2}),
    "a truncated arrow file": Kind({"a.arrow": b"ARROW1\0\0" + b"x" * 40}, bad=[("a.arrow", None, "")]),
    "no arrow at all": Kind({"a.arrow": b"nothing"}, bad=[("a.arrow", None, "")]),
    "cut json": Kind({"a.jsonl": b'{"text": "cut\n' + jsonl("one")}, ["one"], [("a.jsonl", 1, "not JSON")]),
    "json that is no object": Kind({"a.jsonl": b'[1]\n7\nnull\n"text"\n'}, bad=[("a.jsonl", 1, "a list"), ("a.jsonl", 2, "a int"), ("a.jsonl", 3, "NoneType"), ("a.jsonl", 4, "a str")]),
    "a key twice": Kind({"a.jsonl": b'{"text": "a", "license": "GPL", "license": "MIT"}\n'}, bad=[("a.jsonl", 1, "'license' appears twice")], licensed=True),
    "deep nesting": Kind({"a.jsonl": b'{"text": "a", "x": ' + b"[" * 200_000 + b"\n" + jsonl("one")}, ["one"], [("a.jsonl", 1, "not JSON")]),
    "control characters": Kind({"a.jsonl": b'{"text": "a \x01 b"}\n' + jsonl("one")}, ["one"], [("a.jsonl", 1, "control character")]),
    "endless numbers": Kind({"a.jsonl": b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n" + jsonl("one")}, ["one"], [("a.jsonl", 1, "not JSON")]),
    "texts that are no texts": Kind({"a.jsonl": jsonl(None, 5, ["x"], {"a": 1}, True) + jsonl("one")}, ["one"], [("a.jsonl", n, "not text") for n in range(1, 6)]),
    "a missing column": Kind({"a.jsonl": b'{"body": "x"}\n' + jsonl("one")}, ["one"], [("a.jsonl", 1, "no column 'text' (columns: body)")]),
    "carriage returns": Kind({"a.jsonl": jsonl("one").replace(b"\n", b"\r\n") + b"\r\n\r\n" + jsonl("two")}, ["one", "two"]),
    "no last newline": Kind({"a.jsonl": jsonl("one") + jsonl("two")[:-1]}, ["one", "two"]),
    "nothing but whitespace": Kind({"a.jsonl": jsonl("  \n\t", "one"), "b.py": b"\n\n"}, ["one"], dropped={"empty": 2}),
    "a file of nothing": Kind({"a.jsonl": b"", "b.py": b""}, dropped={"empty": 1}),
    "lists and NaN for licenses": Kind(
        {"a.jsonl": b"".join(b'{"text": "license %d", "license": %s}\n' % (n, raw) for n, raw in enumerate([b'["MIT", "ISC"]', b"NaN", b"[]", b"{}", b"[[null]]", b"17", b'[["MIT"]]', b'{"type": "MIT"}']))},
        ["license 0", "license 6", "license 7"], dropped={"license.missing": 3, "license.unknown": 2}, licensed=True,
    ),
    "empty ids and ids twice": Kind({"a.jsonl": b'{"text": "one", "id": ""}\n{"text": "two", "id": "7"}\n{"text": "three", "id": 7}\n{"text": "four", "id": NaN}\n'}, ["one", "two", "three", "four"]),
    "broken meta": Kind({"a.jsonl": jsonl("one", meta="{not json") + jsonl("two", meta=[1])}, ["one", "two"]),
    "glob characters in names": Kind({"a[1]*?{b}.jsonl": jsonl("one"), "[b]/**.py": b"value = 1\n"}, ["one", "value = 1"]),
    "a newline in a name": Kind({"a\nb.jsonl": b"{\n" + jsonl("one")}, ["one"], [("a\nb.jsonl", 1, "not JSON")]),
    "a name that is not utf-8": Kind({os.fsdecode(b"caf\xe9.py"): b"value = 1\n"}, ["value = 1"]),
    "a long name": Kind({"x" * 240 + ".py": b"value = 1\n"}, ["value = 1"]),
    "a colon in a name": Kind({"a:train:text.jsonl": jsonl("one")}, ["one"]),
    "a fifo": Kind({"a.py": os.mkfifo}, skipped=1),
    "a socket": Kind({"a.py": listening}, skipped=1),
    "a loop of links": Kind({"a.py": chain}, skipped=2),
    "a link to its own folder": Kind({"a": lambda path: path.symlink_to(path.parent)}, skipped=1),
    "a dangling link": Kind({"a.py": lambda path: path.symlink_to("nowhere.py")}, skipped=1),
    "a link to a file": Kind({"a.py": b"value = 1\n", "b.jsonl": lambda path: path.symlink_to("c/d"), "c/d": jsonl("one")}, ["value = 1", "one"], skipped=1),
    "links out of the folder": Kind({"a.py": lambda path: path.symlink_to("/etc/passwd"), "b.jsonl": beyond}, ["one"], skipped=1),
    "links out of a clone": Kind({".git/HEAD": b"ref: refs/heads/main\n", "a.py": b"value = 1\n", "b.jsonl": beyond}, ["value = 1"], skipped=2),
    "a folder named as a file": Kind({"a.jsonl/b.jsonl": jsonl("one")}, ["one"]),
    "a notebook": Kind({"a.ipynb": notebook(code_cell(["x = 1\n", "y = 2"]), code_cell("z = 3"))}, ["x = 1\ny = 2\n\nz = 3"]),
    "a notebook with a byte order mark": Kind({"a.ipynb": b"\xef\xbb\xbf" + notebook(code_cell("x = 1"))}, ["x = 1"]),
    "a notebook that is empty": Kind({"a.ipynb": notebook(), "b.ipynb": notebook(code_cell([])), "c.ipynb": b""}, bad=[("c.ipynb", None, "not a notebook: not JSON")], dropped={"empty": 2}),
    "a notebook that is cut": Kind({"a.ipynb": notebook(code_cell("x = 1"))[:-9]}, bad=[("a.ipynb", None, "not a notebook: not JSON")]),
    "a notebook that is a list": Kind({"a.ipynb": b"[]"}, bad=[("a.ipynb", None, "a list, not an object")]),
    "a notebook of another format": Kind({"a.ipynb": notebook(nbformat=2), "b.ipynb": b"{}", "c.ipynb": notebook(nbformat=[5])}, bad=[("a.ipynb", None, "nbformat is 2, not 3 or 4"), ("b.ipynb", None, "nbformat is None"), ("c.ipynb", None, "nbformat is [5]")]),
    "a notebook without its keys": Kind({"a.ipynb": b'{"nbformat": 4}', "b.ipynb": b'{"nbformat": 3}', "c.ipynb": notebook({"cell_type": "code"}), "d.ipynb": notebook({"source": "x"}), "e.ipynb": notebook("x")}, bad=[("a.ipynb", None, "no cells"), ("b.ipynb", None, "no worksheets"), ("c.ipynb", None, "cell 1 has no source"), ("d.ipynb", None, "cell 1 is neither"), ("e.ipynb", None, "cell 1 is neither")]),
    "a notebook whose source is no text": Kind({"a.ipynb": notebook(code_cell("x"), code_cell(["x", 5]))}, bad=[("a.ipynb", None, "cell 2 has no source")]),
    "a notebook with strange metadata": Kind({"a.ipynb": notebook(code_cell("x = 1"), metadata=[7]), "b.ipynb": notebook(code_cell("y = 2"), metadata={"kernelspec": {"name": ["r"]}, "language_info": 3})}, ["x = 1", "y = 2"]),
    "a notebook with nul": Kind({"a.ipynb": notebook(code_cell("x = 1\0")), "b.ipynb": notebook() + b"\0"}, bad=[("b.ipynb", None, "NUL")], dropped={"binary": 1}),
    "a notebook with a lone surrogate": Kind({"a.ipynb": notebook(code_cell("x = '\ud800'"))}, bad=[("a.ipynb", None, "lone surrogate")]),
    "a notebook nested too deep": Kind({"a.ipynb": b'{"nbformat": 4, "cells": ' + b"[" * 200_000}, bad=[("a.ipynb", None, "not a notebook: not JSON")]),
    "a notebook with endless numbers": Kind({"a.ipynb": b'{"nbformat": ' + b"9" * 5000 + b"}"}, bad=[("a.ipynb", None, "not a notebook: not JSON")]),
    "a notebook that is not utf-8": Kind({"a.ipynb": notebook(code_cell("x = 1")).replace(b"x", b"\xe9")}, bad=[("a.ipynb", 1, "not UTF-8")]),
    "an unknown kind": Kind({"a.JSONL": jsonl("x"), "b.bin": b"\0"}, skipped=2),
}  # fmt: skip


def build(folder: Path, kind: Kind) -> None:
    for name, content in kind.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content(path) if callable(content) else path.write_bytes(content)
    (folder / "zz.jsonl").write_bytes(jsonl("harmless neighbor"))


def texts_of(output: Path) -> Iterator[str]:
    for path in shard_paths(output):
        for row in read_rows(path, ["text"]):
            yield row["text"].removesuffix("\n")


def test_there_are_kinds_enough() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("name", KINDS)
def test_no_good_row_is_lost_and_every_bad_one_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, folder = KINDS[name], tmp_path / "hostile"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    build(folder, kind)
    assert main(["preprocess", "--dataset", f"{folder}:train:text", "--output-dir", str(tmp_path / "out")]) == 0
    assert "Traceback" not in capsys.readouterr().err
    counts = artifacts.verify(tmp_path / "out").counts
    found = set(texts_of(tmp_path / "out")) if counts["kept"] else set()
    assert {*kind.good, *(() if kind.licensed else ("harmless neighbor",))} <= found
    told = quarantined(tmp_path / "out")
    assert len(told) == len(kind.bad), told
    for row, (file, line, reason) in zip(told, kind.bad, strict=True):
        assert row["file"] == file
        assert row["line"] == line or (line == -1 and row["line"] != 0)
        assert reason in row["reason"]
        assert row["reason"]
    duplicates = {reason: count for reason, count in counts["dropped"].items() if not reason.startswith("duplicate")}
    wanted = {reason: count for reason, count in kind.dropped.items() if not reason.startswith("duplicate")}
    neighbor = {"license.missing": wanted.get("license.missing", 0) + 1} if kind.licensed else {}
    assert duplicates == wanted | neighbor
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values()) + counts["quarantined"]
    assert sum(counts["skipped_files"].values()) == kind.skipped


def test_a_line_of_100_mb_is_one_document(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    with (folder / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "' + b"words and words \\n" * 6_000_000 + b'"}\n' + jsonl("one"))
    assert main(["preprocess", "--dataset", f"{folder}:train:text", "--output-dir", str(tmp_path / "out")]) == 0
    assert list(texts_of(tmp_path / "out")) == ["one"]
    assert artifacts.load(tmp_path / "out").counts["dropped"] == {"filter.lines": 1}


def test_a_notebook_with_100_mb_of_output_is_its_cells(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    image = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo" * 9_500_000}}
    (folder / "a.ipynb").write_bytes(notebook(code_cell("x = 1") | {"outputs": [image]}))
    assert main(["preprocess", "--dataset", f"{folder}:train:text", "--output-dir", str(tmp_path / "out")]) == 0
    assert list(texts_of(tmp_path / "out")) == ["x = 1"]


@pytest.mark.slow
def test_a_million_tiny_documents(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    with (folder / "a.jsonl").open("wb") as file:
        for number in range(1_000_000):
            file.write(b'{"text": "v%d"}\n' % number)
    assert main(["preprocess", "--dataset", f"{folder}:train:text", "--output-dir", str(tmp_path / "out")]) == 0
    assert artifacts.load(tmp_path / "out").counts["kept"] == 1_000_000
