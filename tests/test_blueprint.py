"""The README tells the truth: its table, its commands, its figures of parameters."""

import re
import shlex
import subprocess

import pytest
from tests.conftest import REPOSITORY

from ibidem import config
from ibidem.cli import _find
from ibidem.commands import COMMANDS, load
from ibidem.modeling.config import read_model_config

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(
            r"^(?:```(?:bash|sh|console)\n(.*?)^```|((?:    \S.*\n)+))", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            text = "".join(block).replace("\\\n", " ")
            found += [line.strip() for line in text.splitlines() if line.strip()]
    return found


ibidem_commands = [
    re.split(r"\s#", line)[0].strip()
    for line in commands()
    if re.match(r"(ibidem(?!\.)|python \S+\.py|accelerate launch|torchrun) ?", line)
]


def words_of(line: str) -> list[str]:
    """The words behind `ibidem`, whichever way it is started."""
    words = shlex.split(line)
    if words[-1:] != ["ibidem"] and "-m" in words:  # accelerate launch -m ibidem
        return words[words.index("ibidem") + 1 :]
    launcher = next((index for index, word in enumerate(words) if word.endswith(".py") and "/" in word), None)
    if words[0] == "ibidem" or launcher is None:
        return words[1:]
    text = (REPOSITORY / words[launcher]).read_text()
    name = re.search(r"main\(\[(.*?), \*sys", text)[1]
    return [word.strip(' "') for word in name.split(",")] + words[launcher + 1 :]


def test_there_are_commands_to_check() -> None:
    assert len(ibidem_commands) >= 10
    assert {"make demo", "make test"} <= {line.split("  ")[0].strip() for line in commands()}


@pytest.mark.parametrize("line", ibidem_commands)
def test_every_documented_command_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = words_of(line)
    if not words or words[0].startswith("--"):
        return
    name, command = _find(words)
    rest = words[len(name.split()) :]
    if "--help" not in rest:
        config.parse(load(command.config), rest)


def test_the_blueprint_table_names_paths_that_exist() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 6
    for blueprint, here in rows:
        assert (REPOSITORY / blueprint.split()[0]).exists(), blueprint
        assert (REPOSITORY / here.split()[0]).exists(), here


SHAPES = [
    *(("base", 666_974_208), ("base_12_heads", 666_975_744)),
    *(("wide", 2_919_395_328), ("tiny", 6_623_232), ("demo", 1_377_920)),
]


@pytest.mark.parametrize(("name", "parameters"), SHAPES)
def test_models_have_the_parameters_that_are_told(name: str, parameters: int) -> None:
    import torch

    from ibidem.modeling.modeling_custom import Decoder

    shape = read_model_config(REPOSITORY / "configs" / "model" / f"{name}.py")
    with torch.device("meta"):
        assert Decoder(shape).num_parameters == shape.parameters == parameters


def test_links_of_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_is_documented() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    headings = [set(re.findall(r"[\w-]+", line)) for line in re.findall(r"^## ibidem (.*)$", page, re.MULTILINE)]
    assert not [name for name in COMMANDS if not any(set(name.split()) <= heading for heading in headings)]


def test_tracked_files_hold_no_path_of_one_machine() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    home = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w")
    for name in files:
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".txt"} and path.exists():
            assert not home.search(path.read_text()), name
