"""The audit log: nothing recorded is lost, and no change to it escapes one head that was kept elsewhere."""

import base64
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ibidem.config import parse
from ibidem.errors import AuditError, ConfigError, IbidemError, SignatureError
from ibidem.grounding.audit import head as heads
from ibidem.grounding.audit import log, merkle
from ibidem.grounding.audit.commands import head_command, list_command, prove_command, verify_command
from ibidem.grounding.audit.log import AuditLog, folder_beside
from ibidem.grounding.audit.verify import check
from ibidem.grounding.config import AuditHeadConfig, AuditListConfig, AuditProveConfig, AuditVerifyConfig
from ibidem.signatures import create_key

KEY = bytes(range(32))
KILLS = 4


def record(folder: Path, count: int, *, of: str = "dev-1") -> None:
    with AuditLog(folder, KEY) as audit:
        for number in range(count):
            audit.record("query", of, query=audit.keyed(f"salary of {number}"), chunks=["ab" * 16])


def verify(*words: object) -> str:
    return verify_command(parse(AuditVerifyConfig, list(map(str, words))))


def sign(*words: object) -> str:
    return head_command(parse(AuditHeadConfig, list(map(str, words))))


def prove(*words: object) -> str:
    return prove_command(parse(AuditProveConfig, list(map(str, words))))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "index.audit"


@pytest.fixture
def file(folder: Path) -> Path:
    return folder / log.FILE


# --- what is recorded


def test_events_are_numbered_and_hold_keyed_hashes_instead_of_texts(folder: Path, file: Path) -> None:
    with AuditLog(folder, KEY) as audit, AuditLog(folder, b"other" * 7) as other:
        assert audit.record("index", documents=3) == 0
        assert audit.record("query", "dev-1", query=audit.keyed("salaries"), chunks=["a", "b"]) == 1
        assert audit.keyed("salaries") != other.keyed("salaries")
        assert other.record("denied", "dev-2") == 2
    with log.reading(folder) as database:
        events = [json.loads(log.event_of(database, number)) for number in range(log.size_of(database))]
    assert [(each["number"], each["kind"], each.get("principal")) for each in events] == [
        (0, "index", None),
        (1, "query", "dev-1"),
        (2, "denied", "dev-2"),
    ]
    assert events[1]["chunks"] == ["a", "b"]
    assert abs(events[1]["time"] - time.time()) < 60
    assert b"salaries" not in file.read_bytes()


def test_a_name_that_is_no_unicode_is_recorded_too(folder: Path) -> None:
    with AuditLog(folder, KEY) as audit:
        audit.record("query", "caf\udce9\0\n\u2028", query=audit.keyed("\udcff"))
    assert "1 event," in verify("--audit", folder)


def test_the_log_is_for_its_owner_alone_and_each_commit_is_on_disk(folder: Path) -> None:
    before = os.umask(0)
    try:
        audit = AuditLog(folder, KEY)
    finally:
        os.umask(before)
    with audit:
        audit.record("query")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
        assert audit._database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert audit._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("table", ["about", "events", "subtrees"])
def test_rows_are_neither_changed_nor_deleted(folder: Path, file: Path, table: str) -> None:
    record(folder, 3)
    with sqlite3.connect(file) as database:
        for change in (f"DELETE FROM {table}", f"UPDATE {table} SET rowid = 7" if table == "events" else ""):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(change or f"UPDATE {table} SET {'value' if table == 'about' else 'hash'} = 7")
    database.close()
    assert "3 events" in verify("--audit", folder)


def test_an_append_stores_two_rows_on_average(folder: Path) -> None:
    record(folder, 100)
    with log.reading(folder) as database:
        assert database.execute("SELECT count(*) FROM subtrees").fetchone()[0] == 100 - (100).bit_count()


# --- writers


def test_writers_at_once_leave_one_log(folder: Path) -> None:
    """Processes that all may have to create it, each with threads."""
    program = """
import os, sys, threading
from pathlib import Path
from ibidem.grounding.audit.log import AuditLog
with AuditLog(Path(sys.argv[1]), bytes(32)) as audit:
    def work():
        for _ in range(10):
            os.write(1, b"%d\\n" % audit.record("query", sys.argv[2]))  # print can lose lines of threads
    threads = [threading.Thread(target=work) for _ in range(2)]
    [each.start() for each in threads]
    [each.join() for each in threads]
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(folder), f"p{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    numbers = [int(line) for each in running for line in each.communicate()[0].split()]
    assert [each.returncode for each in running] == [0] * 4
    assert sorted(numbers) == list(range(80))
    assert "80 events" in verify("--audit", folder)


def killed_writer(folder: Path, after_s: float) -> list[int]:
    program = """
import sys
from pathlib import Path
from ibidem.grounding.audit.log import AuditLog
with AuditLog(Path(sys.argv[1]), bytes(32)) as audit:
    while True:
        print(audit.record("query", query="ab" * 32, chunks=["cd" * 16] * 20), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        numbers = [int(writer.stdout.readline())]
        time.sleep(after_s)
        writer.kill()
        numbers += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    return numbers


@pytest.mark.parametrize("kills", [KILLS, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_inside_an_append_loses_nothing_that_was_recorded(folder: Path, tmp_path: Path, kills: int) -> None:
    rng, recorded = random.Random(kills), list[int]()
    for number in range(kills):
        recorded += killed_writer(folder, rng.uniform(0, 0.1))
        output = tmp_path / "head"
        sign("--audit", folder, "--output", output)  # also checks that the log extends the earlier head
        assert heads.read(output).size in {len(recorded), len(recorded) + 1}, number
        recorded = list(range(heads.read(output).size))  # of the last one only the answer was lost
    assert recorded == list(range(len(recorded)))


# --- what cannot be recorded


def test_a_full_disk_is_one_error_and_afterwards_the_log_goes_on(folder: Path) -> None:
    record(folder, 3)
    with AuditLog(folder, KEY) as audit:
        pages = audit._database.execute("PRAGMA page_count").fetchone()[0]
        audit._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(AuditError, match=r"audit\.sqlite: database or disk is full"):
            for _ in range(1000):
                audit.record("query", chunks=["ab" * 16] * 40)
        audit._database.execute("PRAGMA max_page_count = 100000")
        audit.record("query")
    assert "consistent" in verify("--audit", folder)


def test_an_error_of_a_full_disk_says_so(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()

    def fail() -> str:
        with pytest.raises(AuditError) as caught, log.explained(file):
            raise sqlite3.OperationalError("disk I/O error")
        return str(caught.value)

    assert fail().endswith("disk I/O error")
    room = os.statvfs(folder)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*room[:4], 0, *room[5:])))
    assert fail().endswith("audit.sqlite: no space left")


def test_an_append_that_is_interrupted_leaves_nothing_and_blocks_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    record(folder, 3)
    with AuditLog(folder, KEY) as audit, AuditLog(folder, KEY) as other:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(merkle, "completed", interrupt)
            audit.record("query")
        assert other.record("query") == 3
        assert audit.record("query") == 4
    assert "5 events" in verify("--audit", folder)


def test_a_file_that_may_not_grow_is_one_error(folder: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from ibidem.errors import AuditError
from ibidem.grounding.audit.log import AuditLog
with AuditLog(Path(sys.argv[1]), bytes(32)) as audit:
    audit.record("query")
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    count = 0
    try:
        while True:
            audit.record("query", chunks=["ab" * 16] * 100)
            count += 1
    except AuditError as error:
        print(count, str(error).count("\\n"), error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    count, lines, said = done.stdout.split(" ", 2)
    assert (int(lines), "audit.sqlite: " in said) == (0, True), done.stdout
    assert f"{int(count) + 1} events" in verify("--audit", folder)


def test_a_locked_log_is_one_error(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(folder, 1)
    monkeypatch.setattr(log, "BUSY_S", 0.05)
    with AuditLog(folder, KEY) as audit:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditError, match="database is locked"):
            audit.record("query")
        other.execute("ROLLBACK")
        other.close()
        assert audit.record("query") == 1


@contextmanager
def as_nobody() -> Iterator[None]:
    """Act as a user without rights; root may write everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_log_that_may_not_be_written_is_one_error_and_can_still_be_verified(
    folder: Path, file: Path, tmp_path: Path
) -> None:
    record(folder, 5)
    file.chmod(0o444)
    folder.chmod(0o555)
    above = tmp_path
    while above.parent != above:  # pytest's folders are their owner's alone
        if above.stat().st_uid == os.geteuid():
            above.chmod(above.stat().st_mode | 0o011)
        above = above.parent
    with as_nobody():
        with pytest.raises(AuditError, match=r"audit\.sqlite: Permission denied"):
            AuditLog(folder, KEY)
        assert "5 events" in verify_on_its_own(folder)
    assert {each.name for each in folder.iterdir()} == {log.FILE}
    folder.chmod(0o755)


def verify_on_its_own(folder: Path) -> str:
    with log.reading(folder) as database:
        return f"{check(database, []).size} events"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no such table: about|is no audit log"),
        (b"no database" * 100, "file is not a database"),
    ],
)
def test_what_is_no_log_is_one_error(folder: Path, file: Path, content: bytes, said: str) -> None:
    folder.mkdir()
    file.write_bytes(content)
    with pytest.raises(AuditError, match=said):
        verify("--audit", folder)


def test_a_log_of_another_program_or_format_is_not_written(folder: Path, file: Path) -> None:
    folder.mkdir()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE notes (text)")
    database.close()
    with pytest.raises(AuditError, match="no such table: about|is no audit log"):
        AuditLog(folder, KEY)
    shutil.rmtree(folder)
    record(folder, 1)
    tampered(file, lambda database: database.execute("UPDATE about SET value = '1' WHERE key = 'format'"))
    with pytest.raises(AuditError, match="its format is '1', not '2'; move the log away"):
        AuditLog(folder, KEY)


def test_a_log_whose_place_another_file_took_is_not_written(folder: Path, file: Path) -> None:
    with AuditLog(folder, KEY) as audit:
        audit.record("query")
        file.rename(folder / "moved")
        shutil.copy(folder / "moved", file)
        with pytest.raises(AuditError, match="another file took its place"):
            audit.record("query")
        file.unlink()
        with pytest.raises(AuditError, match="No such file"):
            audit.record("query")


# --- eight attacks

Events = list[str]
Attack = Callable[[Path], None]


def tampered(file: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change the database as somebody who owns the file can."""
    database = sqlite3.connect(file, isolation_level=None)
    triggers = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    change(database)
    for _, sql in triggers:
        database.execute(sql)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def forged(file: Path, change: Callable[[Events], Events]) -> None:
    """Change the events, number them anew, and compute the whole tree again."""

    def rewrite(database: sqlite3.Connection) -> None:
        events = change([text for (text,) in database.execute("SELECT event FROM events ORDER BY number")])
        events = [log.canonical({**json.loads(text), "number": number}) for number, text in enumerate(events)]
        database.execute("DELETE FROM events")
        database.execute("DELETE FROM subtrees")
        database.execute("DELETE FROM sqlite_sequence")
        tree = merkle.Growing()
        for number, text in enumerate(events):
            database.execute("INSERT INTO events VALUES (?, ?)", (number, text))
            nodes = tree.append(merkle.leaf_hash(text.encode()))
            database.executemany("INSERT INTO subtrees VALUES (?, ?, ?)", nodes)

    tampered(file, rewrite)


def with_another_principal(text: str) -> str:
    return text.replace('"dev-1"', '"dev-9"')


def edit_bytes(file: Path) -> None:
    data = file.read_bytes()
    assert data.count(b'"number":4,"principal":"dev-1"') == 1
    file.write_bytes(data.replace(b'"number":4,"principal":"dev-1"', b'"number":4,"principal":"dev-9"'))


def swap_rows(file: Path) -> None:
    def swap(database: sqlite3.Connection) -> None:
        database.execute("UPDATE events SET number = -1 WHERE number = 2")
        database.execute("UPDATE events SET number = 2 WHERE number = 5")
        database.execute("UPDATE events SET number = 5 WHERE number = -1")

    tampered(file, swap)


def insert_row(file: Path) -> None:
    def insert(database: sqlite3.Connection) -> None:
        for number in range(20, 6, -1):
            database.execute("UPDATE events SET number = ? WHERE number = ?", (number, number - 1))
        database.execute("INSERT INTO events SELECT 6, event FROM events WHERE number = 3")

    tampered(file, insert)


def roll_back(file: Path) -> None:
    shutil.copy(file.parent.parent / "earlier.sqlite", file)


def roll_back_and_go_on(file: Path) -> None:
    roll_back(file)
    record(file.parent, 30)


def diverge(file: Path) -> None:
    """Two writers have begun with copies of the same log; the head is of the other one."""
    shutil.copy(file.parent.parent / "earlier.sqlite", file)
    record(file.parent, 20, of="dev-2")


def forgery(change: Callable[[Events], Events]) -> Attack:
    return lambda file: forged(file, change)


def statement(sql: str) -> Attack:
    return lambda file: tampered(file, lambda database: database.execute(sql))


CLUMSY: dict[str, Attack] = {  # the log contradicts itself then
    "byte edit": edit_bytes,
    "deletion": statement("DELETE FROM events WHERE number = 7"),
    "insertion": insert_row,
    "swap": swap_rows,
    "tail cut": statement("DELETE FROM events WHERE number > 14"),
}
SKILLED: dict[str, Attack] = {  # the log is consistent then: only the head shows what happened
    "byte edit, with the tree": forgery(lambda rows: [*rows[:4], with_another_principal(rows[4]), *rows[5:]]),
    "deletion, with the tree": forgery(lambda rows: [*rows[:7], *rows[8:], rows[-1]]),
    "insertion, with the tree": forgery(lambda rows: [*rows[:6], rows[3], *rows[6:]]),
    "swap, with the tree": forgery(lambda rows: [rows[1], rows[0], *rows[2:]]),
    "tail cut, with the tree": forgery(lambda rows: rows[:15]),
    "rollback": roll_back,
    "rollback, then growth": roll_back_and_go_on,
    "full rewrite": forgery(lambda rows: list(map(with_another_principal, rows))),
    "two writers": diverge,
}


@pytest.fixture
def evidence(folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A log of twenty events, and the one head of them that an auditor on another machine has."""
    record(folder, 10)
    shutil.copy(file, tmp_path / "earlier.sqlite")
    record(folder, 10)
    said = sign("--audit", folder, "--output", tmp_path / "head")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "auditor"))
    return ["--audit", folder, "--head", tmp_path / "head", "--verifier", said.rpartition(" ")[2]]


@pytest.mark.parametrize("name", [*CLUMSY, *SKILLED])
def test_an_attack_is_found_with_one_head(name: str, file: Path, folder: Path, evidence: list[object]) -> None:
    assert "the first 20 are those of 1 head" in verify(*evidence)
    {**CLUMSY, **SKILLED}[name](file)
    with pytest.raises(AuditError) as found:
        verify(*evidence)
    assert "\n" not in str(found.value)
    if name in SKILLED:
        assert "consistent" in verify("--audit", folder)
    else:
        with pytest.raises(AuditError):
            verify("--audit", folder)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_a_log_whose_last_event_was_cut_off_is_found_alone_and_not_written(folder: Path, file: Path, size: int) -> None:
    record(folder, size)
    tampered(file, lambda database: database.execute("DELETE FROM events WHERE number = ?", (size - 1,)))
    with pytest.raises(AuditError, match="missing"):
        verify("--audit", folder)
    with pytest.raises(AuditError, match="its last events are missing"):
        record(folder, 1)


def test_events_after_the_head_are_welcome(folder: Path, evidence: list[object]) -> None:
    record(folder, 13)
    assert verify(*evidence) == f"{folder}: 33 events; the first 20 are those of 1 head"


def test_every_flipped_bit_of_an_event_is_found(file: Path, evidence: list[object]) -> None:
    rng, data = random.Random(7), file.read_bytes()
    start = data.index(b'"number":11,')
    for _ in range(40):
        place, bit = start + rng.randrange(60), 1 << rng.randrange(8)
        file.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        with pytest.raises(AuditError):
            verify(*evidence)
    file.write_bytes(data)
    verify(*evidence)


def test_a_gap_in_the_numbers_is_found(folder: Path, file: Path) -> None:
    record(folder, 8)
    tampered(file, lambda database: database.execute("UPDATE events SET number = 9 WHERE number = 7"))
    with pytest.raises(AuditError, match="event 7 is missing"):
        verify("--audit", folder)


def test_a_stored_hash_that_was_changed_is_found(folder: Path, file: Path) -> None:
    record(folder, 9)
    tampered(file, lambda database: database.execute("UPDATE subtrees SET hash = zeroblob(32) WHERE level = 2"))
    with pytest.raises(AuditError, match="an event between 0 and 3"):
        verify("--audit", folder)


def test_without_a_head_the_answer_says_what_is_missing(folder: Path) -> None:
    record(folder, 2)
    assert verify("--audit", folder).endswith("2 events, consistent; give --head to compare with what was signed")


def test_the_last_head_that_this_user_signed_is_remembered(folder: Path, file: Path) -> None:
    record(folder, 8)
    sign("--audit", folder)
    forged(file, lambda events: events[:5])
    for command in (verify, sign):
        with pytest.raises(AuditError, match="signed last .* is the head of 8"):
            command("--audit", folder)


def test_a_head_of_a_copy_does_not_block_the_log_for_good(folder: Path, tmp_path: Path) -> None:
    record(folder, 4)
    head, copy = tmp_path / "head", tmp_path / "copy.audit"
    sign("--audit", folder, "--output", head)
    shutil.copytree(folder, copy)
    record(copy, 1, of="dev-2")
    sign("--audit", copy)
    record(folder, 1)
    for command in (verify, sign):
        with pytest.raises(AuditError, match="copy of the log, move this file away") as caught:
            command("--audit", folder)
        assert not str(caught.value).endswith(",")
    shown = verify("--audit", folder, "--head", head)
    assert "the first 4 are those of 1 head\nwarning: " in shown
    assert "signed last" in shown
    (tmp_path / "state/ibidem/heads" / heads.read(head).origin.removeprefix("ibidem/")).rename(tmp_path / "away")
    assert "5 events, consistent" in verify("--audit", folder)
    sign("--audit", folder)


# --- heads


def test_heads_are_checkpoints_that_others_have_signed() -> None:
    """The checksum database of Go, whose key every Go program carries; and an example of Go's package `note`."""
    text = (  # as served by sum.golang.org
        "go.sum database tree\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "\u2014 sum.golang.org "
        "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    head, key = (
        heads.parse(text, "it"),
        heads.verifier("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"),
    )
    assert (str(head), head.size, str(key)) == (
        text,
        20852163,
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
    )
    heads.check(head, [key], "it")
    for other in (
        head._replace(size=1),
        head._replace(root=bytes(32)),
        head._replace(origin="x"),
        head._replace(extensions=("x",)),
    ):
        with pytest.raises(SignatureError, match="is not of this head"):
            heads.check(other, [key], "it")
    secret = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    verifier = heads.verifier_of(Ed25519PrivateKey.from_private_bytes(secret), "PeterNeumann")
    assert str(verifier) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


GOOD = f"o\n5\n{base64.b64encode(bytes(32)).decode()}\n\n\u2014 o {base64.b64encode(bytes(68)).decode()}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        GOOD[:-1],
        GOOD.replace("\n\n", "\n"),
        GOOD.replace("5", "05"),
        GOOD.replace("5", "-5"),
        GOOD.replace("5", "\u0665"),
        GOOD.replace("5", "5" * 20),
        GOOD.replace("o\n5", "\n5"),
        GOOD.replace("A=\n", "B=\n", 1),
        GOOD.replace("AAAA", "", 1),
        GOOD.replace("\u2014", "-"),
        GOOD.replace("\u2014 o", "\u2014 o+o"),
        GOOD.replace("\u2014 o ", "\u2014 o\u00a0o "),
        GOOD.replace("o\n5", "o\r\n5"),
        GOOD.replace("\n\n", "\n\nx\n\n").replace("o\n5", "5"),
        GOOD + "\n",
    ],
)
def test_what_is_no_head_is_refused(text: str, tmp_path: Path) -> None:
    assert heads.parse(GOOD, "it").size == 5
    (tmp_path / "head").write_text(text, newline="")
    with pytest.raises(AuditError, match="head"):
        heads.read(tmp_path / "head")


def test_heads_that_are_no_text_or_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "head").write_bytes(b"\xff")
    for path, said in (
        (tmp_path / "head", "not UTF-8"),
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(AuditError, match=said):
            heads.read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a+b+c",
        "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "a b+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="verifier"):
        heads.verifier(text)


def test_a_witness_signs_the_text_and_a_time(folder: Path, tmp_path: Path) -> None:
    """The message is written down here as the specification has it."""
    record(folder, 3)
    said = sign("--audit", folder, "--output", tmp_path / "head", "--origin", "example.com/audit")
    head, witness = heads.read(tmp_path / "head"), Ed25519PrivateKey.generate()
    message = f"cosignature/v1\ntime 1679315147\nexample.com/audit\n3\n{base64.b64encode(head.root).decode()}\n"
    signature = (1679315147).to_bytes(8, "big") + witness.sign(message.encode())
    verifier = heads.verifier_of(witness, "witness.example/w1", heads.WITNESS)
    assert heads.cosign(head, witness, "witness.example/w1", 1679315147) == (verifier.name, verifier.id, signature)
    line = f"\u2014 witness.example/w1 {base64.b64encode(verifier.id + signature).decode()}\n"
    both = ["--audit", folder, "--head", tmp_path / "head", "--verifier", said.rpartition(" ")[2], verifier]
    with pytest.raises(SignatureError, match="no signature of witness"):
        verify(*both)
    with (tmp_path / "head").open("a") as file:
        file.write(line)
    verify(*both)
    sign("--audit", folder, "--output", tmp_path / "head", "--origin", "example.com/audit")
    assert (tmp_path / "head").read_text().endswith(line)  # signing the same head again keeps what others signed
    verify(*both)
    moved = signature[:7] + b"\0" + signature[8:]
    (tmp_path / "head").write_text(
        str(head)
        + line.replace(
            base64.b64encode(verifier.id + signature).decode(), base64.b64encode(verifier.id + moved).decode()
        )
    )
    with pytest.raises(SignatureError, match="is not of this head"):
        verify(*both)


def test_a_head_must_be_signed_by_the_key_that_is_named(folder: Path, tmp_path: Path) -> None:
    record(folder, 3)
    sign("--audit", folder, "--output", tmp_path / "mine")
    create_key(tmp_path / "key")
    said = sign("--audit", folder, "--output", tmp_path / "theirs", "--key", tmp_path / "key")
    verify("--audit", folder, "--head", tmp_path / "mine")
    with pytest.raises(SignatureError, match="--verifier"):
        verify("--audit", folder, "--head", tmp_path / "theirs")
    verify("--audit", folder, "--head", tmp_path / "theirs", "--verifier", said.rpartition(" ")[2])


def test_a_file_that_is_no_head_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    record(folder, 1)
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(AuditError, match="not a signed head"):
        sign("--audit", folder, "--output", tmp_path / "thesis")


# --- proofs


def test_an_event_is_proved_without_the_log(folder: Path, tmp_path: Path, evidence: list[object]) -> None:
    _, _, *head_and_key = evidence
    record(folder, 4)
    for number in range(20):
        (tmp_path / "proof").write_text(prove(number, *evidence[:4]) + "\n")
        said = verify("--proof", tmp_path / "proof", *head_and_key)
        assert json.loads(said.partition("\n")[2])["number"] == number
    with pytest.raises(AuditError, match="no event 20 among the 20"):
        prove(20, *evidence[:4])
    with pytest.raises(ConfigError, match="name the key of the log"):
        verify("--proof", tmp_path / "proof")
    text = (tmp_path / "proof").read_text()
    lines = text.split("\n")
    event = base64.b64encode(with_another_principal(base64.b64decode(lines[1][6:]).decode()).encode()).decode()
    for forged_text, said in (
        (text.replace(lines[1], f"extra {event}"), "the event is not in the log of the head"),
        (text.replace("index 19", "index 18"), "the event is not in the log of the head"),
        (text.replace(lines[3] + "\n", ""), "the event is not in the log of the head"),
        (text.replace("\n20\n", "\n21\n"), "leads to another head"),
        (text.replace(lines[3], lines[3][:-1]), "not a proof"),
        ("", "not a proof"),
    ):
        assert forged_text != text
        (tmp_path / "proof").write_text(forged_text)
        with pytest.raises(IbidemError, match=said):
            verify("--proof", tmp_path / "proof", *head_and_key)


def test_a_proof_alone_is_as_good_as_the_signature_of_its_head(folder: Path, tmp_path: Path) -> None:
    record(folder, 5)
    (tmp_path / "proof").write_text(prove(2, "--audit", folder) + "\n")
    assert "event 2 of the 5" in verify("--proof", tmp_path / "proof")
    (tmp_path / "proof").write_text((tmp_path / "proof").read_text().replace("\n5\n", "\n6\n"))
    with pytest.raises(SignatureError, match="is not of this head"):
        verify("--proof", tmp_path / "proof")


def test_no_proof_is_made_for_a_head_of_another_log(folder: Path, tmp_path: Path) -> None:
    record(folder, 5)
    record(tmp_path / "other", 5)
    sign("--audit", tmp_path / "other", "--output", tmp_path / "head")
    with pytest.raises(AuditError, match="not the log of this head"):
        prove(2, "--audit", folder, "--head", tmp_path / "head")


# --- commands


def test_a_log_stands_beside_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index").mkdir()
    record(tmp_path / "index.audit", 2)
    for written in ("index", "index/", "./index", "index/../index"):
        assert folder_beside(Path(written)) == tmp_path / "index.audit"
        assert "2 events" in verify("--index", written)
    with pytest.raises(AuditError, match="other.audit.*there is none"):
        verify("--index", "other")
    with pytest.raises(ConfigError, match="no audit log named: give --audit DIR"):
        verify()


def test_the_last_events_are_listed(folder: Path) -> None:
    record(folder, 30)
    lines = list_command(parse(AuditListConfig, ["--audit", str(folder), "--number", "2"])).split("\n")
    assert [line.split()[0] for line in lines] == ["28", "29"]
    assert lines[0].endswith("query         dev-1")


def test_a_name_cannot_forge_a_line_of_the_list(folder: Path) -> None:
    record(folder, 1, of="dev-1\n       9  2026-01-01 00:00:00  query         boss\x1b[2J")
    (line,) = list_command(parse(AuditListConfig, ["--audit", str(folder)])).split("\n")
    assert line.isprintable()
    assert line.endswith(r"boss\x1b[2J")


def test_events_from_a_clock_that_was_set_back_are_marked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for second in (100, 200, 150, 300):
        monkeypatch.setattr(time, "time", lambda second=second: 1.7e9 + second)
        record(folder, 1)
    lines = list_command(parse(AuditListConfig, ["--audit", str(folder)])).split("\n")
    assert ["set back" in line for line in lines] == [False, False, True, False]
