"""The certificate of a takedown has what an auditor asks first, as JSON, as a page, and signed."""

import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file

from ibidem import artifacts, signatures
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.filters.removals import load_requests
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.errors import ConfigError, SignatureError

CASE = {"ticket": "DSR-17", "received": "2025-01-31", "by": "Ann <Poe>", "basis": "GDPR Art. 17"}
PATHS = ["src/a.py", "src/b.py", "docs/<script>alert(1)</script>.py", "src/d.py"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    columns = {"text": [python_file(n) for n in range(4)], "id": ["d0", "d1", "d2", "d3"], "path": PATHS}
    pq.write_table(pa.table(columns | {"repo": ["octo/cat"] * 4}), tmp_path / "a.parquet")
    preprocess(PreprocessConfig(dataset=(f"{tmp_path / 'a.parquet'}:train:text",), output_dir=tmp_path / "data"))
    return tmp_path / "data"


def apply(data: Path, *requests: dict[str, Any], flags: tuple[str, ...] = (), command: str = "apply") -> int:
    path = data.parent / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return main(["takedown", command, str(path), "--dataset", str(data), *flags])


def statement(data: Path) -> dict[str, Any]:
    (path,) = data.parent.glob("data.takedown-*.json")
    (only,) = json.loads(path.read_text())
    return dict(only)


def predicate(data: Path) -> dict[str, Any]:
    return dict(statement(data)["predicate"])


def page(data: Path) -> str:
    (path,) = data.parent.glob("data.takedown-*.html")
    return path.read_text()


def test_a_certificate_says_when_who_for_whom_and_what(data: Path) -> None:
    assert apply(data, {"kind": "record", "value": "d1", **CASE}, flags=("--operator", "Bob")) == 0
    certificate = predicate(data)
    assert certificate["operator"] == "Bob"
    (request,) = certificate["requests"]
    assert {name: request[name] for name in CASE} == CASE
    (row,) = certificate["removed"]
    assert (row["record"], row["path"], row["repo"]) == ("d1", "src/b.py", "octo/cat")
    planned, done = (datetime.fromisoformat(certificate["volatile"][name]) for name in ("planned", "done"))
    assert planned <= done
    assert done.utcoffset() is not None


def test_what_nobody_stated_is_null(data: Path) -> None:
    assert apply(data, {"kind": "record", "value": "d1"}) == 0
    certificate = predicate(data)
    assert certificate["operator"] is None
    assert {name: certificate["requests"][0][name] for name in CASE} == dict.fromkeys(CASE)
    assert page(data).count("not stated") == 5


def test_only_the_times_of_a_certificate_differ_between_runs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = data.rename(data.with_name("kept"))
    written = []
    for second in (1, 2):
        at = f"2025-01-31T00:00:0{second}+00:00"
        for module in ("certificate", "takedown"):
            monkeypatch.setattr(f"ibidem.data.provenance.{module}.now", lambda at=at: at)
        copy(before, data)
        assert apply(data, {"kind": "record", "value": "d1", **CASE}) == 0
        certificate = statement(data)
        assert certificate["predicate"].pop("volatile") == {"planned": at, "done": at}
        written.append(certificate)
        for path in data.parent.glob("data.takedown-*"):
            path.unlink()
    assert written[0] == written[1]


def copy(old: Path, new: Path) -> None:
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(old, new)


def test_a_dataset_keeps_nothing_of_who_asked(data: Path) -> None:
    assert apply(data, {"kind": "record", "value": "d1", **CASE}, flags=("--operator", "Bob")) == 0
    first = artifacts.load(data).digest
    content = (data / shards.REMOVALS).read_text() + (data / artifacts.MANIFEST).read_text()
    assert not [value for value in (*CASE.values(), "Bob") if value in content]
    (data.parent / "plain.jsonl").write_text('{"kind": "record", "value": "d1"}\n')
    preprocess(
        PreprocessConfig(
            dataset=(f"{data.parent / 'a.parquet'}:train:text",),
            output_dir=data.parent / "asked",
            removals={"requests": (data.parent / "plain.jsonl",)},
        )
    )
    assert artifacts.load(data.parent / "asked").digest == first


def test_a_certificate_given_again_keeps_date_ticket_and_operator(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert apply(data, {"kind": "record", "value": "d1", **CASE}, flags=("--operator", "Bob")) == 0
    first = predicate(data)
    monkeypatch.setattr("ibidem.data.provenance.certificate.now", lambda: "2099-01-01T00:00:00+00:00")
    assert apply(data, {"kind": "record", "value": "d1"}) == 0
    assert predicate(data) == first
    again = {"kind": "record", "value": "d1", "ticket": "DSR-18", "by": "Ann <Poe>"}
    assert apply(data, again, flags=("--operator", "Cid")) == 0
    assert predicate(data)["operator"] == "Bob; Cid"
    assert predicate(data)["requests"][0]["ticket"] == "DSR-17; DSR-18"
    assert predicate(data)["requests"][0]["by"] == "Ann <Poe>"
    assert predicate(data)["volatile"] == first["volatile"]


def test_a_planned_certificate_does_not_say_that_anything_was_removed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ibidem.data.provenance.takedown.apply", fail)
        assert apply(data, {"kind": "record", "value": "d1"}) == 2
    certificate = predicate(data)
    assert certificate["state"] == "planned"
    assert certificate["volatile"]["done"] is None
    for text in (certificate["statement"], page(data)):
        assert "were removed" not in text
        assert "planned" in text
        assert "not unlearned" in text
    assert apply(data, {"kind": "record", "value": "d1"}) == 0
    assert predicate(data)["statement"].startswith("The documents listed here were removed from the dataset.")
    assert predicate(data)["volatile"]["planned"] == certificate["volatile"]["planned"]
    assert "1 document was removed." in page(data)


def test_a_certificate_of_nothing_says_so(data: Path) -> None:
    assert apply(data, {"kind": "record", "value": "d9"}, flags=("--allow-unmatched",)) == 0
    assert predicate(data)["statement"].startswith("Nothing had to be removed")
    assert "matches nothing" in page(data)


def test_the_page_has_what_the_certificate_has_and_needs_nothing_else(data: Path) -> None:
    requests = [{"kind": "path", "value": "docs", **CASE}, {"kind": "record", "value": "d9"}]
    assert apply(data, *requests, flags=("--operator", "Bob & Co", "--allow-unmatched")) == 0
    text = page(data)
    (row,) = predicate(data)["removed"]
    for shown in ("DSR-17", "2025-01-31", "Ann &lt;Poe&gt;", "GDPR Art. 17", "Bob &amp; Co", "d2", row["sha256"][:16]):
        assert shown in text
    assert "<script>alert(1)</script>" in row["path"]
    assert "<script" not in text
    assert "docs/&lt;script&gt;alert(1)&lt;/script&gt;.py" in text
    assert predicate(data)["volatile"]["done"] in text
    assert "1 document removed" in text
    assert "matches nothing" in text
    assert not re.search(r"https?://|src=|@import", text)


def test_a_page_or_a_signature_that_is_there_is_not_lost(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "c.html").write_text("my page")
    digest = artifacts.load(data).digest
    request = {"kind": "record", "value": "d1"}
    assert apply(data, request, flags=("--certificate", str(data.parent / "c.json"))) == 2
    assert "is not a page of ibidem" in capsys.readouterr().err
    assert apply(data, request, flags=("--certificate", str(data.parent / "new.html"))) == 2
    assert (data.parent / "c.html").read_text() == "my page"
    assert artifacts.load(data).digest == digest


def test_a_certificate_is_signed_statement_by_statement(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {name: signatures.create_key(data.parent / name) for name in ("one.key", "two.key", "three.key")}
    requests = ({"kind": "record", "value": "d1"},)
    assert apply(data, *requests, flags=("--sign-with", str(data.parent / "nowhere.key"))) == 2
    assert not list(data.parent.glob("data.takedown-*"))
    for name, signers in (("one.key", 1), ("two.key", 2)):
        assert apply(data, *requests, flags=("--sign-with", str(data.parent / name))) == 0
        (path,) = data.parent.glob("data.takedown-*.intoto.jsonl")
        (envelope,) = map(json.loads, path.read_text().splitlines())
        payload, signed = signatures.verify(envelope, list(keys.values()))
        assert payload == statement(data)
        assert len(signed) == signers
    with pytest.raises(SignatureError):
        signatures.verify(envelope, [keys["three.key"]])
    capsys.readouterr()
    assert apply(data, *requests) == 2
    assert "is signed; give --sign-with" in capsys.readouterr().err
    path.write_text("{")
    assert apply(data, *requests, flags=("--sign-with", str(data.parent / "one.key"))) == 2
    assert f"{path}: damaged" in capsys.readouterr().err


def test_a_changed_statement_is_signed_anew(data: Path) -> None:
    key = signatures.create_key(data.parent / "key")
    flags = ("--sign-with", str(data.parent / "key"))
    assert apply(data, {"kind": "record", "value": "d1"}, flags=flags) == 0
    assert apply(data, {"kind": "record", "value": "d1", "ticket": "T-1"}, flags=flags) == 0
    (path,) = data.parent.glob("data.takedown-*.intoto.jsonl")
    (envelope,) = map(json.loads, path.read_text().splitlines())
    assert signatures.verify(envelope, [key])[0] == statement(data)


def test_the_same_request_of_two_people_keeps_both(tmp_path: Path) -> None:
    rows = [{"kind": "repo", "value": "a/b", "ticket": ticket, "by": by} for ticket, by in ((17, "Ann"), (18, "Bob"))]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (request,) = load_requests([tmp_path / "r.jsonl"])
    assert request.case == {"ticket": "17; 18", "by": "Ann; Bob"}


def test_dates_of_yaml_are_dates(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- {kind: repo, value: a/b, received: 2025-01-31, ticket: 17}\n")
    (request,) = load_requests([tmp_path / "r.yaml"])
    assert request.case == {"ticket": "17", "received": "2025-01-31"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"received": "31.1.2025"}, "received must be a date, such as 2025-01-31"),
        ({"by": ["Ann"]}, "by must be one line of text"),
        ({"basis": "a\nb"}, "basis must be one line of text"),
        ({"ticket": True}, "ticket must be one line of text"),
        ({"tiket": "T-1"}, "unknown key 'tiket'; did you mean ticket?"),
    ],
)
def test_what_is_said_of_a_request_is_checked(more: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"kind": "repo", "value": "a/b", **more}) + "\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_requests([tmp_path / "r.jsonl"])


def test_a_request_that_matches_nothing_is_told_with_its_ticket(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(data, {"kind": "repo", "value": "octo/caat", **CASE}, command="plan") == 2
    told = f"repo octo/caat (ticket DSR-17): matches nothing in {data}; did you mean repo octo/cat?"
    assert told in capsys.readouterr().out
