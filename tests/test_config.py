import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from ibidem.config import POSITIONAL, REPORTED, build, configuration, describe, parse, read_yaml, resolved, settings
from ibidem.errors import ConfigError


@configuration
class Inner:
    lr: float = 3e-4
    """Learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of warm-up."""


@configuration
class Outer:
    """A configuration."""

    place: Annotated[Path, POSITIONAL]
    """Where."""
    name: str = "none at all"
    """A name."""
    words: tuple[str, ...] = ()
    """Many."""
    cap: int | None = 7
    """A cap."""
    on: bool = True
    """A switch."""
    optim: Inner = Field(default_factory=Inner)
    """Nested."""


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: no\noptim:\n  lr: 1e-3\n  warmup_steps: 5\nwords: [a, b]\ncap: null\n")
    config = parse(Outer, ["here", "--config", str(file), "--optim.warmup-steps", "9", "--on", "false"])
    assert config == Outer(
        place=Path("here"), name="no", words=("a", "b"), cap=None, on=False, optim=Inner(lr=1e-3, warmup_steps=9)
    )


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["here", "--name", "ada", "--name", "bob"], "--name"),
        (["here", "--name=ada", "--name=ada"], "--name"),
        (["here", "--on", "--on", "false"], "--on"),
        (["here", "--optim.warmup-steps", "1", "--optim.warmup_steps", "2"], "--optim.warmup_steps"),
        (["here", "--optim={'lr': 1e-3}", "--optim.lr", "1e-4"], "--optim.lr"),
        (["here", "--config", "a.yaml", "--config", "b.yaml"], "--config"),
        (["here", "--place", "there"], "--place"),
        (["--place", "there", "here"], "--place"),
    ],
)
def test_a_value_that_is_given_twice_is_an_error(argv: list[str], flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: given twice$"):
        parse(Outer, argv)


@pytest.mark.parametrize("argv", [["--optim.lr", "1e-3", "--optim", "x"], ["--optim", "x", "--optim.lr", "1e-3"]])
def test_a_flag_is_either_a_value_or_a_group(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="--optim is used both as a value and as a group"):
        parse(Outer, ["here", *argv])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--words", "a", "b"], ("a", "b")),
        (["--words", "a", "--words=--b"], ("a", "--b")),
        (["--words=x y"], ("x y",)),
    ],
)
def test_lists_are_repeated_or_given_at_once(argv: list[str], words: tuple[str, ...]) -> None:
    assert parse(Outer, ["here", *argv]).words == words


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--words=['a', 'b.c[0]']"], ("a", "b.c[0]")),
        (["--words=[]"], ()),
        (["--words=[1, 2]", "--words=c"], ("1", "2", "c")),
        (["--words", "[1, 2]"], ("[1, 2]",)),
        (["--words=[i for i in x]"], ("[i for i in x]",)),
        (["--words={'a': 1}"], ("{'a': 1}",)),
    ],
)
def test_behind_an_equals_sign_a_list_of_python_is_a_list(argv: list[str], words: tuple[str, ...]) -> None:
    assert parse(Outer, ["here", *argv]).words == words


def test_the_flags_of_a_wandb_agent_are_understood() -> None:
    """They are `--NAME=VALUE`, and a value is what `str` makes of it."""
    trial = {"optim.lr": 1e-05, "optim.warmup_steps": 20, "on": False, "cap": None, "name": "v1.5[x]", "words": ["a"]}
    expected = Outer(
        place=Path("here"),
        name="v1.5[x]",
        words=("a",),
        cap=None,
        on=False,
        optim=Inner(lr=1e-05, warmup_steps=20),
    )
    assert parse(Outer, ["here", *(f"--{name}={value}" for name, value in trial.items())]) == expected
    nested = {"optim": {"lr": 1e-05, "warmup_steps": 20}, "on": False, "cap": None, "name": "v1.5[x]", "words": ["a"]}
    assert parse(Outer, ["here", *(f"--{name}={value}" for name, value in nested.items())]) == expected
    assert parse(Outer, ["here", "--on=True", "--optim.warmup_steps=20.0"]).optim.warmup_steps == 20


def test_the_json_file_of_a_wandb_agent_is_a_configuration(tmp_path: Path) -> None:
    """`${args_json_file}`; json.dumps writes it."""
    trial = {"optim": {"lr": 1e-05}, "on": False, "cap": None, "words": ["a", 'say "b"\n']}
    (tmp_path / "trial.json").write_text(json.dumps(trial))
    config = parse(Outer, ["here", "--config", str(tmp_path / "trial.json")])
    assert config == Outer(place=Path("here"), words=("a", 'say "b"\n'), cap=None, on=False, optim=Inner(lr=1e-05))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "place is required"),
        (["p", "--optim.warmup-step", "3"], "unknown key optim.warmup_step; did you mean optim.warmup_steps?"),
        (["p", "--optim.lr", "fast"], "--optim.lr must be a number, not 'fast'"),
        (["p", "--optim.warmup-steps", "-3"], "--optim.warmup-steps: input should be greater than or equal to 0"),
        (["p", "--optim.lr"], "--optim.lr needs a value"),
        (["p", "q"], "unexpected argument 'q'"),
        (["p", "--optim", "x"], "optim"),
        (["p", "--optim.lr", "inf"], "optim.lr"),
        (["p", "--optim", "x", "--optim.lr", "1"], "both"),
        (["p", "--optim={'lr': 'fast'}"], "--optim.lr must be a number, not 'fast'"),
        (["p", "--optim={'lr: 1}"], "optim"),
        (["p", "--config", "missing.yaml"], "missing.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_known_keys_are_listed_once_for_all_that_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("qq: 1\nzz: 2\noptim: {xyz: 3}\n")
    with pytest.raises(ConfigError) as caught:
        parse(Outer, ["p", "--config", str(tmp_path / "c.yaml")])
    said, known = str(caught.value).split("; known keys: ")
    assert all(f"unknown key {key}" in said for key in ("qq", "zz", "optim.xyz"))
    assert {"place", "optim.", "lr", "warmup_steps"} <= set(known.split(", "))
    assert not [name for name in known.split(", ") if name.startswith("optim.") and name != "optim."]


def test_a_mistake_in_a_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optim: {warmup_steps: some}\n")
    with pytest.raises(ConfigError) as caught:
        parse(Outer, ["p", "--config", str(tmp_path / "c.yaml"), "--optim.lr", "fast"])
    file = f"{tmp_path / 'c.yaml'}: optim.warmup_steps must be a whole number, not 'some'"
    assert str(caught.value) == f"--optim.lr must be a number, not 'fast'; {file}"


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "just text", "\xff", "a: 1\na: 2\n", "a:\n  b: 1\n  b: 2\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="c.yaml"):
        read_yaml(tmp_path / "c.yaml")


def test_settings_hold_what_and_not_where() -> None:
    config = build(Outer, {"place": "somewhere"})
    assert resolved(config)["place"] == "somewhere"
    assert settings(config) == {
        "name": "none at all", "words": [], "cap": 7, "on": True, "optim": {"lr": 3e-4, "warmup_steps": 100},
    }  # fmt: skip


def test_settings_leave_out_where_figures_are_reported() -> None:
    @configuration
    class Reporting:
        seed: int = 0
        places: Annotated[tuple[str, ...], REPORTED] = ()

    assert settings(parse(Reporting, ["--places", "a"])) == {"seed": 0}


def test_help_names_every_flag_with_its_meaning() -> None:
    rows = {flag: (kind, meaning) for flag, kind, meaning in describe(Outer)}
    assert rows["PLACE"] == ("path, required", "Where.")
    assert rows["--optim.lr"] == ("float, default 0.0003", "Learning rate.")
    assert rows["--words"][0] == "str ..., default none"


def test_names_in_a_mapping_keep_their_dashes() -> None:
    @configuration
    class Part:
        max_size: int = 1

    @configuration
    class Whole:
        parts: dict[str, Part]
        shares: dict[str, float]

    flags = ["--parts.my-code.max-size", "3", "--parts.my_text.max_size", "4", "--shares.my-code", "0.5"]
    chosen = parse(Whole, flags)
    assert {name: part.max_size for name, part in chosen.parts.items()} == {"my-code": 3, "my_text": 4}
    assert chosen.shares == {"my-code": 0.5}
    assert [flag for flag, *_ in describe(Whole)] == ["--parts.NAME.max-size", "--shares"]


def test_one_value_of_a_file_is_a_list_of_one(tmp_path: Path) -> None:
    @configuration
    class Part:
        places: tuple[Path, ...] = ()

    @configuration
    class Whole:
        words: Annotated[tuple[str, ...], Field(min_length=1)]
        sizes: tuple[int, ...] = ()
        inner: Part = Field(default_factory=Part)
        parts: dict[str, Part] = Field(default_factory=dict)

    file = tmp_path / "c.yaml"
    file.write_text('words: "def f("\nsizes: 3\ninner: {places: a}\nparts: {x: {places: b}}\n')
    here, there = Part(places=(Path("a"),)), Part(places=(Path("b"),))
    config = parse(Whole, ["--config", str(file)])
    assert config == Whole(words=("def f(",), sizes=(3,), inner=here, parts={"x": there})
    file.write_text("words: {a: b}\n")
    with pytest.raises(ConfigError, match="words: give a list"):
        parse(Whole, ["--config", str(file)])
