"""Artifact folders: written atomically, sealed by a manifest, traceable to what they were made from.

An artifact is a folder with `manifest.json`, written last: the work happens in a hidden folder beside the final one,
every file is flushed to disk and hashed, the manifest names them all, and one rename makes the folder appear, or
exchanges it with an older one. A folder without a valid manifest does not exist for the next stage.

The digest covers the kind, the program's version, the digests of the inputs, the settings, the counts and the files.
It does not cover `volatile`: creation time, host, duration, and the files' modification times, by which `check`
recognizes unchanged files. Same inputs and settings, same digest. `signature.json`, if there is one, signs the digest
and is not among the files.
"""

import ctypes
import difflib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import __version__, delivery, log, places, workfiles
from ibidem.errors import ArtifactError, DigestMismatch, StoreError
from ibidem.files import Engine, flush, hidden, on_each, sha256_of, sweep
from ibidem.places import StorePath, opened, relative, shut

MANIFEST, SIGNATURE = "manifest.json", "signature.json"
SETTLED_NS = 2_000_000_000
"""A file modified less than this before sealing is always rehashed: a later change could have the same timestamp. Two
seconds is the coarsest timestamp of a file system (FAT)."""
_WHOLE = ".whole"
"""Written last into a folder of a workspace at a store."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class Input:
    """Something that an artifact was made from: another artifact, or an external source."""

    role: str
    """Its role in the stage: `tokenizer`, `dataset`, `source`."""
    digest: str
    name: str
    """The artifact's path relative to the folder that was made, or the source's own name."""
    is_artifact: bool = True

    @classmethod
    def of_file(cls, role: str, path: Path) -> "Input":
        """Return an external file as an input, identified by its content."""
        return cls(role, f"sha256:{sha256_of(path)}", path.name, is_artifact=False)


@dataclass(frozen=True)
class File:
    """One file of an artifact."""

    sha256: str
    bytes: int
    rows: int | None = None


@dataclass(frozen=True)
class Artifact:
    """A sealed folder, as its manifest describes it."""

    path: Path
    kind: str
    version: str
    digest: str
    inputs: tuple[Input, ...]
    config: Mapping[str, Any]
    counts: Mapping[str, Any]
    files: Mapping[str, File]
    volatile: Mapping[str, Any]

    def digest_of(self, role: str) -> str | None:
        """Return the digest of the input with a role; None if it has no such input."""
        return next((item.digest for item in self.inputs if item.role == role), None)

    def as_input(self, role: str, *, of: Path) -> Input:
        """Return this artifact as an input of the artifact that will be at `of`."""
        return Input(role=role, digest=self.digest, name=relative(self.path, of))


@dataclass
class Draft:
    """An artifact being written: write files below `path`, and record their counts and rows."""

    path: Path
    counts: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    """sha256 of files that were hashed while they were written; they are not read again."""
    elsewhere: dict[str, Path] = field(default_factory=dict)
    """Files that are sent to a store from where they are, by name; see `add`."""
    is_sent: bool = False
    """Whether the artifact is sent to a store."""
    mark: Callable[[str], str] | None = None
    """Returns a mark of the digest, which the manifest keeps in `volatile`."""
    is_discarded: bool = False

    def add(self, name: str, path: Path, *, sha256: str, rows: int | None = None) -> None:
        """Make a finished file a part of the artifact, without copying it here.

        Args:
            name: its name in the artifact.
            path: where it is; neither changed nor deleted before the artifact is sealed.
            sha256: of its content.
            rows: number of its rows.
        """
        self.hashes[name] = sha256
        self.rows |= {} if rows is None else {name: rows}
        if self.is_sent:
            self.elsewhere[name] = path
        else:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, self.path / name)

    def discard(self) -> None:
        """Leave everything unchanged."""
        self.is_discarded = True


@contextmanager
def create(
    path: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    inputs: Sequence[Input] = (),
    started: float | None = None,
    is_private: bool = False,
    beside: Path | None = None,
    engine: Engine | None = None,
) -> Iterator[Draft]:
    """Create the artifact at `path` from what the block writes, or leave everything unchanged if it fails or discards.

    An older artifact of the same kind at `path` is replaced. A kill at any moment leaves the old one, the new one, or
    a hidden leftover that the next `create` in that folder removes. `started` is when the work began, by
    `time.monotonic()`, if that was before the block. Only the owner may open a folder that `is_private`; one that
    replaces another has the mode of that.

    At a store, the artifact is delivered (see `delivery`): a kill then leaves the old one, the new one, or none, and
    parts that the next `create` there removes. The draft is in the folder `beside`, or in the current one; if that is
    at a store, too, in the folder of temporary files. The tasks that deliver what was added run on `engine`, or here.

    Raises:
        ArtifactError: `path` is something other than an artifact of this kind; it is never overwritten.
        StoreError: the store fails.
    """
    check_replaceable(path, kind)
    before = load(path, kind=kind) if (path / MANIFEST).exists() else None
    started = time.monotonic() if started is None else started
    here = working_path(path, beside)
    if isinstance(here, StorePath):
        here = Path(tempfile.gettempdir(), here.name)
    here.parent.mkdir(parents=True, exist_ok=True)
    sweep(here.parent)
    draft = Draft(hidden(here, "partial"), is_sent=isinstance(path, StorePath))
    shutil.rmtree(draft.path, ignore_errors=True)
    draft.path.mkdir(mode=0o700 if is_private else 0o777)
    if is_private and not isinstance(path, StorePath) and path.exists():
        draft.path.chmod(stat.S_IMODE(path.stat().st_mode))
    try:
        yield draft
        if draft.is_discarded:
            shutil.rmtree(draft.path)
            return
        facts = _Facts(kind, config, inputs, time.monotonic() - started)
        if is_private and isinstance(path, StorePath):
            shut(path.place)
        digest = _deliver(draft, path, facts, before, engine) if isinstance(path, StorePath) else _seal(draft, facts)
        if before is not None and before.digest != digest:
            log.event("artifact.replaced", kind=kind, path=str(path), digest=before.digest)
        if isinstance(path, StorePath):
            shutil.rmtree(draft.path)
        else:
            _publish(draft.path, path)
    except BaseException:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise


def load(path: Path, *, kind: str | None = None) -> Artifact:
    """Read the manifest at `path`; the files themselves are checked by `check` and `verify`.

    Raises:
        ArtifactError: there is no manifest, it cannot be read, or it is of another kind.
        DigestMismatch: the manifest was edited.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: {_absence(path)}{_expected(kind)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path / MANIFEST}: cannot be read: {error}") from None
    try:
        artifact = Artifact(
            path=path,
            kind=manifest["kind"],
            version=manifest["version"],
            digest=manifest["digest"],
            inputs=tuple(Input(**item) for item in manifest["inputs"]),
            config=manifest["config"],
            counts=manifest["counts"],
            files={name: File(**item) for name, item in manifest["files"].items()},
            volatile=manifest["volatile"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else "its keys have other types"
        raise ArtifactError(f"{path / MANIFEST}: not a manifest: {what}") from None
    if artifact.digest != _digest(artifact):
        raise DigestMismatch(f"{path / MANIFEST}: the manifest does not match its own digest; it was edited")
    if kind is not None and artifact.kind != kind:
        raise ArtifactError(f"{path}: this is {with_article(artifact.kind)}{_expected(kind)}")
    return artifact


def verify(path: Path, *, kind: str | None = None, engine: Engine | None = None) -> Artifact:
    """Load the artifact and rehash all its files: in tasks of an engine, or on the cores of this machine.

    Raises:
        DigestMismatch: a file is missing, damaged, or not listed in the manifest.
    """
    artifact = load(path, kind=kind)
    on_each(_rehash, [(path / name, file) for name, file in artifact.files.items()], engine)
    if strangers := sorted(set(_file_names(path)) - set(artifact.files)):
        raise DigestMismatch(f"{path / strangers[0]}: not listed in the manifest")
    return artifact


def check(artifact: Artifact, names: Iterable[str] | None = None) -> None:
    """Check the files of an artifact before they are read; files unchanged since sealing are not rehashed.

    Args:
        artifact: the artifact.
        names: names of the files; None for all.

    Raises:
        DigestMismatch: a file is missing or damaged.
    """
    names = artifact.files if names is None else names
    if isinstance(artifact.path, StorePath):
        _check_held(artifact, artifact.path, names)
        return
    times = artifact.volatile.get("times_ns", {})
    for name in names:
        _check_file(artifact.path / name, artifact.files[name], time_ns=times.get(name))


def _check_held(artifact: Artifact, path: StorePath, names: Iterable[str]) -> None:
    """Check files of a store by one listing; those with another stamp than when they were sent are read."""
    listing, stamps = path.listing(), artifact.volatile.get("stamps", {})
    for name in names:
        if name not in listing:
            raise DigestMismatch(f"{path / name}: missing, but listed in the manifest")
        if listing[name].stamp != stamps.get(name):
            _check_file(path / name, artifact.files[name], time_ns=None)


def finished(
    path: Path, *, kind: str, config: Mapping[str, Any], inputs: Sequence[Input], beside: Path | None = None
) -> Artifact | None:
    """Return the artifact at `path` if it is intact and was made from these very inputs, settings and version."""
    try:
        artifact = load(path, kind=kind)
    except ArtifactError:
        return None
    same_inputs = [(i.role, i.digest) for i in artifact.inputs] == [(i.role, i.digest) for i in inputs]
    if not (same_inputs and artifact.config == _as_json(config) and artifact.version == __version__):
        return None
    try:
        check(artifact)
    except DigestMismatch as error:
        log.event("artifact.damaged", kind=kind, path=str(path), reason=str(error))
        return None
    _clear_workspaces(working_path(path, beside))  # of a run that was killed after it had finished
    reason = "it was made from the same inputs and settings"
    log.event("artifact.found", kind=kind, path=str(path), digest=artifact.digest, reason=reason)
    return artifact


def check_replaceable(path: Path, kind: str) -> None:
    """Refuse to overwrite anything but an artifact of the same kind that contains only its own files."""
    if isinstance(path, StorePath):
        opened(str(path))
    check_outside(path)
    if isinstance(path, StorePath):
        _check_replaceable_at(path, kind)
        return
    if path.is_symlink():
        raise ArtifactError(f"{path} is a symbolic link, and the link itself would be replaced; use {path.resolve()}")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        artifact = load(path, kind=kind)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} exists and is not {with_article(kind)} ({error}); delete it, or choose another path"
        ) from None
    if strangers := sorted(set(_file_names(path)) - set(artifact.files)):
        raise ArtifactError(f"{path} contains {strangers[0]}, which is not part of the artifact; move it away first")


def _check_replaceable_at(path: StorePath, kind: str) -> None:
    names, before = path.listing(), delivery.left_behind(path)
    known = {MANIFEST, SIGNATURE, delivery.MARKER, *(before[1] if before else ())}
    if MANIFEST in names or before is None or before[0] != kind:
        if not names:
            return
        try:
            known |= load(path, kind=kind).files.keys()
        except ArtifactError as error:
            raise ArtifactError(
                f"{path} exists and is not {with_article(kind)} ({error}); delete it, or choose another place"
            ) from None
    if strangers := sorted(name for name in names if name not in known and not delivery.is_probe(name)):
        raise ArtifactError(f"{path} contains {strangers[0]}, which is not part of the artifact; move it away first")


def working_path(path: Path, beside: Path | None = None) -> Path:
    """Return the path beside which the work on an artifact is: `path`, unless it is at a store.

    Args:
        path: of the artifact.
        beside: a folder for work files, here or at a store; None: the current one.
    """
    if not isinstance(path, StorePath):
        return path
    key = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return (beside or Path.cwd()) / f"{path.name}-{key}"


def check_writable(path: Path) -> None:
    """Refuse a place at a store to which nothing can be written, before the work is done.

    Raises:
        StoreError: the store cannot be reached, its bucket is not there, or we may not write to it.
    """
    if isinstance(path, StorePath):
        delivery.check_writable(path)


def check_outside(path: Path) -> None:
    """Refuse a path inside an artifact: writing there would damage it."""
    for folder in path.resolve().parents:
        if has_manifest(folder):
            raise ArtifactError(f"{path} is inside the artifact {folder}; choose a path outside it")


def has_manifest(folder: Path) -> bool:
    """Check whether a folder is an artifact; where we may not look, it is none."""
    try:
        return (folder / MANIFEST).is_file()
    except StoreError:  # we may see no more than our own part of a bucket
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine from writing to the same folder.

    Raises:
        ArtifactError: another process is writing to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{folder}: another process is writing there; wait for it, or choose another folder"
            ) from None
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from changing the artifact at `path`; sweep what killed ones left beside it.

    Raises:
        ArtifactError: another process is changing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.lock"
    while True:
        with beside.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(f"{path}: another process is changing it; try again when it has finished") from None
            if not _is_at(file.fileno(), beside):  # its holder removed it before we had the lock
                continue
            try:
                sweep(path.parent)
                yield
            finally:
                beside.unlink()
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def workspace(path: Path, *, config: Mapping[str, Any], inputs: Sequence[Input]) -> Iterator[Path]:
    """Yield a hidden folder beside `path` for the steps of a long run, with what an interrupted run left in it.

    Only a run with the same inputs, settings and version reuses it; the folders of other runs are deleted, and this one
    is deleted when the block succeeds. At a store, nothing locks it.

    Raises:
        ArtifactError: another process is using it.
    """
    identity = [__version__, config, [(item.role, item.digest, item.name) for item in inputs]]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = path.parent / f".{path.name}.work-{key}"
    _clear_workspaces(path, but=folder)
    with _held(folder):
        yield folder
        workfiles.remove(folder)


def discard(path: Path) -> None:
    """Delete the artifact at `path`, if there is one, and the workspaces of its interrupted runs.

    Raises:
        ArtifactError: a run is using such a workspace.
    """
    for folder in path.parent.glob(f".{path.name}.work-*"):
        with _held(folder):
            workfiles.remove(folder)
    if path.exists():
        aside = hidden(path, "replaced")
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    if isinstance(folder, StorePath):
        yield
        return
    if folder.is_symlink():  # planted: what is written there would go elsewhere
        folder.unlink()
    with locked(folder):
        yield


def _clear_workspaces(path: Path, *, but: Path | None = None) -> None:
    for folder in path.parent.glob(f".{path.name}.work-*"):
        if folder != but:
            with suppress(ArtifactError), _held(folder):
                workfiles.remove(folder)


@contextmanager
def make_folder(path: Path) -> Iterator[Path]:
    """Create a folder of a workspace atomically: yield a temporary folder, and rename it at the end.

    Workers may create the same folder concurrently, since they write the same content: the first one stays. At a store,
    the files appear one by one, and last the one by which `is_made` knows that all are there.
    """
    if isinstance(path, StorePath):
        with tempfile.TemporaryDirectory(prefix="ibidem-") as folder:
            yield Path(folder)
            for name in sorted(_file_names(Path(folder))):
                places.send(Path(folder, name), path / name)
        places.put(path / _WHOLE, b"")
        return
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    try:
        partial.rename(path)
    except OSError:
        if not path.exists():
            raise
        shutil.rmtree(partial, ignore_errors=True)


def is_made(path: Path) -> bool:
    """Check whether a folder of a workspace was created."""
    return (path / _WHOLE).is_file() if isinstance(path, StorePath) else path.exists()


def _check_file(path: Path, file: File, *, time_ns: int | None) -> None:
    """Rehash a file unless its modification time is the one recorded at sealing."""
    if isinstance(path, StorePath):
        _check_at_store(path, file)
        return
    if not path.is_file():
        raise DigestMismatch(f"{path}: missing, but listed in the manifest")
    found = path.stat()
    if found.st_size != file.bytes or (found.st_mtime_ns != time_ns and sha256_of(path) != file.sha256):
        raise DigestMismatch(f"{path}: damaged; its sha256 differs from the manifest's")


def _rehash(task: tuple[Path, File]) -> None:
    path, file = task
    _check_file(path, file, time_ns=None)


def _check_at_store(path: StorePath, file: File) -> None:
    try:
        found = sha256_of(path) if path.held().size == file.bytes else None
    except FileNotFoundError:
        raise DigestMismatch(f"{path}: missing, but listed in the manifest") from None
    if found != file.sha256:
        raise DigestMismatch(f"{path}: damaged; its sha256 differs from the manifest's")


class _Facts(NamedTuple):
    """What the manifest says besides the files."""

    kind: str
    config: Mapping[str, Any]
    inputs: Sequence[Input]
    seconds: float


def _seal(draft: Draft, facts: _Facts) -> str:
    """Hash the files and write the manifest; return the digest."""
    names = sorted(_file_names(draft.path))
    on_each(flush, [draft.path / name for name in names])
    read = on_each(lambda name: draft.hashes.get(name) or sha256_of(draft.path / name), names)
    stats = {name: (draft.path / name).stat() for name in names}
    files = {
        name: File(sha256=sha256, bytes=stats[name].st_size, rows=draft.rows.get(name))
        for name, sha256 in zip(names, read, strict=True)
    }
    settled_ns = time.time_ns() - SETTLED_NS
    times_ns = {name: stat.st_mtime_ns for name, stat in stats.items() if stat.st_mtime_ns < settled_ns}
    digest, text = _manifest(draft, facts, files, {"times_ns": times_ns})
    (draft.path / MANIFEST).write_text(text, encoding="utf-8")
    flush(draft.path / MANIFEST)
    if (draft.path / SIGNATURE).exists():
        flush(draft.path / SIGNATURE)
    _share(draft.path, names)
    for folder in [*(p for p in draft.path.rglob("*") if p.is_dir()), draft.path]:
        flush(folder)
    return digest


def _deliver(draft: Draft, path: StorePath, facts: _Facts, before: Artifact | None, engine: Engine | None) -> str:
    """Send the files to a store, and their manifest last; return the digest."""
    here = {name: draft.path / name for name in _file_names(draft.path)}
    names, known = sorted([*here, *draft.elsewhere]), () if before is None else before.files
    sent = delivery.deliver(here, draft.elsewhere, path, kind=facts.kind, known=known, engine=engine)
    files = {}
    for name in names:
        part = sent.parts[name]
        if draft.hashes.get(name, part.sha256) != part.sha256:
            place = draft.elsewhere.get(name, draft.path / name)
            raise DigestMismatch(f"{place}: damaged; its sha256 differs from what was written")
        files[name] = File(sha256=part.sha256, bytes=part.size, rows=draft.rows.get(name))
    stamps = {name: sent.listing[name].stamp for name in names}
    digest, text = _manifest(draft, facts, files, {"stamps": stamps})
    sent.seal(MANIFEST, text)
    return digest


def _manifest(draft: Draft, facts: _Facts, files: Mapping[str, File], more: Mapping[str, Any]) -> tuple[str, str]:
    """Return digest and text of a manifest."""
    volatile: dict[str, Any] = {
        "created": time.time(),
        "host": platform.node(),
        "seconds": round(facts.seconds, 3),
        **more,
    }
    artifact = Artifact(
        draft.path,
        facts.kind,
        __version__,
        "",
        tuple(facts.inputs),
        _as_json(facts.config),
        _as_json(draft.counts),
        files,
        volatile,
    )
    digest = _digest(artifact)
    if draft.mark is not None:
        volatile["mark"] = draft.mark(digest)
    manifest = {
        "kind": facts.kind,
        "digest": digest,
        "version": __version__,
        "inputs": [asdict(item) for item in facts.inputs],
        "counts": artifact.counts,
        "config": artifact.config,
        "files": {name: asdict(file) for name, file in files.items()},
        "volatile": volatile,
    }
    return digest, json.dumps(manifest, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _share(folder: Path, names: Iterable[str]) -> None:
    """Set the permissions of all files to the manifest's: some libraries write files that only their owner may read."""
    mode = stat.S_IMODE((folder / MANIFEST).stat().st_mode)
    for name in names:
        if stat.S_IMODE((folder / name).stat().st_mode) != mode:
            (folder / name).chmod(mode)


def _publish(folder: Path, path: Path) -> None:
    """Put a folder in the place of another, or of none; where the system can exchange them, one is always there."""
    replaced = folder
    if not path.exists():
        folder.rename(path)
    elif not _exchange(folder, path):
        replaced = hidden(path, "replaced")
        path.rename(replaced)
        folder.rename(path)
    flush(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    if replaced.exists():
        raise ArtifactError(f"{path} is written, but its earlier state cannot be deleted: delete {replaced}")


def _exchange(folder: Path, other: Path) -> bool:
    """Exchange two folders atomically (Linux's `renameat2`); return False where the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(folder), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}:
        return False
    raise OSError(error, os.strerror(error), str(other))


def _digest(artifact: Artifact) -> str:
    covered = {
        "kind": artifact.kind,
        "version": artifact.version,
        "inputs": [(item.role, item.digest) for item in artifact.inputs],
        "config": artifact.config,
        "counts": artifact.counts,
        "files": {name: asdict(file) for name, file in artifact.files.items()},
    }
    text = json.dumps(covered, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(value, allow_nan=False)))


def _file_names(path: Path) -> Iterator[str]:
    if isinstance(path, StorePath):
        beside = {MANIFEST, SIGNATURE, delivery.MARKER}
        yield from (name for name in path.listing() if name not in beside and not delivery.is_probe(name))
        return
    for file in path.rglob("*"):
        if not file.is_dir() and file not in {path / MANIFEST, path / SIGNATURE}:
            yield file.relative_to(path).as_posix()


def _absence(path: Path) -> str:
    if isinstance(path, StorePath):
        return f"no artifact there ({MANIFEST} is missing)"
    if path.exists():
        return f"no artifact here ({MANIFEST} is missing)"
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"no such folder{f'; did you mean {path.parent / close[0]}?' if close else ''}"


def _expected(kind: str | None) -> str:
    return f"; expected {with_article(kind)}" if kind else ""


def with_article(kind: str) -> str:
    """Return a kind with its article.

    >>> with_article("evaluation"), with_article("tokens")
    ('an evaluation', 'tokens')
    """
    if kind.endswith("s"):
        return kind
    return f"{'an' if kind[:1] in set('aeiou') else 'a'} {kind}"
