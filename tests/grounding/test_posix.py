"""Access by POSIX modes, with the kernel as the oracle."""

import os
import pwd
import struct
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ibidem.cli import main
from ibidem.errors import ConfigError
from ibidem.grounding import posix
from ibidem.grounding.config import GroundSearchConfig, IndexChoice
from ibidem.grounding.opening import opened
from ibidem.grounding.posix import Person, PosixPermissions, PosixRules
from ibidem.grounding.search import found
from ibidem.grounding.store import NOBODY, Hit

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others and act as them")
PEOPLE = {
    "owner": Person(61001, frozenset({61050})),
    "mate": Person(61002, frozenset({61050})),
    "other": Person(61003, frozenset({61099})),
    "both": Person(61001, frozenset({61060})),  # the same number, other groups
    "root": Person(0, frozenset({0})),
}


def may(rules: PosixRules, principal: str, path: str) -> bool:
    return rules.permits(principal, rules.access(path))


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> dict[str, Person]:
    known = dict(PEOPLE)
    monkeypatch.setattr(posix, "person", known.get)
    return known


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.md").write_text("a")
    (folder / "b.md").write_text("b")
    for path in (folder, folder / "sub"):
        path.chmod(0o755)
    for path in (folder / "sub" / "a.md", folder / "b.md"):
        path.chmod(0o644)
    return folder


@contextmanager
def acting_as(known: Person) -> Iterator[None]:
    groups = os.getgroups()
    first, *others = sorted(known.groups or ())
    os.setgroups(others)
    os.setegid(first)
    os.seteuid(known.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def can_open(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except PermissionError:
        return False


@only_root
def test_readers_are_those_to_whom_the_kernel_opens_the_file(tmp_path: Path, people: dict[str, Person]) -> None:
    """All modes of a file and of the folder above it, four owners each."""
    folder = tmp_path / "docs"
    owners = [(uid, gid) for uid in (61001, 61002) for gid in (61050, 61060)]

    def modes(bit: int) -> list[int]:
        return [bit * (owner << 6 | group << 3 | others) for owner in (0, 1) for group in (0, 1) for others in (0, 1)]

    for folder_mode in modes(1):
        for uid, gid in owners:
            sub = folder / f"{folder_mode:o}-{uid}-{gid}"
            sub.mkdir(parents=True)
            for mode in modes(4):
                for file_uid, file_gid in owners:
                    file = sub / f"{mode:o}-{file_uid}-{file_gid}"
                    file.touch()
                    os.chown(file, file_uid, file_gid)
                    file.chmod(mode)
            os.chown(sub, uid, gid)
            sub.chmod(folder_mode)
    for above in (folder, *folder.parents[:-1]):
        above.chmod(above.stat().st_mode | 0o011)
    rules = PosixPermissions(folder).current()
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 1024
    opened = 0
    for name in ("owner", "mate", "other", "both"):
        with acting_as(people[name]):
            expected = {path: can_open(folder / path) for path in files}
        assert {path: may(rules, name, path) for path in files} == expected
        opened += sum(expected.values())
        # of a number alone the groups are unknown: it may at most what each membership would let it
        people["number"] = people[name]._replace(groups=None)
        number = PosixPermissions(folder).current()
        assert not any(may(number, "number", path) for path in files if not expected[path])
    assert 500 < opened < 3000


def test_an_owner_without_the_right_is_denied_what_all_others_may_read(folder: Path, people: dict[str, Person]) -> None:
    people["me"] = Person(os.geteuid(), frozenset({1}))
    people["mate"] = Person(os.geteuid() + 1, frozenset({(folder / "b.md").stat().st_gid}))
    (folder / "b.md").chmod(0o044)
    rules = PosixPermissions(folder).current()
    assert [may(rules, name, "b.md") for name in ("me", "mate", "other")] == [False, True, True]
    (folder / "b.md").chmod(0o604)
    rules = PosixPermissions(folder).current()
    assert [may(rules, name, "b.md") for name in ("me", "mate", "other")] == [True, False, True]


@pytest.mark.usefixtures("people")
def test_each_folder_must_let_search_and_the_topmost_too(folder: Path) -> None:
    permissions = PosixPermissions(folder)
    assert may(permissions.current(), "other", "sub/a.md")
    for path, without in ((folder / "sub", 0o754), (folder, 0o754)):
        path.chmod(without)
        assert not may(PosixPermissions(folder).current(), "other", "sub/a.md")
        path.chmod(0o751)  # to list a folder is another right
        assert may(PosixPermissions(folder).current(), "other", "sub/a.md")


def test_root_is_not_special(folder: Path, people: dict[str, Person]) -> None:
    people["root"] = Person(os.geteuid() + 1, frozenset())
    (folder / "b.md").chmod(0o600)
    assert not may(PosixPermissions(folder).current(), "root", "b.md")


def test_documents_with_the_same_owners_and_modes_are_one_class(folder: Path) -> None:
    (folder / "c.md").touch(mode=0o644)
    (folder / "c.md").chmod(0o644)
    rules = PosixPermissions(folder).current()
    assert rules.access("b.md") == rules.access("c.md") != NOBODY
    assert rules.access("nowhere.md") == rules.access("sub") == rules.access("../x") == NOBODY


def test_principals_are_the_accounts_of_the_system() -> None:
    root = pwd.getpwuid(0)
    known = posix.person(root.pw_name)
    assert known == Person(0, frozenset(os.getgrouplist(root.pw_name, root.pw_gid))) == posix.person("uid:0")
    unknown = next(uid for uid in range(59_999, 10_000, -1) if not is_account(uid))
    assert posix.person(f"uid:{unknown}") == Person(unknown, None)
    for name in ("no such user", "", "uid:", "uid:-1", "uid:1e3", "uid:99999999999", "0", "a\0b", "\udcff"):
        assert posix.person(name) is None, name


def is_account(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False


def test_who_has_no_account_may_read_nothing(folder: Path) -> None:
    rules = PosixPermissions(folder).current()
    assert not may(rules, "no such user", "b.md")
    assert not may(rules, "everyone", "b.md")


# --- what modes alone do not say


def with_list(path: Path) -> None:
    """Let one more user read, as `setfacl -m u:61003:r` does."""
    entries = [(1, 6, -1), (2, 4, 61003), (4, 4, -1), (16, 4, -1), (32, 4, -1)]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", data)
    except OSError as error:
        pytest.skip(f"the support for access control lists is switched off on this machine: {error}")


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("place", ["b.md", "sub", "."])
def test_what_has_an_access_control_list_is_for_nobody(folder: Path, place: str) -> None:
    with_list(folder / place)
    rules = PosixPermissions(folder).current()
    assert rules.modes.unjudged == (place,)
    below = {"b.md": ["b.md"], "sub": ["sub/a.md"], ".": ["b.md", "sub/a.md"]}[place]
    for path in ("b.md", "sub/a.md"):
        assert may(rules, "other", path) is (path not in below)


@pytest.mark.usefixtures("people")
def test_what_is_behind_a_link_is_for_nobody(folder: Path, tmp_path: Path) -> None:
    """No indexing follows links, so none leads to a document."""
    (tmp_path / "outside.md").write_text("secret")
    links = {"out.md": tmp_path / "outside.md", "nowhere.md": folder / "none", "loop.md": folder / "loop.md"}
    links |= {"folder": folder / "sub", "in.md": folder / "sub" / "a.md"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    rules = PosixPermissions(folder).current()
    assert [name for name in (*links, "folder/a.md") if may(rules, "other", name)] == []
    assert may(rules, "other", "sub/a.md")


def test_a_pipe_is_no_document(folder: Path) -> None:
    os.mkfifo(folder / "pipe.md")
    (folder / "pipe.md").chmod(0o644)
    assert PosixPermissions(folder).current().access("pipe.md") == NOBODY


@pytest.mark.usefixtures("people")
def test_names_are_compared_in_one_unicode_form(folder: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.md") for form in ("NFC", "NFD"))
    (folder / apart).touch()
    (folder / apart).chmod(0o644)
    permissions = PosixPermissions(folder)
    rules = permissions.current()
    assert may(rules, "other", composed)
    assert may(rules, "other", apart)
    assert permissions.holds(rules, [composed])
    (folder / composed).touch()
    (folder / composed).chmod(0o600)  # a twin with other readers
    assert not may(PosixPermissions(folder).current(), "other", apart)


@pytest.mark.usefixtures("people")
def test_a_name_that_is_no_text_is_read(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.md")
    (folder / name).touch()
    (folder / name).chmod(0o644)
    assert may(PosixPermissions(folder).current(), "other", name)


# --- as they are now


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("place", ["sub/a.md", "sub", "."])
def test_a_mode_that_was_changed_is_seen_before_a_document_is_shown(folder: Path, place: str) -> None:
    permissions = PosixPermissions(folder)
    before = permissions.current()
    assert permissions.current() is before
    assert permissions.holds(before, ["sub/a.md", "b.md"])
    (folder / place).chmod(0o750)
    assert not permissions.holds(before, ["sub/a.md"])
    after = permissions.current()
    assert after.version != before.version
    assert (may(before, "other", "sub/a.md"), may(after, "other", "sub/a.md")) == (True, False)
    assert not permissions.holds(before, ["sub/a.md"])
    assert permissions.holds(after, ["sub/a.md"])


def test_a_document_that_is_gone_is_not_shown(folder: Path) -> None:
    permissions = PosixPermissions(folder)
    before = permissions.current()
    (folder / "b.md").unlink()
    assert not permissions.holds(before, ["b.md"])
    assert permissions.current().access("b.md") == NOBODY


def test_modes_are_read_again_after_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    permissions = PosixPermissions(folder)
    before = permissions.current()
    (folder / "new.md").touch()
    assert permissions.current() is before
    monkeypatch.setattr(posix, "MODES_S", -1.0)
    assert permissions.current().access("new.md") != NOBODY


def test_a_group_that_a_principal_left_counts_at_the_next_look(
    folder: Path, people: dict[str, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of a directory service, which no file shows."""
    monkeypatch.setattr(posix, "ACCOUNTS_S", -1.0)
    (folder / "b.md").chmod(0o640)
    people["mate"] = Person(61002, frozenset({(folder / "b.md").stat().st_gid}))
    permissions = PosixPermissions(folder)
    before = permissions.current()
    assert may(before, "mate", "b.md")
    assert permissions.current() is permissions.current()
    monkeypatch.setattr(posix, "MODES_S", -1.0)  # rules that never heard of this principal take the place of the others
    assert permissions.current().version == before.version
    people["mate"] = Person(61002, frozenset())
    after = permissions.current()
    assert after.version != before.version
    assert not may(after, "mate", "b.md")
    assert may(before, "mate", "b.md")  # rules are those of their moment


def test_a_change_of_the_accounts_of_this_machine_counts_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = tmp_path / "group"
    accounts.write_text("staff:x:50:dev-1\n")
    monkeypatch.setattr(posix, "_ACCOUNTS", (accounts, tmp_path / "none"))
    permissions = PosixPermissions(folder)
    before = permissions.current().version
    assert permissions.current().version == before
    accounts.write_text("staff:x:50:\n")
    assert permissions.current().version != before


def test_people_that_are_remembered_stay_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "ACCOUNTS_S", -1.0)
    monkeypatch.setattr(posix, "_REMEMBERED", 8)
    permissions = PosixPermissions(folder)
    versions = set()
    for number in range(30):
        assert not may(permissions.current(), f"stranger {number}", "b.md")
        versions.add(permissions.current().version)
    assert len(permissions._people) <= 9
    assert len(versions) == 4  # what is no longer compared may have changed


def test_the_version_is_the_same_in_every_process(folder: Path) -> None:
    assert PosixPermissions(folder).current().version == PosixPermissions(folder).current().version


def test_without_the_folder_nobody_may_read_anything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    permissions = PosixPermissions(folder)
    permissions.current()
    monkeypatch.setattr(posix, "MODES_S", -1.0)
    folder.rename(folder.with_name("away"))
    with pytest.raises(ConfigError, match="nobody may read anything"):
        permissions.current()
    folder.with_name("away").rename(folder)
    monkeypatch.delattr(os, "listxattr")
    with pytest.raises(ConfigError, match="needs Linux"):
        permissions.current()


# --- through an index


STRANGER = "uid:61003"


def index_of(folder: Path) -> Path:
    index = folder.parent / "index"
    words = ["ground", "index", "--docs", str(folder), "--acl", "posix", "--output-dir", str(index)]
    assert main(words) == 0
    return index


def found_by(principal: str, index: Path, query: str) -> list[str]:
    return [hit.chunk.path for hit in found(GroundSearchConfig(index=index, principal=principal, query=query))]


@pytest.mark.parametrize("with_link", [False, True])
def test_a_new_file_does_not_open_the_old_text_of_its_path(folder: Path, with_link: bool) -> None:
    notes = folder / "notes.md"
    notes.write_text("The merger with Acme is planned for June.")
    notes.chmod(0o600)
    index = index_of(folder)
    assert found_by(STRANGER, index, "merger") == []
    notes.unlink()
    if with_link:
        notes.symlink_to(folder / "b.md")
    else:
        notes.write_text("Minutes of the picnic.")
        notes.chmod(0o644)
    assert found_by(STRANGER, index, "merger") == []
    assert found_by("uid:0", index, "merger") == ([] if with_link or os.geteuid() else ["notes.md"])
    index_of(folder)
    assert found_by(STRANGER, index, "picnic") == ([] if with_link else ["notes.md"])


def test_what_was_found_and_is_not_shown_is_looked_at_too(folder: Path) -> None:
    """A file that everybody could read counts in the scores of others until its mode is read again."""
    for name in ("one.md", "two.md", "three.md"):
        (folder / name).write_text("A rollback takes four minutes.")
        (folder / name).chmod(0o644)
    index = index_of(folder)
    with opened(IndexChoice(index=index)) as retriever:
        retriever.search("rollback", STRANGER, 3)
        (folder / "two.md").chmod(0o600)
        looked: list[list[str]] = []

        def choose(hits: list[Hit]) -> list[Hit]:
            looked.append([hit.chunk.path for hit in hits])
            return hits[:1]

        retriever.search("rollback", STRANGER, 3, choose)
    assert [len(paths) for paths in looked] == [3, 2]
