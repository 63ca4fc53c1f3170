"""Copies of checkpoints at a URL: a folder, memory, S3, or whatever else fsspec opens.

    URL/step-000040/model.safetensors ...    each file is hashed on its way: what arrives is what was sealed
    URL/step-000040/manifest.json            last; without it there is no copy

A copier never stops a run: while the remote is gone, it tries again, and goes to the newest checkpoint. Nothing is
deleted at the remote except the manifest of a copy that is replaced. `fetch` brings back the newest copy that is whole.
"""

import json
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ibidem import artifacts, log
from ibidem.artifacts import MANIFEST, Artifact
from ibidem.errors import ArtifactError, CheckpointError, DigestMismatch
from ibidem.files import flush, hidden, sweep
from ibidem.places import Place, opened, said, shut, stream
from ibidem.readers import readers_of
from ibidem.runs import folder_of, step_of

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
"""How long a copier waits after a failure: each time twice as long."""


class Copier:
    """Copies the newest checkpoint of a run to a URL, in a thread of its own."""

    def __init__(self, url: str) -> None:
        """Begin without a checkpoint.

        Raises:
            ConfigError: the URL cannot be opened here.
        """
        self._url, self._place = url, opened(url)
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._done: set[str] = set()
        self._failure: str | None = None
        self._ends = False
        self._moved_at = time.monotonic()
        self.copying: Path | None = None
        """The checkpoint that must stay until it is copied."""
        self._thread = threading.Thread(target=self._run, name="copies", daemon=True)
        self._thread.start()

    def offer(self, checkpoint: Path) -> None:
        """Copy a checkpoint as soon as the one before is copied, unless there is a newer one by then."""
        with self._changed:
            self._waiting = checkpoint
            self._changed.notify_all()

    def close(self, patience_s: float, silence_s: float) -> None:
        """Wait for the copy of the newest checkpoint as long as it moves. What is not copied is reported.

        Args:
            patience_s: how long a store may fail.
            silence_s: how long a store may neither take anything nor fail.
        """
        begun = self._moved_at = time.monotonic()
        with self._changed:
            while self._left() and (reason := self._gives_up(begun, patience_s, silence_s)) is None:
                self._changed.wait(0.1)
            left, self._ends = self._left(), True
            self._changed.notify_all()
        if left is not None:
            log.event("checkpoint.not_copied", path=str(left), reason=f"the run ends: {reason}")

    def _gives_up(self, begun: float, patience_s: float, silence_s: float) -> str | None:
        now = time.monotonic()
        if self._failure and now >= begun + patience_s:
            return self._failure
        if now >= self._moved_at + silence_s:
            return self._failure or f"{self._url}: nothing has arrived for {silence_s:g} s, and no error came"
        return None

    def _moves(self) -> None:
        self._moved_at = time.monotonic()

    def _left(self) -> Path | None:
        return self._waiting or self.copying

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left() or self._ends)
                if self._ends:
                    return
                if self._waiting is not None:
                    self.copying, self._waiting, self._done = self._waiting, None, set()
            assert self.copying is not None
            failure = self._copy(self.copying)
            with self._changed:
                if failure is None:
                    self.copying, self._failure, retry_s = None, None, FIRST_RETRY_S
                    self._changed.notify_all()
                    continue
                if failure != self._failure:
                    log.event("checkpoint.not_copied", path=str(self.copying), reason=f"{failure}; it is tried again")
                self._failure = failure
                self._changed.wait_for(lambda: self._ends or self._waiting is not None, timeout=retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _copy(self, checkpoint: Path) -> str | None:
        """Copy what is not copied yet; return why it could not be."""
        try:
            copy(checkpoint, self._place, self._done, self._moves)
        except Exception as error:  # noqa: BLE001 - every store has errors of its own
            if not (checkpoint / MANIFEST).exists():
                return None  # it was removed meanwhile; a newer one follows
            return f"{self._url}: {said(error)}"
        log.event("checkpoint.copied", path=str(checkpoint), url=f"{self._url.rstrip('/')}/{checkpoint.name}")
        return None


def copy(folder: Path, place: Place, done: set[str], moved: Callable[[], None] = lambda: None) -> None:
    """Copy an artifact, the manifest last.

    Args:
        folder: the artifact.
        place: where its folder is to be.
        done: names of files that are there already; those that are copied are added.
        moved: called whenever the store has taken something.

    Raises:
        DigestMismatch: a file is not what was sealed.
    """
    artifact, target = artifacts.load(folder), folder.name
    manifest = (folder / MANIFEST).read_bytes()
    at = place.at(target, MANIFEST)
    if place.files.exists(at):
        if place.files.cat_file(at) == manifest:
            return
        place.files.rm_file(at)
    if readers_of(artifact.config) is not None:
        shut(Place(place.files, place.at(target)))
    for name, file in artifact.files.items():
        if name in done:
            continue
        path = place.at(target, name)
        place.files.makedirs(path.rpartition("/")[0], exist_ok=True)
        with (folder / name).open("rb") as source, place.files.open(path, "wb") as sink:
            found = stream(source, sink, moved)
        moved()
        if found != file.sha256:
            raise DigestMismatch(f"{folder / name}: damaged; its sha256 differs from the manifest's")
        done.add(name)
    place.files.pipe_file(at, manifest)


def fetch(url: str, run: Path, kind: str, *, beyond: int, make_way: Callable[[], None] = lambda: None) -> Path | None:
    """Bring back the newest whole copy of a run's checkpoint.

    Args:
        url: where the checkpoints were copied to.
        run: the run's folder, which has no checkpoint after the step `beyond`.
        kind: kind of the artifacts.
        beyond: only later steps are fetched.
        make_way: called when a copy is whole, before it appears.

    Returns:
        The folder in the run; None if there is nothing later at the URL.

    Raises:
        CheckpointError: the remote cannot be read, or has copies none of which is whole.
        ConfigError: the URL cannot be opened here.
    """
    place = opened(url)
    try:
        steps = _steps(place)
    except Exception as error:  # noqa: BLE001 - every store has errors of its own
        raise CheckpointError(f"{url}: cannot be read: {said(error)}; nothing was started") from None
    refused: list[str] = []
    for step in (step for step in steps if step > beyond):
        try:
            return _fetch(place, folder_of(run, step), kind, make_way)
        except ArtifactError as error:
            refused.append(str(error))
            log.event("checkpoint.refused", step=step, reason=str(error))
        except Exception as error:  # noqa: BLE001
            raise CheckpointError(f"{url}: step {step} cannot be fetched: {said(error)}; try again") from None
    if refused and beyond < 0:
        raise CheckpointError(f"{url}: no copy is whole; {refused[0]}")
    return None


def _steps(place: Place) -> list[int]:
    """Return the steps whose manifest is there, newest first."""
    place.files.invalidate_cache()
    try:
        names = [PurePosixPath(path) for path in place.files.ls(place.root, detail=False)]
    except FileNotFoundError:
        return []
    steps = {path.name: step_of(Path(path.name)) for path in names}
    whole = (step for name, step in steps.items() if step is not None and place.files.exists(place.at(name, MANIFEST)))
    return sorted(whole, reverse=True)


def _fetch(place: Place, folder: Path, kind: str, make_way: Callable[[], None]) -> Path:
    """Fetch one copy into a hidden folder, check every file, and let it appear.

    Raises:
        ArtifactError: it is not whole, or of another kind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    beside = hidden(folder, "partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    try:
        (beside / MANIFEST).write_bytes(place.files.cat_file(place.at(folder.name, MANIFEST)))
        artifact = artifacts.load(beside, kind=kind)
        for name in artifact.files:
            _check_name(name, artifact)
            _download(place, folder.name, name, artifact)
        if readers_of(artifact.config) is None:
            beside.chmod(stat.S_IMODE(folder.parent.stat().st_mode))
        flush(beside)
        make_way()
        beside.rename(folder)
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    log.event("checkpoint.fetched", path=str(folder), digest=artifact.digest)
    return folder


def _download(place: Place, folder: str, name: str, artifact: Artifact) -> None:
    path = artifact.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with place.files.open(place.at(folder, name), "rb") as source, path.open("wb") as sink:
            found = stream(source, sink)
    except FileNotFoundError:
        raise DigestMismatch(f"{folder}/{name}: missing, but listed in the manifest") from None
    if found != artifact.files[name].sha256:
        raise DigestMismatch(f"{folder}/{name}: damaged; its sha256 differs from the manifest's")
    flush(path)


def _check_name(name: str, artifact: Artifact) -> None:
    """Refuse a name that leads out of the folder: a manifest at a remote may be anybody's."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ArtifactError(f"{artifact.path.name}: the manifest names {json.dumps(name)}, outside of its folder")
