"""The worked examples of docs/extending.md are patches: each applies, changes few files, and does what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

MOST_CHANGED = {"filter": 3, "step": 4, "source": 3, "benchmark": 3, "objective": 3}
"""Existing files that an example may change."""
QUICK = ("benchmark",)
PARTS = (
    "src",
    "tests",
    "configs",
    "scripts",
    "docs",
    "README.md",
    "pyproject.toml",
)  # with their caches: kernels are not compiled again


PROMISES = (
    "tests/test_docs.py::test_every_command_says_which_artifacts_it_makes_or_reads",
    "tests/test_cli.py::test_every_command_shows_its_help_without_torch",
)
"""What the suite promises of every command."""


def patches() -> dict[str, str]:
    page = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r'^```diff title="(\w+)\.patch"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    return dict(blocks)


def run(command: list[str], copy: Path, given: str | None = None) -> None:
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    more = {"cwd": copy, "env": environment, "input": given, "text": True, "timeout": 300}
    done = subprocess.run(command, capture_output=True, check=False, **more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_every_example_is_counted() -> None:
    assert patches().keys() == MOST_CHANGED.keys()


@pytest.mark.parametrize("name", MOST_CHANGED)
def test_an_example_applies(name: str) -> None:
    run(["git", "apply", "--unidiff-zero", "--check", "-"], REPOSITORY, given=patches()[name])


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MOST_CHANGED]
)
def test_an_example_applies_and_works(name: str, tmp_path: Path) -> None:
    patch = patches()[name]
    added = re.findall(r"^\+\+\+ b/(\S+)", patch, re.MULTILINE)
    changed = [path for path in added if (REPOSITORY / path).exists()]
    assert len(changed) <= MOST_CHANGED[name], changed

    for part in PARTS:
        source = REPOSITORY / part
        (shutil.copytree(source, tmp_path / part) if source.is_dir() else shutil.copy(source, tmp_path))
    (tmp_path / "example.patch").write_text(patch)
    run(["git", "apply", "--unidiff-zero", "example.patch"], tmp_path)

    tests = [path for path in added if path.startswith("tests/")]
    assert len(tests) == 1
    run([sys.executable, "scripts/docs.py"], tmp_path)  # and no new command is without its place in the pages
    promises = PROMISES if "src/ibidem/commands.py" in changed else ()
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *promises], tmp_path)
    modules = [path for path in added if path.startswith("src/")]
    run([str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", *modules], tmp_path)
    if "pyproject.toml" in changed or len(modules) > len(changed):  # a module that the import contract must place
        run([str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], tmp_path)
