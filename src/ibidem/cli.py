"""The command line: find the command, parse its flags, run it, print what it returns or one line of what is wrong.

Nothing heavy is imported before the flags are parsed, so `--help` and typos are answered at once.
Exit codes: 0 done, 1 the answer is no (the gate blocks, nothing was found, a copy is not the published one, removed
documents are still held elsewhere), 2 an error that the user can fix, reported in one line.
"""

import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ibidem import __version__, config, runtime
from ibidem.commands import COMMANDS, GROUPS, Command, CommonFlags, flags_of, load
from ibidem.console import console
from ibidem.errors import ConfigError, GateFailed, IbidemError, NothingFound, RequestsUnmatched, StillHeld, Terminated

OUTPUTS, IN_MEMORY = ("output_dir", "copy_to", "work_dir"), "memory://"
"""Keys of what may be written to a store, and how the URL of one begins that no other process sees."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    runtime.tune()
    try:
        return _answer(words)
    except (GateFailed, NothingFound, StillHeld) as answer:
        _print_before_an_error(str(answer))
        return 1
    except IbidemError as error:
        if isinstance(error, RequestsUnmatched):
            _print_before_an_error(error.report)
        if is_main_process():
            print(f"ibidem: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        print(
            f"ibidem: {error.filename or ' '.join(words[:1]) or 'ibidem'}: {error.strerror or error}", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt as stop:
        if is_main_process():
            print(f"ibidem: interrupted; {str(stop) or 'finished work is kept'}", file=sys.stderr)
        return 0 if isinstance(stop, Terminated) else 130


def _answer(words: Sequence[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"ibidem {__version__}", flush=True)
        return 0
    if not words or words[0] in {"--help", "-h", "help"}:
        print(_overview(), flush=True)
        return 0
    _check_encoding(words)
    if words[1:] in (["--help"], ["-h"]) and words[0] not in COMMANDS and (group := _of_group(words[0])):
        print("\n".join(["usage: ibidem COMMAND", "", *group]), flush=True)
        return 0
    name, command = _find(words)
    rest = words[len(name.split()) :]
    if "--help" in rest or "-h" in rest:
        print(_help(name, command), flush=True)
        return 0
    return _run(command, rest)


def _print_before_an_error(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_output()


def _discard_output() -> None:
    """Send what is still to be printed nowhere: the reader of standard output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_encoding(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"argument {word!a} is not UTF-8; set LANG to a UTF-8 locale") from None


def is_main_process() -> bool:
    """Return whether this is the main process of a distributed run, the only one that prints."""
    return os.environ.get("RANK", "0") == "0"


def _run(command: Command, words: Sequence[str]) -> int:
    words, common = config.split_flags(CommonFlags, words)
    chosen = config.parse(load(command.config), words)
    _check_lasting(chosen)
    run = load("ibidem.dry_run:dry_run" if common.dry_run else command.run)
    arguments = (chosen, command) if common.dry_run else (chosen,)
    if not is_main_process():
        run(*arguments)
        return 0
    with nullcontext() if common.quiet else console(common.log_format):
        result = run(*arguments)
    if result:
        print(result, flush=True)
    return 0


def _check_lasting(chosen: Any) -> None:
    """Refuse to write into the memory of this process."""
    for key, value in config.flattened(config.resolved(chosen)).items():
        if key.rpartition(".")[2] in OUTPUTS and str(value).startswith(IN_MEMORY):
            raise ConfigError(f"{key} {value} ends with this command; give a path, or the URL of a store that lasts")


def _find(words: Sequence[str]) -> tuple[str, Command]:
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, COMMANDS[name]
    if longer := [name for name in COMMANDS if name.startswith(f"{words[0]} ")]:
        meant = config.suggest(" ".join(words[:2]), longer) if len(words) > 1 else ""
        raise ConfigError(f"{words[0]} what? {', '.join(longer)}{meant}; see ibidem --help")
    raise ConfigError(f"unknown command {words[0]!r}{config.suggest(words[0], COMMANDS)}; see ibidem --help")


def _of_group(word: str) -> list[str]:
    """List the commands whose first word this is."""
    return [f"  {name:<20}  {command.help}" for name, command in COMMANDS.items() if name.startswith(f"{word} ")]


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: ibidem COMMAND [--config FILE.yaml] [--flag VALUE ...]"]
    for group, commands in GROUPS.items():
        lines += ["", group, *(f"  {name:<{width}}  {command.help}" for name, command in commands.items())]
    return "\n".join([*lines, "", "ibidem COMMAND --help shows an example and every flag."])


def _help(name: str, command: Command) -> str:
    about = f"{command.help[0].upper()}{command.help[1:]}."
    own, common = config.describe(load(command.config)), flags_of(command)[-len(config.describe(CommonFlags)) - 1 :]
    groups: dict[str, list[str]] = {"": []}
    for flag, kind, meaning in sorted(own, key=lambda row: "required" not in row[1]):
        groups.setdefault(flag.lstrip("-").partition(".")[0] if "." in flag else "", []).append(
            _flag(flag, kind, meaning)
        )
    groups["every command"] = [_flag(*row) for row in common]
    flags = ["\n".join([*([f"{group}:"] if group else []), *rows]) for group, rows in groups.items() if rows]
    places = [flag if "required" in kind else f"[{flag}]" for flag, kind, _ in own if not flag.startswith("--")]
    usage = " ".join(["usage: ibidem", name, *places, "[flags]"])
    return "\n\n".join([usage, about, f"example: {command.example}", *flags])


def _flag(flag: str, kind: str, meaning: str) -> str:
    kind = kind.replace("bool, default False", "switch").removesuffix(", default None").removesuffix(", default none")
    text = textwrap.fill(" ".join(meaning.split()), 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {flag}  ({kind})\n{text}".rstrip()
