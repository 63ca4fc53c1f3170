"""Clones below a source folder: every file knows its repository and commit, whatever the files of git hold."""

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from email.message import Message
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.filters.removals import Request, load_requests
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.sources.git_objects import _entry, applied, commit_date
from ibidem.data.sources.installed import InstalledPackages, Package, _repository_url
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.readers import read
from ibidem.data.sources.spec import Spec
from ibidem.data.text.repository import repository_of
from ibidem.records import Document

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKED = "89abcdef0123456789abcdef0123456789abcdef"
URL = "https://me:secret@github.com/Octo/Cat.git"


def clone(folder: Path, url: str | None = URL, *, commit: str = COMMIT, files: tuple[str, ...] = ("a.py",)) -> Path:
    """Write what `git clone` leaves, as far as it matters."""
    git = folder / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads" / "main").write_text(f"{commit}\n")
    remote = f'[remote "origin"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n' if url else ""
    (git / "config").write_text(f"[core]\n\tbare = false\n{remote}")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(python_file(zlib.crc32(str(folder / name).encode())))
    return folder


def documents(folder: Path, version: str | None = None) -> dict[str, Document]:
    source = LocalFiles(Spec(str(folder), version, "train", "text"))
    items = [item for piece in source.pieces() for _, item in read(piece)]
    return {item.record: item for item in items if isinstance(item, Document)}


def facts(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    return {record: (item.repo, item.revision) for record, item in documents(folder).items()}


def digest(folder: Path) -> str:
    return LocalFiles(Spec(str(folder), None, "train", "text")).as_input().digest


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/octo/cat", "octo/cat"),
        ("https://github.com/octo/cat.git/", "octo/cat"),
        ("https://me:token@github.com/octo/cat.git", "octo/cat"),
        ("https://x-access-token:a@b@github.com/octo/cat", "octo/cat"),
        ("HTTPS://WWW.GitHub.com:443/Octo/Cat", "Octo/Cat"),
        ("git@github.com:octo/cat.git", "octo/cat"),
        ("github.com:octo/cat", "octo/cat"),
        ("ssh://git@github.com:22/octo/cat.git", "octo/cat"),
        ("ssh://git@ssh.github.com:443/octo/cat.git", "octo/cat"),
        ("git+https://github.com/octo/cat@v1", "octo/cat"),
        ("git://github.com/octo/cat", "octo/cat"),
        ("https://github.com/octo/cat/tree/main/src?x=1#top", "octo/cat"),
        ("https://gitlab.com/group/sub/cat/-/tree/main", "group/sub/cat"),
        ("https://codeberg.org/octo/cat", "codeberg.org/octo/cat"),
        ("git@git.example.org:team/cat.git", "git.example.org/team/cat"),
        ("https://git.example.org:8443/team/sub/cat.git", "git.example.org/team/sub/cat"),
        ("https://github.com/octo", None),
        ("https://github.com/sponsors/octo", None),
        ("https://github.com/../cat", None),
        ("/srv/git/cat.git", None),
        ("../cat", None),
        ("./git.example.org/cat", None),
        ("~/cat.git", None),
        ("C:\\cat", None),
        ("file:///srv/cat.git", None),
        ("https://github.com/oc to/cat", None),
        ("https://", None),
        ("", None),
        ("cat", None),
        ("git@", None),
    ],
)
def test_a_repository_has_one_name_however_its_address_is_written(url: str, name: str | None) -> None:
    assert repository_of(url) == name


def test_each_file_belongs_to_the_innermost_clone(tmp_path: Path) -> None:
    clone(tmp_path / "outer", files=("a.py", "src/b.py"))
    clone(tmp_path / "outer" / "inner", "git@git.example.org:team/inner.git", commit=PACKED, files=("deep/c.py",))
    clone(tmp_path / "outer" / "other", None, files=("d.py",))
    (tmp_path / "loose.py").write_text(python_file(1))
    assert facts(tmp_path) == {
        "loose.py": (None, None),
        "outer/a.py": ("Octo/Cat", COMMIT),
        "outer/inner/deep/c.py": ("git.example.org/team/inner", PACKED),
        "outer/other/d.py": (None, COMMIT),
        "outer/src/b.py": ("Octo/Cat", COMMIT),
    }
    assert documents(tmp_path)["outer/src/b.py"].path == "src/b.py"
    assert documents(tmp_path)["loose.py"].path == "loose.py"
    assert "secret" not in repr(documents(tmp_path))


def test_a_version_that_is_given_outweighs_the_commit(tmp_path: Path) -> None:
    clone(tmp_path)
    assert documents(tmp_path, "v7")["a.py"].revision == "v7"
    assert documents(tmp_path)["a.py"].revision == COMMIT


def test_rows_of_a_clone_are_of_it_unless_they_name_a_repository(tmp_path: Path) -> None:
    clone(tmp_path)
    rows = [{"text": "x = 1"}, {"text": "x = 2", "repo": "a/b"}, {"text": "x = 3", "revision": "r3"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [item for record, item in documents(tmp_path).items() if record.startswith("rows.jsonl")]
    assert [(item.repo, item.revision) for item in found] == [
        ("Octo/Cat", COMMIT),
        ("a/b", None),
        ("Octo/Cat", "r3"),
    ]


def test_a_folder_that_is_no_clone_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    assert digest(tmp_path) == "sha256:695a0784fe24176cb30f39ef6a40c8bb6c6bd26c78efb20ef13d98206f843360"
    assert facts(tmp_path) == {"a.py": (None, None)}
    (tmp_path / "clone").mkdir()
    shutil.move(clone(tmp_path / "elsewhere") / ".git", tmp_path / ".git-of-another-name")
    (tmp_path / ".git").mkdir()  # git itself ignores it
    assert facts(tmp_path)["a.py"] == (None, None)


def test_the_clone_around_a_source_folder_is_not_looked_for(tmp_path: Path) -> None:
    clone(tmp_path, files=("data/a.py",))
    assert facts(tmp_path / "data") == {"a.py": (None, None)}
    (single,) = documents(tmp_path / "data" / "a.py").values()
    assert single.repo is None


def test_the_digest_of_a_source_follows_repository_and_commit(tmp_path: Path) -> None:
    clone(tmp_path)
    digests = [digest(tmp_path), digest(tmp_path)]
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text(PACKED)
    digests.append(digest(tmp_path))
    (tmp_path / ".git" / "config").write_text('[remote "origin"]\nurl = https://github.com/octo/dog\n')
    digests.append(digest(tmp_path))
    (tmp_path / ".git" / "config").write_text('[remote "origin"]\nurl = https://me:token@github.com/octo/dog\n[gc]\n')
    digests.append(digest(tmp_path))
    assert digests[0] == digests[1]
    assert digests[3] == digests[4]
    assert len(set(digests)) == 3


def test_refs_are_read_packed_detached_and_over_other_refs(tmp_path: Path) -> None:
    clone(tmp_path)
    git = tmp_path / ".git"
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{PACKED} refs/heads/main\n^{COMMIT}\n")
    assert facts(tmp_path)["a.py"][1] == COMMIT  # a loose ref is newer
    (git / "refs" / "heads" / "main").unlink()
    assert facts(tmp_path)["a.py"][1] == PACKED
    (git / "HEAD").write_text(COMMIT)
    assert facts(tmp_path)["a.py"][1] == COMMIT
    (git / "HEAD").write_text("a" * 64)
    assert facts(tmp_path)["a.py"][1] == "a" * 64
    (git / "HEAD").write_text("ref: refs/heads/alias\n")
    (git / "refs" / "heads" / "alias").write_text("ref: refs/heads/main\n")
    assert facts(tmp_path)["a.py"][1] == PACKED


@pytest.mark.parametrize(
    ("config", "repo"),
    [
        ('[remote "origin"]\n\turl = git@github.com:octo/cat.git\n', "octo/cat"),
        ("[remote \"origin\"] url = 'x'\n", None),
        ('[REMOTE "origin"] URL = https://github.com/octo/cat ; a comment\n', "octo/cat"),
        ('[remote "origin"]\nurl = "https://github.com/octo/cat" # a comment\n', "octo/cat"),
        ('[remote "origin"]\nurl = https://github.com/\\\nocto/cat\n', "octo/cat"),
        ('[remote "fork"]\nurl = https://github.com/me/cat\n', "me/cat"),
        ('[remote "a"]\nurl = https://github.com/a/cat\n[remote "b"]\nurl = https://github.com/b/cat\n', None),
        ('[remote "b"]\nurl = https://github.com/b/cat\n[remote "origin"]\nurl = https://github.com/a/cat\n', "a/cat"),
        ('[url "https://github.com/"]\ninsteadOf = gh:\n[remote "origin"]\nurl = gh:octo/cat\n', "octo/cat"),
        ('[branch "main"]\nremote = origin\n', None),
        ('[remote "origin"]\nurl = /srv/cat.git\n', None),
        ('[remote "origin"\nurl = https://github.com/octo/cat\n', None),
        ('[remote "origin"]\nurl\n', None),
        ('[remote "origin"]\nurl =\n', None),
        ("\0\0\0", None),
        ('[remote "origin"]\nurl = https://github.com/\udcff/cat\n', None),
        ("[" * 100_000, None),
        ('[remote "' + "\\" * 100_000, None),
    ],
)
def test_the_remote_is_read_as_git_reads_it(config: str, repo: str | None, tmp_path: Path) -> None:
    clone(tmp_path)
    (tmp_path / ".git" / "config").write_bytes(os.fsencode(config))
    assert facts(tmp_path) == {"a.py": (repo, COMMIT)}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xfe",
        b"ref: ",
        b"ref: refs/heads/../../../secret",
        b"ref: ../secret",
        b"ref: /etc/hostname",
        b"ref: refs/heads/nowhere",
        b"ref: refs/heads/loop",
        b"ref: refs/heads/" + b"x" * 5000,
        COMMIT[:39].encode(),
        COMMIT.upper().encode(),
    ],
)
def test_a_head_that_names_no_commit_leaves_the_revision_unknown(head: bytes, tmp_path: Path) -> None:
    clone(tmp_path)
    (tmp_path / "secret").write_text(COMMIT)
    (tmp_path / ".git" / "refs" / "heads" / "loop").write_text("ref: refs/heads/loop\n")
    (tmp_path / ".git" / "HEAD").write_bytes(head)
    assert facts(tmp_path) == {"a.py": ("Octo/Cat", None)}


@pytest.mark.parametrize("content", [b"", b"gitdir:", b"gitdir: nowhere", b"gitdir: \0", b"gitdir: .git", b"\xff" * 9])
def test_a_git_file_that_names_no_folder_leaves_its_files_without_a_repository(content: bytes, tmp_path: Path) -> None:
    clone(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.py").write_text("x = 1\n")
    (tmp_path / "sub" / ".git").write_bytes(content)
    assert facts(tmp_path) == {"a.py": ("Octo/Cat", COMMIT), "sub/b.py": (None, None)}


def test_a_pipe_or_a_folder_in_place_of_a_file_of_git_stops_nothing(tmp_path: Path) -> None:
    clone(tmp_path)
    for name in ("config", "packed-refs"):
        (tmp_path / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / ".git" / "config")
    (tmp_path / ".git" / "packed-refs").mkdir()
    (tmp_path / ".git" / "refs" / "heads" / "main").unlink()
    assert facts(tmp_path) == {"a.py": (None, None)}


def test_what_git_itself_makes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)

    def git(folder: Path, *words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
        done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    source = tmp_path / "source"
    for name in ("main", "lib"):
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet")
        (folder / f"{name}.py").write_text(python_file(len(name)))
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", name)
    git(tmp_path / "made" / "main", "submodule", "--quiet", "add", str(tmp_path / "made" / "lib"), "lib")
    git(tmp_path / "made" / "main", "commit", "--quiet", "--message", "lib")
    source.mkdir()
    git(source, "clone", "--quiet", "--recurse-submodules", str(tmp_path / "made" / "main"), "main")
    git(source / "main", "remote", "set-url", "origin", "https://a:b@github.com/octo/main.git")
    git(source / "main" / "lib", "remote", "set-url", "origin", "git@gitlab.com:octo/group/lib.git")
    git(source / "main", "worktree", "add", "--quiet", "--detach", str(source / "tree"), "HEAD~1")
    git(source / "main", "pack-refs", "--all")
    commits = [git(source / folder, "rev-parse", "HEAD") for folder in ("main", "main/lib", "tree")]
    assert facts(source) == {
        "main/main.py": ("octo/main", commits[0]),
        "main/lib/lib.py": ("octo/group/lib", commits[1]),
        "tree/main.py": ("octo/main", commits[2]),
    }
    assert len(set(commits)) == 3


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A clone with 40 commits, and the day of each in UTC as git tells it."""
    folder = tmp_path / "history"
    folder.mkdir()
    run_git(folder, "init", "--quiet")
    for number in range(40):
        (folder / "a.py").write_text(f"{number}\n")
        run_git(folder, "add", ".")
        message = "the same long message, so that commits become deltas\n" * 20 + str(number)
        run_git(folder, "commit", "--quiet", "--message", message, day=f"2024-02-{number % 28 + 1:02}T23:30:00 -0500")
    rows = run_git(folder, "log", "--format=%H %cd", "--date=format-local:%Y-%m-%d").splitlines()
    return folder, dict(row.split() for row in rows)


def run_git(folder: Path, *words: str, day: str = "") -> str:
    environment = os.environ | dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), os.devnull) | {"TZ": "UTC"}
    environment |= dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), day) if day else {}
    words = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words)
    return subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def days(folder: Path, commits: Iterable[str]) -> dict[str, str | None]:
    return {commit: commit_date(folder / ".git", commit) for commit in commits}


def test_the_day_of_a_commit_is_what_git_says_loose_and_packed_whole_and_as_a_delta(
    history: tuple[Path, dict[str, str]],
) -> None:
    folder, expected = history
    assert len(expected) == 40
    assert days(folder, expected) == expected
    run_git(folder, "repack", "-a", "-d", "-f", "--depth=50", "--window=50", "--quiet")
    (index,) = (folder / ".git" / "objects" / "pack").glob("*.idx")
    packed = [line.split() for line in run_git(folder, "verify-pack", "-v", str(index)).splitlines()]
    assert any(row[1:2] == ["commit"] and len(row) == 7 for row in packed), "no commit is a delta"
    assert days(folder, expected) == expected


def test_the_day_is_found_in_the_store_that_a_clone_borrows_from(history: tuple[Path, dict[str, str]]) -> None:
    folder, expected = history
    run_git(folder.parent, "clone", "--quiet", "--shared", str(folder), "borrower")
    assert days(folder.parent / "borrower", expected) == expected


def test_what_is_not_the_commit_itself_gives_no_day(history: tuple[Path, dict[str, str]]) -> None:
    folder, expected = history
    first, *others = expected
    loose = folder / ".git" / "objects" / first[:2] / first[2:]
    text = zlib.decompress(loose.read_bytes())
    loose.chmod(0o644)
    for damaged in (
        zlib.compress(text.replace(b"2024", b"2023").replace(b"committer a", b"committer b")),
        zlib.compress(b"blob" + text[6:]),
        zlib.compress(b"commit 9\0" + b"x" * (2 << 20)),
        text,
        b"",
    ):
        loose.write_bytes(damaged)
        assert commit_date(folder / ".git", first) is None
    tree = run_git(folder, "rev-parse", f"{others[0]}^{{tree}}").strip()
    assert commit_date(folder / ".git", tree) is None
    assert days(folder, others) == {commit: expected[commit] for commit in others}


@pytest.mark.parametrize("suffix", ["idx", "pack"])
def test_a_damaged_pack_gives_no_wrong_day(suffix: str, history: tuple[Path, dict[str, str]]) -> None:
    folder, expected = history
    run_git(folder, "repack", "-a", "-d", "-f", "--depth=50", "--window=50", "--quiet")
    (path,) = (folder / ".git" / "objects" / "pack").glob(f"*.{suffix}")
    whole = path.read_bytes()
    path.chmod(0o644)
    rng = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 40)):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged if rng.random() < 0.7 else damaged[: rng.randrange(len(whole))])
        for commit, day in days(folder, expected).items():
            assert day in (None, expected[commit])


SIZE = b"\x0f"  # of an entry; it is not read
BIG = b"committer a <a@example.org> 1709251200 +0000\n\n" + b"x" * (1 << 17)
"""A commit of 1 March 2024, long enough for a delta that copies 64 KiB."""
BIG_NAME = hashlib.sha1(b"commit %d\0" % len(BIG) + BIG, usedforsecurity=False).hexdigest()
OTHER = "ff" * 20
"""Name of an entry after the commit; no content has this hash."""


def pack(folder: Path, entries: dict[str, bytes]) -> Path:
    """Write a pack and its index from the bytes of entries by name, in the order of the names; return the folder."""
    place, places, names = 12, [], [bytes.fromhex(name) for name in entries]
    for entry in entries.values():
        places.append(struct.pack(">I", place))
        place += len(entry)
    fanout = [struct.pack(">I", sum(name[0] <= first for name in names)) for first in range(256)]
    index = [b"\xfftOc\0\0\0\x02", *fanout, *names, bytes(4 * len(names)), *places]
    (folder / "objects" / "pack").mkdir(parents=True)
    (folder / "objects" / "pack" / "pack-1.idx").write_bytes(b"".join(index))
    whole = [b"PACK", struct.pack(">II", 2, len(entries)), *entries.values(), bytes(20)]
    (folder / "objects" / "pack" / "pack-1.pack").write_bytes(b"".join(whole))
    return folder


def entry(kind: int, data: bytes, *, size: bytes = SIZE, base: bytes = b"") -> bytes:
    return bytes([kind << 4 | size[0]]) + size[1:] + base + zlib.compress(data)


def varint(number: int) -> bytes:
    digits = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_crafted_pack_is_read(tmp_path: Path) -> None:
    assert commit_date(pack(tmp_path / "whole", {BIG_NAME: entry(1, BIG)}), BIG_NAME) == "2024-03-01"
    start = BIG[: 1 << 16]
    delta = varint(len(start)) + varint(len(BIG)) + b"\x80"
    rest = BIG[1 << 16 :]
    delta += b"".join(bytes([len(part)]) + part for part in (rest[at : at + 127] for at in range(0, len(rest), 127)))
    entries = {BIG_NAME: entry(7, delta, base=bytes.fromhex(OTHER)), OTHER: entry(1, start)}
    assert commit_date(pack(tmp_path / "delta", entries), BIG_NAME) == "2024-03-01"


def test_a_delta_that_copies_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    bomb = varint(len(BIG)) + varint(1 << 20) + b"\x80" * ((1 << 20) - 100)
    folder = pack(tmp_path, {BIG_NAME: entry(1, BIG), OTHER: entry(7, bomb, base=bytes.fromhex(BIG_NAME))})
    assert (folder / "objects" / "pack" / "pack-1.pack").stat().st_size < 3000
    limited = (
        "import resource, sys; from pathlib import Path; from ibidem.data.sources.git_objects import commit_date;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "print(*(commit_date(Path(sys.argv[1]), name) for name in sys.argv[2:]))"
    )
    words = [sys.executable, "-c", limited, str(folder), BIG_NAME, OTHER]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("2024-03-01 None\n", 0), done.stderr[-1000:]
    short = varint(len(BIG)) + varint(1) + b"\x80" * 1000

    def work() -> None:
        with pytest.raises(ValueError, match="malformed"):
            applied(short, BIG)

    assert peak_bytes(work) < 1 << 20


class Unending:
    """Bytes of which each says that the number goes on."""

    def __init__(self, start: bytes) -> None:
        self.start, self.reads = start, 0

    def __getitem__(self, at: int) -> int:
        self.reads += 1
        assert self.reads < 100, "the number is read without end"
        return self.start[at] if at < len(self.start) else 255


@pytest.mark.parametrize("start", [b"\xff", b"\x6f"], ids=["size", "offset of the base"])
def test_a_number_of_an_entry_without_end_is_refused(start: bytes) -> None:
    with pytest.raises(ValueError, match="number"):
        _entry(Unending(start), 0, 20)


def test_a_number_of_a_delta_without_end_is_refused() -> None:
    assert applied(b"\x80" * 9 + b"\0\0", b"") == b""
    for delta in (b"\x80" * 10 + b"\0\0", b"\0" + b"\x80" * 10 + b"\0"):
        with pytest.raises(ValueError, match="number"):
            applied(delta, b"")


@pytest.mark.parametrize(
    "damaged",
    [
        entry(1, BIG, size=b"\x8f" + b"\x80" * 1_000_000 + b"\0"),
        entry(6, b"\0\0", base=b"\xff" * 1_000_000 + b"\0"),
        entry(6, b"\0\0", base=b"\0"),
        entry(7, b"\0\0" + b"\x80" * 1_000_000),
        entry(7, b"\x80" * 1_000_000 + b"\0", base=bytes.fromhex(OTHER)),
    ],
    ids=["size", "offset", "its own base", "no base", "size of the base"],
)
def test_a_crafted_entry_gives_no_day(damaged: bytes, tmp_path: Path) -> None:
    assert commit_date(pack(tmp_path, {BIG_NAME: damaged, OTHER: entry(1, BIG)}), BIG_NAME) is None


@pytest.mark.parametrize("size", [2, (1 << 20) - 100])
def test_deltas_of_each_other_end_without_a_day(size: int, tmp_path: Path) -> None:
    one, two = (entry(7, bytes(size), base=bytes.fromhex(name)) for name in (OTHER, BIG_NAME))
    folder = pack(tmp_path, {BIG_NAME: one, OTHER: two})

    def work() -> None:
        assert [commit_date(folder, name) for name in (BIG_NAME, OTHER)] == [None, None]

    assert peak_bytes(work) < 8 << 20


def test_the_manifest_records_clones_and_nothing_where_there_are_none(
    history: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = history
    commit = next(iter(expected))
    run_git(folder, "remote", "add", "origin", URL)
    (folder / "b.py").write_text(python_file(1))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "b.py").write_text(python_file(1))
    counts = {}
    for name in (folder.name, "plain"):
        preprocess(PreprocessConfig(dataset=(f"{tmp_path / name}:train:text",), output_dir=tmp_path / f"{name}.data"))
        counts[name] = artifacts.load(tmp_path / f"{name}.data").counts
    of_clone = {"repo": "Octo/Cat", "commit": commit, "address": "https://github.com/Octo/Cat"}
    assert counts[folder.name]["clones"] == [{"source": str(folder), **of_clone, "date": expected[commit]}]
    assert "clones" not in counts["plain"]


def requests_file(folder: Path, *requests: dict[str, str]) -> Path:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def kept(dataset: Path) -> set[str]:
    return {row for path in shards.shard_paths(dataset) for row in pq.read_table(path)["record"].to_pylist()}


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "repo", "value": "octo/cat"},
        {"kind": "repo", "value": "https://github.com/octo/cat/tree/main"},
        {"kind": "repo", "value": "git@github.com:octo/cat.git"},
        {"kind": "owner", "value": "octo"},
        {"kind": "url", "value": "https://github.com/octo/cat"},
        {"kind": "path", "value": "src/*.py", "repo": "https://github.com/Octo/Cat.git"},
        {"kind": "path", "value": "src/*.py", "repo": "octo/cat"},
        {"kind": "path", "value": "clones/one/src/*.py"},
    ],
)
def test_a_takedown_by_repository_finds_a_clone(request_: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    clone(source / "clones" / "one", files=("src/a.py", "src/b.py"))
    clone(source / "clones" / "two", "https://git.example.org/octo/cat", files=("src/c.py",))
    preprocess(PreprocessConfig(dataset=(f"{source}:train:text",), output_dir=tmp_path / "data"))
    command = [str(requests_file(tmp_path, request_)), "--dataset", str(tmp_path / "data")]
    assert main(["takedown", "apply", *command, "--artifacts", str(tmp_path)]) == 0
    assert kept(tmp_path / "data") == {"clones/two/src/c.py"}
    preprocess(
        PreprocessConfig(
            dataset=(f"{source}:train:text",),
            output_dir=tmp_path / "asked",
            removals={"requests": (tmp_path / "requests.jsonl",)},
        )
    )
    assert artifacts.load(tmp_path / "asked").digest == artifacts.load(tmp_path / "data").digest


@pytest.mark.parametrize("owner", ["git.example.org/octo", "https://git.example.org/octo/", "git.example.org"])
def test_an_owner_on_another_host_is_named_with_the_host(owner: str, tmp_path: Path) -> None:
    (request,) = load_requests([requests_file(tmp_path, {"kind": "owner", "value": owner})])
    empty = dict.fromkeys(("record", "repo", "path", "url", "raw_sha256", "sha256", "swhid"))
    from ibidem.data.filters.removals import Matcher

    assert Matcher([request]).find(empty | {"repo": "git.example.org/octo/cat"})
    assert not Matcher([request]).find(empty | {"repo": "octo/cat"})


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ([("Project-URL", "Source, https://github.com/octo/cat/")], "https://github.com/octo/cat"),
        ([("Project-URL", "source_code, https://me:token@github.com/octo/cat")], "https://github.com/octo/cat"),
        ([("Project-URL", "Repository, https://codeberg.org/octo/cat.git")], "https://codeberg.org/octo/cat"),
        ([("Home-page", "https://github.com/octo/cat")], "https://github.com/octo/cat"),
        ([("Project-URL", "Homepage, https://github.com/octo/cat")], "https://github.com/octo/cat"),
        ([("Home-page", "https://octo.example.org/cat")], None),
        ([("Home-page", "https://github.com/octo")], None),
        ([("Project-URL", "Funding, https://github.com/sponsors/octo")], None),
        ([("Project-URL", "Source")], None),
        ([], None),
    ],
)
def test_the_repository_of_a_package_is_read_from_its_metadata(headers: list[tuple[str, str]], url: str | None) -> None:
    about = Message()
    for name, value in headers:
        about[name] = value
    assert _repository_url(about) == url


def test_a_takedown_by_repository_finds_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = []
    for number, (name, url) in enumerate([("cat", "https://github.com/Octo/Cat"), ("dog", None)]):
        path = tmp_path / f"{name}.py"
        path.write_text(python_file(number))
        packages.append(Package(name, "1.0", "MIT", url, ((f"{name}.py", path),)))
    monkeypatch.setattr("ibidem.data.sources.installed._packages", lambda: iter(packages))
    preprocess(PreprocessConfig(dataset=("installed-packages:train:text",), output_dir=tmp_path / "data"))
    command = [str(requests_file(tmp_path, {"kind": "repo", "value": "octo/cat"})), "--dataset", str(tmp_path / "data")]
    assert main(["takedown", "apply", *command, "--artifacts", str(tmp_path)]) == 0
    assert kept(tmp_path / "data") == {"dog==1.0/dog.py"}


def test_most_installed_packages_have_a_repository() -> None:
    source = InstalledPackages(Spec("installed-packages", None, "train", "text"), cap_bytes=10_000)
    urls: dict[str, Any] = {piece.fields["repo"]: piece.fields["url"] for piece in source.pieces()}
    assert urls["pytest"] == "https://github.com/pytest-dev/pytest"
    assert urls["python"] is None


def test_a_repository_of_a_request_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    spellings = ["octo/cat", "https://github.com/octo/cat.git", "git@github.com:octo/cat"]
    rows = [{"kind": "path", "value": "a.py", "repo": spelling} for spelling in spellings]
    assert load_requests([requests_file(tmp_path, *rows)]) == [Request("path", "a.py", "octo/cat")]
