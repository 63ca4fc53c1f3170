"""`ibidem completion`: the shell completes commands and flags; files it completes as always.

    ibidem completion bash > ~/.local/share/bash-completion/completions/ibidem
    ibidem completion zsh > ~/.ibidem.zsh; echo "source ~/.ibidem.zsh" >> ~/.zshrc
    ibidem completion fish > ~/.config/fish/completions/ibidem.fish

The script holds every command and flag, so the shell does not start Python while somebody types.
"""

import shlex
from typing import Annotated, Literal

from ibidem.commands import COMMANDS, flags_of
from ibidem.config import POSITIONAL, configuration

Shell = Literal["bash", "zsh", "fish"]


@configuration
class CompletionConfig:
    """Choose a shell."""

    shell: Annotated[Shell, POSITIONAL]
    """bash, zsh or fish."""


def completion(config: CompletionConfig) -> str:
    """Return the script of a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[config.shell]()


def _flags(name: str) -> list[str]:
    return [flag for flag, *_ in flags_of(COMMANDS[name]) if flag.startswith("--") and ".NAME." not in flag]


def _first_words() -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in COMMANDS))


def _second_words() -> dict[str, list[str]]:
    """Return the words that may follow a first word."""
    found: dict[str, list[str]] = {}
    for name in COMMANDS:
        first, *second = name.split()
        found.setdefault(first, []).extend(second)
    return {first: words for first, words in found.items() if words}


def _bash() -> str:
    """Return a script that also works with bash 3, which has no associative arrays."""
    flags = "\n".join(f'    "{name}") words="{" ".join(_flags(name))}" ;;' for name in COMMANDS)
    seconds = "\n".join(f'    "{first}") words="{" ".join(words)}" ;;' for first, words in _second_words().items())
    return f"""\
_ibidem() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" first="${{COMP_WORDS[1]}}" command words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(_first_words())} --help --version" -- "$current"))
    return
  fi
  if [ "$COMP_CWORD" -eq 2 ] && [ "${{current#-}}" = "$current" ]; then
    case "$first" in
{seconds}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    return
  fi
  [ "${{current#-}}" != "$current" ] || return
  command="$first"
  case "$first ${{COMP_WORDS[2]}}" in
    {" | ".join(f'"{name}"' for name in COMMANDS if " " in name)}) command="$first ${{COMP_WORDS[2]}}" ;;
  esac
  case "$command" in
{flags}
  esac
  COMPREPLY=($(compgen -W "$words --help" -- "$current"))
}}
complete -o default -o bashdefault -F _ibidem ibidem"""


def _zsh() -> str:
    return f"""\
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}
autoload -Uz bashcompinit && bashcompinit
{_bash()}"""


FISH_FUNCTION = """\
function __ibidem_is
    set -l words (commandline -opc)
    set -l given (string match -v -- '-*' $words[2..-1])
    test "$given[1]" = "$argv[1]"; or return 1
    test (count $argv) -lt 2; or test "$given[2]" = "$argv[2]"
end"""


def _fish() -> str:
    lines = [FISH_FUNCTION, "complete -c ibidem -n __fish_use_subcommand -f"]
    for first in _first_words():
        meaning = COMMANDS[first].help if first in COMMANDS else f"{first} ..."
        lines.append(f"complete -c ibidem -n __fish_use_subcommand -f -a {first} -d {shlex.quote(meaning)}")
    for first, words in _second_words().items():
        beyond = "; and not ".join(f"__ibidem_is {first} {word}" for word in words)
        for word in words:
            meaning = shlex.quote(COMMANDS[f"{first} {word}"].help)
            lines.append(f"complete -c ibidem -n '__ibidem_is {first}; and not {beyond}' -f -a {word} -d {meaning}")
    for name, command in COMMANDS.items():
        others = "".join(f"; and not __ibidem_is {name} {word}" for word in _second_words().get(name, []))
        for flag, kind, _ in flags_of(command):
            if flag in _flags(name):
                value = "" if kind.startswith("bool, default False") else " -r"
                lines.append(f"complete -c ibidem -n '__ibidem_is {name}{others}' -l {flag[2:]}{value}")
    return "\n".join(lines)
