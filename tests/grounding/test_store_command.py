"""The commands on a PostgreSQL server: the writer indexes and forgets, the reader searches."""

import json
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.grounding.corpus import ACL, CANARIES, write_documents
from tests.grounding.postgres_server import Server

from ibidem.cli import main
from ibidem.grounding import postgres_sql as sql


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(list(words))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_a_database_answers_as_a_folder_does(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_documents(tmp_path / "docs")
    (tmp_path / "acl.yaml").write_text(ACL)
    writer, reader = (server.address(role, "commands") for role in ("ibidem_writer", "ibidem_app"))
    index = ["ground", "index", "--docs", "docs", "--acl", "acl.yaml"]
    typed(capsys, *index, "--output-dir", "index")
    typed(capsys, *index, "--store", writer, "--audit", "audit")
    places = (["--index", "index"], ["--store", reader, "--audit", "audit"])
    for principal in ("ada", "hr", "contractor-1"):
        for command in (
            ["ask", "--question", "How long is the notice period in probation?"],
            ["ask", "--question", "How much is the quokka allowance?"],
            ["search", "--query", "allowance of the team"],
        ):
            one, other = (
                json.loads(typed(capsys, "ground", *command, *place, "--principal", principal, "--json"))
                for place in places
            )
            if command[0] == "search":
                assert [row["chunk"] for row in one] == [row["chunk"] for row in other]
            else:
                assert one == other
            assert principal == "hr" or not any(
                word in json.dumps(other["answer"] if command[0] == "ask" else other) for word in CANARIES
            )
    assert "forgotten: 1 document" in typed(
        capsys, "ground", "forget", "salaries", "--store", writer, "--audit", "audit"
    )
    found = typed(capsys, "ground", "search", *places[1], "--principal", "hr", "--query", "quokka", "--json")
    assert json.loads(found) == []


def test_a_store_needs_a_place_for_its_log(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ground", "search", "--store", server.address("ibidem_app"), "--principal", "a", "--query", "b"]
    assert main(words) == 2
    assert "--audit" in capsys.readouterr().err


def test_the_page_prepares_a_server_as_the_store_needs_it() -> None:
    page = (REPOSITORY / "docs" / "documents.md").read_text()
    for statement in f"{sql.ROLES};{sql.DATABASE};{sql.EXTENSION}".split(";"):
        assert statement.strip() in page
