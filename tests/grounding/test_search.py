import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.grounding.corpus import ACL, CANARIES, DOCUMENTS, make_index

from ibidem import artifacts
from ibidem.cli import main
from ibidem.errors import AccessDenied, AuditError, ConfigError
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.audit.log import FILE, AuditLog
from ibidem.grounding.config import GroundSearchConfig, GroundShowConfig, IndexChoice
from ibidem.grounding.index import Index
from ibidem.grounding.opening import opened
from ibidem.grounding.retrieve import CHANGED, Retriever
from ibidem.grounding.search import found, show
from ibidem.grounding.store import Hit, Rules, Store
from ibidem.signatures import secret_key


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path)


def events(index: Path) -> list[dict]:
    with sqlite3.connect(f"{index}.audit/{FILE}") as database:
        return [json.loads(row) for (row,) in database.execute("SELECT event FROM events ORDER BY number")]


def hits(index: Path, principal: str, query: str, k: int = 10) -> list[Hit]:
    return found(GroundSearchConfig(index=index, principal=principal, query=query, k=k))


def test_a_principal_finds_what_they_may_read_and_nothing_else(index: Path) -> None:
    assert [hit.chunk.path for hit in hits(index, "dev-1", "rollback release")] == ["engineering/deploy.md"]
    assert hits(index, "intern", "rollback release") == []
    assert [hit.chunk.path for hit in hits(index, "hr", "quokka allowance")] == ["salaries/march.md"]
    assert hits(index, "contractor-1", "quokka allowance") == []


def test_the_query_and_the_shown_chunks_are_recorded_without_text(index: Path) -> None:
    shown = hits(index, "hr", "quokka allowance")
    event = events(index)[-1]
    assert event["kind"] == "query"
    assert event["principal"] == "hr"
    assert event["chunks"] == [hit.chunk.id for hit in shown]
    assert event["store"] == artifacts.load(index).digest
    assert len(event["query"]) == 64
    assert not any(word in json.dumps(events(index)) for word in CANARIES)


class Failing(AuditLog):
    """A log that cannot be written to."""

    def record(self, kind: str, principal: str | None = None, **fields: object) -> int:
        raise AuditError("no space left")


def test_without_the_record_nothing_is_returned(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ibidem.grounding.opening.AuditLog", Failing)
    chunk = "0" * 32
    for command in (
        ["search", "--query", "notice period"],
        ["ask", "--question", "How long is the notice period?"],
        ["show", chunk],
    ):
        assert main(["ground", *command, "--index", str(index), "--principal", "ada"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "no space left" in err


class Changing:
    """Rules that change while a query runs, as often as there are further texts."""

    def __init__(self, file: Path, texts: Iterator[str]) -> None:
        self._file, self._texts = file, texts
        self._permissions = YamlPermissions(file)

    def current(self) -> Rules:
        return self._permissions.current()

    def holds(self, rules: Rules, paths: Iterable[str]) -> bool:
        if (text := next(self._texts, None)) is not None:
            os.utime(self._file, (0, 0))
            self._file.write_text(text)
        return self._permissions.holds(rules, paths)


REVOKED = ACL.replace("read: [hr], deny: [contractor-1]", "read: [board]")
OTHER = ACL.replace("dev-2", "dev-3")


def search_while(index: Path, *texts: str) -> list[Hit]:
    with opened(IndexChoice(index=index)) as retriever:
        permissions = Changing(index.parent / "acl.yaml", iter(texts))
        changing = Retriever(retriever.store, permissions, retriever.audit)
        return changing.search("quokka allowance", "hr", 5)


def test_rights_that_are_lost_in_mid_query_are_lost_in_this_query(index: Path) -> None:
    assert [hit.chunk.path for hit in search_while(index)] == ["salaries/march.md"]
    assert [hit.chunk.path for hit in search_while(index, REVOKED)] == []


def test_rules_that_change_again_and_again_are_a_denial_that_is_recorded(index: Path) -> None:
    with pytest.raises(AccessDenied, match=CHANGED):
        search_while(index, REVOKED, OTHER)
    assert events(index)[-1]["kind"] == "denied"


def test_an_index_that_changes_in_mid_query_is_searched_again(index: Path) -> None:
    """The record names the index of the passages that are shown."""
    changes = iter([{"handbook/leave.md"}])

    class Moving:
        def __init__(self, store: Store) -> None:
            self._store = store

        @property
        def digest(self) -> str:
            return self._store.digest

        def search(self, *about: object) -> list[Hit]:
            hits = self._store.search(*about)
            for path in next(changes, ()):
                Index.open(index, secret_key(None)).forget(path)
            return hits

    with opened(IndexChoice(index=index)) as retriever:
        moving = Retriever(Moving(retriever.store), retriever.permissions, retriever.audit)
        shown = moving.search("days of paid leave", "ada", 10)
    assert "handbook/leave.md" not in {hit.chunk.path for hit in shown}
    assert events(index)[-1]["store"] == artifacts.load(index).digest


def test_the_record_holds_the_rules_as_a_keyed_hash(index: Path) -> None:
    """The version is a hash of the rules, from which a reader of the log could confirm a guess of them."""
    hits(index, "ada", "notice period")
    version = YamlPermissions(index.parent / "acl.yaml").current().version
    with AuditLog(Path(f"{index}.audit"), secret_key(None)) as log:
        assert events(index)[-1]["rules"] == log.keyed(version)
    assert version not in json.dumps(events(index))


@pytest.mark.parametrize("command", [["search", "--query", "x"], ["show", "0" * 32], ["ask", "--question", "x"]])
def test_a_key_that_is_not_there_is_not_created_by_a_question(
    command: list[str], index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "typo.key"
    assert main(["ground", *command, "--index", str(index), "--principal", "ada", "--key", str(key)]) == 2
    assert "no such key" in capsys.readouterr().err
    assert main(["ground", "forget", "x.md", "--index", str(index), "--key", str(key)]) == 2
    assert "no such key" in capsys.readouterr().err
    assert not key.exists()


def test_rules_that_become_unreadable_close_everything(index: Path) -> None:
    (index.parent / "acl.yaml").write_text("rules: [")
    with pytest.raises(ConfigError):
        hits(index, "ada", "notice period")


def test_rights_that_are_granted_count_at_the_next_query(index: Path) -> None:
    assert hits(index, "ada", "quokka allowance") == []
    (index.parent / "acl.yaml").write_text(ACL.replace("read: [hr]", "read: [hr, ada]"))
    assert [hit.chunk.path for hit in hits(index, "ada", "quokka allowance")] == ["salaries/march.md"]


def test_a_hit_of_a_store_that_ignores_the_rules_is_never_shown(index: Path) -> None:
    forbidden = hits(index, "hr", "quokka allowance")

    class Careless:
        digest = "sha256:0"

        def search(self, *_: object) -> list[Hit]:
            return forbidden

    with opened(IndexChoice(index=index)) as retriever:
        careless = Retriever(Careless(), retriever.permissions, retriever.audit)
        with pytest.raises(AccessDenied):
            careless.search("quokka", "ada", 5)


def test_unknown_and_forbidden_chunks_look_alike_and_are_recorded(index: Path) -> None:
    forbidden = hits(index, "hr", "quokka allowance")[0].chunk.id
    said = []
    for chunk in (forbidden, "0" * 32):
        with pytest.raises(AccessDenied) as denial:
            show(GroundShowConfig(index=index, principal="ada", chunk=chunk))
        said.append(str(denial.value).replace(chunk, "ID"))
    assert said[0] == said[1]
    one, two = events(index)[-2:]
    assert one["kind"] == two["kind"] == "denied"
    assert one.keys() == two.keys()


def test_a_permitted_chunk_is_opened(index: Path) -> None:
    chunk = hits(index, "ada", "notice period")[0].chunk
    text = show(GroundShowConfig(index=index, principal="ada", chunk=chunk.id))
    assert text.endswith(chunk.text)
    assert "handbook/notice.md, Notice" in text
    assert events(index)[-1]["chunks"] == [chunk.id]


def test_what_a_principal_sees_is_what_an_index_without_the_forbidden_document_shows(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    other = make_index(tmp_path / "other", without="salaries/march.md")
    for query in (*CANARIES, "allowance of the team a month", "notice period", "days of leave"):
        seen = []
        for each in (index, other):
            for command in (["search", "--query", query], ["ask", "--question", query]):
                for form in ([], ["--json"]):
                    words = ["ground", *command, "--index", str(each), "--principal", "ada", *form]
                    seen.append((main(words), *capsys.readouterr()))
        assert seen[:4] == seen[4:]


@pytest.mark.parametrize(
    "question", ["quokka", "What is the quokka allowance of the marsupial team?", "9137 shillings"]
)
def test_words_of_a_forbidden_document_are_nowhere(
    question: str, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the question itself, or the id, comes back, as the asker typed it."""
    common = ["--index", str(index), "--principal", "contractor-1"]
    for command in (["search", "--query", question], ["ask", "--question", question], ["show", "quokka"]):
        for form in ([], ["--json"]) if command[0] != "show" else ([],):
            main(["ground", *command, *common, *form])
            out, err = capsys.readouterr()
            said = (out + err).replace(command[-1], "").lower()
            assert not any(word in said for word in CANARIES)
    assert not any(word in json.dumps(events(index)).lower() for word in CANARIES)


def test_json_has_what_a_program_needs(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ground", "search", "--index", str(index), "--principal", "ada", "--query", "notice period", "--json"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert list(row) == ["chunk", "path", "title", "span", "score", "text"]
    start, end = row["span"]
    assert DOCUMENTS[row["path"]][start:end] == row["text"]


def test_an_index_of_another_key_is_refused_in_one_line(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ground", "search", "--index", str(index), "--principal", "ada", "--query", "x"]
    assert main([*words, "--key", str(tmp_path / "other.key")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_document_does_not_control_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "# Leave\n\nEvery employee has \x1b[2J 30 days of leave."
    monkeypatch.setitem(DOCUMENTS, "handbook/leave.md", text)
    index = make_index(tmp_path)
    for command in (["search", "--query", "days of leave"], ["ask", "--question", "How many days of leave?"]):
        assert main(["ground", *command, "--index", str(index), "--principal", "ada"]) == 0
        out = capsys.readouterr().out
        assert "30 days" in out
        assert "\x1b" not in out
