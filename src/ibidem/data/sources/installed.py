"""A corpus available on every machine: Python's standard library and the installed packages, with their licenses."""

import hashlib
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from importlib import metadata
from pathlib import Path

from ibidem.artifacts import Input
from ibidem.data.licenses.spdx import package_license
from ibidem.data.sources.readers import Piece
from ibidem.data.sources.spec import Spec, check_no_column, content_digest
from ibidem.data.text import language
from ibidem.data.text.repository import HOSTS, place_of, repository_of

STANDARD_LIBRARY_LICENSE = "PSF-2.0"
NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
SOURCE_LABELS = ("source", "sourcecode", "repository", "code", "github", "githubproject", "gitlab")
HOME_LABELS = ("homepage", "home")
"""Labels of `Project-URL`, in lower case without punctuation (https://packaging.python.org, well-known project URLs). A
home page counts only on a host of repositories."""


@dataclass(frozen=True)
class Package:
    """A distribution and its source files."""

    name: str
    version: str
    license: str | None
    url: str | None
    """Address of its repository, by its metadata."""
    files: tuple[tuple[str, Path], ...]


@dataclass
class InstalledPackages:
    """Source and text files of this interpreter; at most `cap_bytes` of each package, so that none dominates."""

    spec: Spec
    cap_bytes: int
    skipped: Counter[str] = field(default_factory=Counter)

    @cached_property
    def _found(self) -> tuple[Package, ...]:
        """The packages; listed once, so that what is read is what was digested."""
        return tuple(_packages())

    def as_input(self) -> Input:
        check_no_column(self.spec)
        files = [
            (f"{package.name}=={package.version}/{name}", path)
            for package in self._found
            for name, path in self._within_cap(package)
        ]
        urls = [f"{package.name} {package.url}" for package in self._found if package.url]
        return Input("source", content_digest(files, urls), self.spec.name, is_artifact=False)

    def pieces(self, spool: Path | None = None) -> Iterator[Piece]:  # noqa: ARG002 - nothing is remote
        self.skipped.clear()
        first = 0
        for package in self._found:
            chosen = self._within_cap(package)
            if over := len(package.files) - len(chosen):
                self.skipped["over the cap of its package"] += over
            for name, path in chosen:
                fields = {
                    "record": f"{package.name}=={package.version}/{name}",
                    "revision": package.version,
                    "repo": package.name,
                    "url": package.url,
                    "license_raw": package.license,
                }
                yield Piece(str(path), name, first, 1, self.spec.name, fields=fields, license_stated=True)
                first += 1

    def _within_cap(self, package: Package) -> list[tuple[str, Path]]:
        """Choose files up to the cap by the hash of their names, so that no part of the package is favored."""
        chosen, size = [], 0
        for name, path in sorted(package.files, key=lambda file: hashlib.sha256(file[0].encode()).digest()):
            size_file = path.stat().st_size
            if size + size_file <= self.cap_bytes:
                chosen.append((name, path))
                size += size_file
        return sorted(chosen)


def _packages() -> Iterator[Package]:
    yield _standard_library()
    folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    distributions = metadata.distributions(path=folders)
    by_name = {distribution.name.lower(): distribution for distribution in distributions if distribution.name}
    for name in sorted(by_name):
        yield _package(by_name[name])


def _standard_library() -> Package:
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path.relative_to(root) for path in root.rglob("*"))
    names = (path.as_posix() for path in paths if not NOT_THE_LIBRARY.intersection(path.parts))
    files = _sources(names, root.joinpath)
    return Package("python", platform.python_version(), STANDARD_LIBRARY_LICENSE, None, files)


def _package(distribution: metadata.Distribution) -> Package:
    about, names = distribution.metadata, map(str, distribution.files or ())
    files = _sources(names, distribution.locate_file)
    return Package(about["Name"], about["Version"], package_license(about), _repository_url(about), files)


def _repository_url(about: Message | metadata.PackageMetadata) -> str | None:
    """Return the address of the repository that the metadata name, without credentials."""
    labeled = [str(line).partition(",")[::2] for line in about.get_all("Project-URL") or []]
    urls = {re.sub(r"[\W_]", "", label).lower(): url.strip() for label, url in labeled}
    stated = [urls[label] for label in SOURCE_LABELS if label in urls]
    homes = [urls[label] for label in HOME_LABELS if label in urls] + list(about.get_all("Home-page") or [])
    hosted = [url for url in homes if (place_of(url) or "").partition("/")[0] in HOSTS]
    return next((f"https://{place_of(url)}" for url in (*stated, *hosted) if repository_of(url)), None)


def _sources(names: Iterable[str], locate: Callable[[str], object]) -> tuple[tuple[str, Path], ...]:
    chosen = (name for name in names if language.by_name(name) and ".dist-info/" not in name)
    files = ((name, Path(str(locate(name)))) for name in chosen)
    return tuple((name, path) for name, path in files if path.is_file())
