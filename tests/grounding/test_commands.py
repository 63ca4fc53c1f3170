"""The commands as a user types them, on a small folder of documents."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.grounding.corpus import ACL, CANARIES, write_documents

from ibidem.cli import main
from ibidem.grounding import terms

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type the commands in a folder with documents and rules."""
    write_documents(tmp_path / "docs")
    (tmp_path / "acl.yaml").write_text(ACL)
    monkeypatch.chdir(tmp_path)


INDEX = ["ground", "index", "--docs", "docs", "--acl", "acl.yaml", "--output-dir", "artifacts/index"]
ASKED = ["--index", "artifacts/index", "--principal"]


def typed(capsys: Captured, *words: str, code: int = 0) -> str:
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_from_a_folder_to_a_checked_answer(capsys: Captured) -> None:
    assert typed(capsys, *INDEX).startswith("index: 5 documents, 3 access classes; artifacts/index")
    asked = typed(capsys, "ground", "ask", *ASKED, "ada", "--question", "How long is the notice period in probation?")
    assert "During probation it is two weeks. [1]" in asked
    assert "[1] handbook/notice.md, Notice" in asked
    found = json.loads(typed(capsys, "ground", "search", *ASKED, "hr", "--query", "quokka", "--json"))
    assert found[0]["path"] == "salaries/march.md"
    assert "9137" in typed(capsys, "ground", "show", found[0]["chunk"], *ASKED, "hr")
    denial = typed(capsys, "ground", "show", found[0]["chunk"], *ASKED, "contractor-1", code=2)
    assert "no such chunk, or contractor-1 may not read it" in denial
    assert "verif" in typed(capsys, "audit", "head", "--index", "artifacts/index", "--output", "monday.head").lower()
    typed(capsys, "audit", "verify", "--index", "artifacts/index", "--head", "monday.head")


def test_a_document_that_is_forgotten_is_in_no_file_and_does_not_come_back(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    questions = [{"id": "1", "question": "How much is the quokka allowance?", "answers": ["9137"]}]
    Path("questions.jsonl").write_text(json.dumps(questions[0]) + "\n")
    evaluate = ["evaluate", "doc-qa", *ASKED, "hr", "--data", "questions.jsonl", "--output-dir", "artifacts/doc-qa"]
    typed(capsys, *evaluate)
    said = typed(capsys, "ground", "forget", "salaries", "--index", "artifacts/index")
    assert "forgotten: 1 document" in said
    assert "evaluation artifacts/doc-qa" in said
    assert "saw" in said
    for again in ([], INDEX):
        if again:
            typed(capsys, *again)
        assert json.loads(typed(capsys, "ground", "search", *ASKED, "hr", "--query", "quokka", "--json")) == []
    typed(capsys, "ground", "forget", "salaries", "--index", "artifacts/index", "--readmit")
    typed(capsys, *INDEX)
    assert typed(capsys, "ground", "search", *ASKED, "hr", "--query", "quokka").startswith("1. salaries/march.md")


def test_forgetting_says_where_it_looked_for_what_was_made(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    said = typed(capsys, "ground", "forget", "salaries", "--index", "artifacts/index", "--artifacts", "elsewhere")
    assert "not searched: elsewhere: no such folder; name the folders of artifacts with --artifacts" in said


def test_an_empty_name_is_no_principal(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    assert main(["ground", "search", *ASKED, "", "--query", "notice"]) == 2
    assert "principal" in capsys.readouterr().err


def test_what_is_forgotten_is_not_counted_as_indexed(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    typed(capsys, "ground", "forget", "salaries", "--index", "artifacts/index")
    said = typed(capsys, *INDEX)
    assert said.startswith("index: 4 documents, 2 access classes; artifacts/index")
    assert "  1 forgotten document left out" in said
    with sqlite3.connect("artifacts/index.audit/audit.sqlite") as database:
        (event,) = database.execute("SELECT event FROM events ORDER BY number DESC LIMIT 1").fetchone()
    assert json.loads(event)["documents"] == 4


def test_a_file_that_could_not_be_read_can_be_forgotten(capsys: Captured) -> None:
    Path("docs/handbook/broken.pdf").write_bytes(b"%PDF-1.4 broken")
    assert "broken.pdf" in typed(capsys, *INDEX)
    said = typed(capsys, "ground", "forget", "handbook/broken.pdf", "--index", "artifacts/index")
    assert "forgotten: 1 document" in said


def test_what_is_not_there_to_forget_is_an_answer_not_an_error(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    assert main(["ground", "forget", "nothing.md", "--index", "artifacts/index"]) == 1
    assert "holds no document there" in capsys.readouterr().out


def test_a_changed_document_is_found_as_it_is_after_the_next_indexing(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    Path("docs/handbook/notice.md").write_text("# Notice\n\nThe notice period is eleven weeks.")
    typed(capsys, *INDEX)
    asked = typed(capsys, "ground", "ask", *ASKED, "ada", "--question", "How long is the notice period?")
    assert "eleven weeks" in asked
    assert "six weeks" not in asked


def test_a_dry_run_says_what_the_rules_mean_and_writes_nothing(capsys: Captured) -> None:
    Path("acl.yaml").write_text(ACL.replace("engineering/**", "enginering/**"))
    said = typed(capsys, *INDEX, "--dry-run")
    assert "documents  5 in 3 access classes" in said
    assert "'enginering/**' matches no document" in said
    assert "1 document that no rule lets anybody read" in said
    assert not Path("artifacts").exists()


def test_rules_that_match_nothing_are_said_and_do_not_stop_the_indexing(capsys: Captured) -> None:
    Path("acl.yaml").write_text(ACL.replace("engineering/**", "enginering/**"))
    assert main(INDEX) == 0
    assert "matches no document" in capsys.readouterr().err


def test_the_rules_in_the_documents_folder_are_not_indexed(capsys: Captured) -> None:
    Path("docs/acl.yaml").write_text(ACL + '  - {path: "**", read: [everyone]}\n')
    typed(capsys, *INDEX[:4], "--acl", "docs/acl.yaml", *INDEX[6:])
    for query in ("groups", "contractor-1", "rules path deny"):
        found = typed(capsys, "ground", "search", *ASKED, "ada", "--query", query, "--json")
        assert "acl.yaml" not in found
    assert "documents  5 in" in typed(capsys, *INDEX[:4], "--acl", "docs/acl.yaml", *INDEX[6:], "--dry-run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output-dir", "docs/index"], "inside one another"),
        ([], "give either --output-dir, a folder, or --store, a database"),
        (["--output-dir", "i", "--audit", "docs"], "inside one another"),
        (["--output-dir", "i", "--key", "docs/key"], "inside one another"),
    ],
)
def test_places_that_would_index_the_index_are_refused(words: list[str], said: str, capsys: Captured) -> None:
    err = typed(capsys, *INDEX[:6], *words, code=2)
    assert said in err
    assert err.count("\n") == 1


def test_a_process_that_reads_only_what_it_prints_sees_no_forbidden_word(capsys: Captured) -> None:
    """Logs included: everything that the process writes outside the index, which holds the documents."""
    typed(capsys, *INDEX)
    script = [sys.executable, "-m", "ibidem", "ground", "ask", *ASKED, "contractor-1", "--log-format", "json"]
    done = subprocess.run(
        [*script, "--question", "Which allowance does the team have a month?"],
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout + done.stderr
    said += "".join(path.read_bytes().decode("latin-1") for path in Path("artifacts/index.audit").iterdir())
    assert not any(word in said.lower() for word in CANARIES)


def test_an_indexing_without_changes_leaves_the_index_as_it_is(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    manifest = Path("artifacts/index/manifest.json")
    before = manifest.stat()
    typed(capsys, *INDEX)
    assert (manifest.stat().st_mtime_ns, manifest.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    Path("docs/handbook/notice.md").write_text("# Notice\n\nNo notice is needed.")
    typed(capsys, *INDEX)
    assert manifest.stat().st_ino != before.st_ino


def test_without_a_model_nothing_heavy_is_imported() -> None:
    code = "import sys, ibidem.grounding.ask; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_index_with_vectors_is_searched_by_the_model_that_made_them(
    capsys: Captured, checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    typed(capsys, *INDEX, "--encoder", str(model))
    search = ["ground", "search", *ASKED, "hr", "--query", "quokka", "--json"]
    found = json.loads(typed(capsys, *search))
    assert found[0]["path"] == "salaries/march.md"
    model.rename(tmp_path / "moved")
    assert f"is not at {model}; give it with --encoder" in typed(capsys, *search, code=2)
    assert json.loads(typed(capsys, *search, "--encoder", str(tmp_path / "moved"))) == found
    assert "the index has vectors; give its encoder" in typed(capsys, *INDEX, code=2)


def test_an_index_without_vectors_takes_no_encoder(capsys: Captured, checkpoint: Path) -> None:
    typed(capsys, *INDEX)
    search = ["ground", "search", *ASKED, "hr", "--query", "quokka", "--encoder", str(checkpoint)]
    assert "the index has no vectors; leave --encoder out" in typed(capsys, *search, code=2)


def test_an_index_of_another_version_is_made_again(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(capsys, *INDEX)
    monkeypatch.setattr("ibidem.grounding.terms.VERSION", terms.VERSION + 1)
    search = ["ground", "search", *ASKED, "hr", "--query", "quokka"]
    assert "made by another version of this program; index the documents again" in typed(capsys, *search, code=2)
    typed(capsys, *INDEX)
    assert "salaries/march.md" in typed(capsys, *search)


def test_a_dry_run_says_nothing_about_documents_that_nobody_sees(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    search = ["ground", "search", *ASKED, "ada", "--query", "notice", "--dry-run"]
    before = typed(capsys, *search)
    assert "artifacts/index" in before
    Path("docs/salaries/may.md").write_text("The quokka allowance is 9138.\n")
    typed(capsys, *INDEX)
    assert typed(capsys, *search) == before


class Database:
    """A store on a server, as far as the commands use it."""

    open_now = 0
    digest = "sha256:0"

    def __init__(self, *_: object, **__: object) -> None:
        Database.open_now += 1
        self.config = {"terms": terms.VERSION, "encoder": None, "acl": str(Path("acl.yaml").resolve())}

    @classmethod
    def open(cls, *_: object) -> "Database":
        return cls()

    def search(self, *_: object) -> list[object]:
        return []

    def update(self, documents: Iterable[object], *_: object, **__: object) -> list[str]:
        list(documents)
        return []

    def forget(self, _: str) -> int:
        return 1

    def close(self) -> None:
        Database.open_now -= 1


def test_no_command_leaves_a_connection_to_a_database_open(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("ibidem.grounding.postgres.PostgresStore", Database)
    store = ["--store", "postgresql://a@b/c", "--audit", "audit"]
    typed(capsys, "ground", "index", "--docs", "docs", "--acl", "acl.yaml", *store)
    assert Database.open_now == 0
    typed(capsys, "ground", "search", *store, "--principal", "ada", "--query", "leave")
    assert Database.open_now == 0
    said = typed(capsys, "ground", "forget", "handbook", *store)
    assert Database.open_now == 0
    assert "write-ahead log" in said
    assert "every file" not in said
    monkeypatch.setattr(Database, "search", None)
    with pytest.raises(TypeError):
        main(["ground", "search", *store, "--principal", "ada", "--query", "leave"])
    assert Database.open_now == 0


def test_only_its_owner_may_open_an_index_unless_its_mode_is_changed(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    index = Path("artifacts/index")
    assert index.stat().st_mode & 0o777 == 0o700
    index.chmod(0o750)
    Path("docs/handbook/more.md").write_text("# More\n\nThere is more.\n")
    typed(capsys, *INDEX)
    assert index.stat().st_mode & 0o777 == 0o750


def test_an_emptied_folder_does_not_replace_an_index(capsys: Captured) -> None:
    typed(capsys, *INDEX)
    Path("docs").rename("elsewhere")
    Path("docs").mkdir()
    assert "no documents there; is it the right folder, and mounted?" in typed(capsys, *INDEX, code=2)
    assert "Notice" in typed(capsys, "ground", "search", *ASKED, "ada", "--query", "notice")
