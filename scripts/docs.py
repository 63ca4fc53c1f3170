"""Write the pages of the documentation that follow from the code: `make docs`, or `python scripts/docs.py`."""

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import docs_layout
import docs_python
from docs_markdown import code, meaning, table

from ibidem import config
from ibidem.commands import COMMANDS, CommonFlags, load

REPOSITORY = Path(__file__).resolve().parents[1]
GENERATED = "<!-- Written by scripts/docs.py from the code; run: make docs -->"

CONFIGURATION = f"""{GENERATED}

# Configuration

Each command has one configuration. A key is given as a flag or in a YAML file, and the spelling is the same:
`--optim.warmup-steps 100` is

```yaml
optim:
  warmup_steps: 100
```

`--config FILE.yaml` names the file. Flags win over the file, and the file wins over the defaults. An unknown key is an
error, and so is a value that does not fit.

* A list takes one value or more: `--k 1 10`. The flag may also be repeated, which is an error for any other; in a file,
  one value needs no brackets.
* A switch is on without a value: `--verify` is `--verify true`, or `--verify=True`.
* Behind an equals sign, lists and groups may be written as Python does, as `wandb agent` passes them:
  `--k=[1, 10]`, `--optim={{'lr': 0.001}}`.
* `null` and `none` mean that a key is not set.
* `NAME` in a key stands for a name of your choice: `--datasets.wiki.path` is the path of a dataset named wiki.
* A key in capital letters, such as `REQUESTS`, is given by its place, without a flag.

Trackers, and a sweep of wandb: see [the architecture](architecture.md#trackers).

The files in `configs/` are examples to start from. `ibidem COMMAND --help` lists the same keys."""


def pages() -> dict[str, str]:
    """Return the generated pages by their paths in the repository."""
    return {
        "docs/configuration.md": configuration_page(),
        "docs/layout.md": f"{GENERATED}\n\n{docs_layout.page()}",
        "docs/python.md": f"{GENERATED}\n\n{docs_python.page()}",
    }


def configuration_page() -> str:
    """Describe the keys of every command; commands that share a configuration share a section."""
    sharing: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        sharing.setdefault(command.config, []).append(name)
    common = ["## Every command", *_tables(config.describe(CommonFlags))]
    return "\n\n".join([CONFIGURATION, *common, *(_section(*item) for item in sharing.items())]) + "\n"


def _section(place: str, names: list[str]) -> str:
    rows = config.describe(load(place))
    helps = [COMMANDS[name].help for name in names]
    sentences = [f"{text[0].upper()}{text[1:]}{'' if text.endswith('?') else '.'}" for text in helps]
    if len(names) > 1:
        sentences = [f"* `ibidem {name}`: {text}." for name, text in zip(names, helps, strict=True)]
    return "\n\n".join([f"## ibidem {_joined(names)}", "\n".join(sentences), *_tables(rows)])


def _joined(names: list[str]) -> str:
    """Write the names of commands that begin with the same word.

    >>> _joined(["takedown plan", "takedown apply"])
    'takedown plan, apply'
    """
    return ", ".join([names[0], *(name.rpartition(" ")[2] for name in names[1:])])


def _tables(rows: Iterable[tuple[str, str, str]]) -> Iterable[str]:
    """Write the keys without a group, then each group of keys below its name."""
    named = [(flag.partition(".")[0] if "." in flag else "", flag, kind, text) for flag, kind, text in rows]
    for group, members in groupby(sorted(named, key=lambda row: row[0] != ""), key=lambda row: row[0]):
        if group:
            yield f"### {code(group)}"
        yield table(
            ("Key", "Type, default", "Meaning"),
            [(code(flag), _type_and_default(kind), meaning(text)) for _, flag, kind, text in members],
        )


def _type_and_default(kind: str) -> str:
    """Write what `config.describe` says of a key.

    >>> _type_and_default("no | bf16, default bf16"), _type_and_default("path ..., required")
    ('`no` or `bf16`, default `bf16`', 'list of `path`, **required**')
    """
    name, _, default = kind.partition(", ")
    name, several, _ = name.partition(" ...")
    shown = ("list of " if several else "") + " or ".join(map(code, name.split(" | ")))
    value = default.removeprefix("default").strip()
    if default == "required":
        return f"{shown}, **required**"
    if value in {"None", "none", "{}"}:
        return f"{shown}, not set"
    return f"{shown}, default {code(value) if value else 'empty'}"


def main() -> None:
    """Write the pages that changed."""
    for name, text in pages().items():
        path = REPOSITORY / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stderr.write(f"{name}: written\n")


if __name__ == "__main__":
    main()
