"""The command line: one table from a command's name to its configuration and its function.

Nothing heavy is imported before the flags are understood: `--help` and a spelling mistake cost no second.
Exit codes: 0 done, 1 a gate said no, 2 something the user can mend, said in one line.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ibidem import __version__, config, log, runtime
from ibidem.errors import ConfigError, GateFailed, IbidemError


class Command(NamedTuple):
    """Where a command lives, as `module:name`."""

    config: str
    run: str
    help: str


COMMANDS = {
    "demo": Command(
        "ibidem.demo:DemoConfig", "ibidem.demo:demo", "the whole journey, small and real, on this computer"
    ),
    "doctor": Command(
        "ibidem.doctor:DoctorConfig", "ibidem.doctor:doctor", "what this machine has, and what is wrong with it"
    ),
    "plan": Command(
        "ibidem.training.plan:PlanConfig",
        "ibidem.training.plan:plan",
        "parameters, memory, FLOP, days and cost, before anything is spent",
    ),
    "preprocess": Command(
        "ibidem.data.preprocess:PreprocessConfig",
        "ibidem.data.preprocess:preprocess",
        "public data to clean, licensed Parquet shards",
    ),
    "blend": Command(
        "ibidem.data.blend:BlendConfig",
        "ibidem.data.blend:blend",
        "preprocessed datasets to one with given shares, the same bytes every time",
    ),
    "takedown plan": Command(
        "ibidem.data.provenance.takedown:TakedownConfig",
        "ibidem.data.provenance.takedown:plan_command",
        "what a request for removal means: documents, shards, tokens, checkpoints",
    ),
    "takedown apply": Command(
        "ibidem.data.provenance.takedown:TakedownConfig",
        "ibidem.data.provenance.takedown:apply_command",
        "remove documents from finished shards, prove it and certify it",
    ),
    "takedown verify": Command(
        "ibidem.data.provenance.takedown:TakedownConfig",
        "ibidem.data.provenance.takedown:verify_command",
        "prove that nothing of the requests is left",
    ),
    "card": Command(
        "ibidem.data.provenance.card:CardConfig",
        "ibidem.data.provenance.card:card",
        "data card, Croissant and the EU training-content summary of a dataset",
    ),
    "train-tokenizer": Command(
        "ibidem.tokenization.train_tokenizer:TrainTokenizerConfig",
        "ibidem.tokenization.train_tokenizer:train_tokenizer",
        "a tokenizer that gives every byte back",
    ),
    "train": Command("ibidem.training.config:TrainConfig", "ibidem.training.train:train", "pretrain a decoder"),
    "generate": Command(
        "ibidem.serving.config:GenerateConfig", "ibidem.serving.generate:generate", "complete prompts with a checkpoint"
    ),
    "evaluate perplexity": Command(
        "ibidem.evaluation.config:PerplexityConfig",
        "ibidem.evaluation.perplexity:perplexity",
        "perplexity and bits per byte of a checkpoint on text",
    ),
    "evaluate dashboard": Command(
        "ibidem.evaluation.config:DashboardConfig",
        "ibidem.evaluation.dashboard:dashboard",
        "perplexity of many checkpoints on many texts, by language and category, as a page",
    ),
    "evaluate human-eval": Command(
        "ibidem.evaluation.config:HumanEvalConfig",
        "ibidem.evaluation.human_eval:human_eval",
        "HumanEval and HumanEval+, judged where forged verdicts do not reach",
    ),
    "evaluate mbpp": Command(
        "ibidem.evaluation.config:MbppConfig", "ibidem.evaluation.mbpp:mbpp", "MBPP, sanitized MBPP and MBPP+"
    ),
    "evaluate mmlu": Command(
        "ibidem.evaluation.config:MmluConfig", "ibidem.evaluation.mmlu:mmlu", "MMLU subjects, few-shot"
    ),
    "evaluate doc-qa": Command(
        "ibidem.evaluation.config:DocQaConfig",
        "ibidem.evaluation.doc_qa:doc_qa",
        "answers from documents: exact match, F1, citations, unsupported claims, abstentions",
    ),
    "evaluate chat": Command(
        "ibidem.evaluation.config:ChatConfig",
        "ibidem.evaluation.chat:chat",
        "responses to support scenarios and red-team prompts, to be rated by people",
    ),
    "evaluate ratings": Command(
        "ibidem.evaluation.config:RatingsConfig",
        "ibidem.evaluation.ratings:ratings",
        "people's ratings of responses, with the raters' agreement",
    ),
    "gate": Command(
        "ibidem.evaluation.gate.config:GateConfig",
        "ibidem.evaluation.gate.gate:gate",
        "may this checkpoint be released? Yes or no, with the evidence",
    ),
    "report": Command(
        "ibidem.serving.config:ReportConfig",
        "ibidem.serving.report:report",
        "one HTML page about data, training, model",
    ),
    "verify": Command(
        "ibidem.lineage:ArtifactPath", "ibidem.lineage:verify_command", "hash an artifact and its ancestors again"
    ),
    "trace": Command(
        "ibidem.data.provenance.trace:TraceConfig",
        "ibidem.data.provenance.trace:trace",
        "what an artifact was made from; or where a document went",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    runtime.tune()
    try:
        if words[:1] == ["--version"]:
            print(f"ibidem {__version__}", flush=True)
            return 0
        if not words or words[0] in {"--help", "-h", "help"}:
            print(_overview(), flush=True)
            return 0
        _check_encoding(words)
        name, command = _find(words)
        rest = words[len(name.split()) :]
        if "--help" in rest or "-h" in rest:
            print(_help(name, command), flush=True)
            return 0
        return _run(command, rest)
    except GateFailed as decision:
        print(decision)
        return 1
    except IbidemError as error:
        if is_main_process():
            print(f"ibidem: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"ibidem: {error.filename or words[0]}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ibidem: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def _check_encoding(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"argument {word!a} is not UTF-8; set LANG to a UTF-8 locale") from None


def is_main_process() -> bool:
    """Tell whether this is the process of a distributed run that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _run(command: Command, words: Sequence[str]) -> int:
    chosen = config.parse(_load(command.config), words)
    if not is_main_process():
        _load(command.run)(chosen)
        return 0
    with log.console():
        result = _load(command.run)(chosen)
    if result:
        print(result, flush=True)
    return 0


def _find(words: Sequence[str]) -> tuple[str, Command]:
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, COMMANDS[name]
    if longer := [name for name in COMMANDS if name.startswith(f"{words[0]} ")]:
        raise ConfigError(f"{words[0]} what? {', '.join(longer)}; see ibidem --help")
    raise ConfigError(f"unknown command {words[0]!r}{config.suggest(words[0], COMMANDS)}; see ibidem --help")


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    with runtime.importing():
        return getattr(importlib.import_module(module), name)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: ibidem COMMAND [--config FILE.yaml] [--flag VALUE ...]", "", *lines, "", "ibidem COMMAND --help"]
    )


def _help(name: str, command: Command) -> str:
    config_type = _load(command.config)
    rows = [*config.describe(config_type), ("--config", "path", "A YAML file with the same keys; flags win over it.")]
    flags = "\n".join(f"  {flag}  ({kind})\n      {' '.join(meaning.split())}" for flag, kind, meaning in rows)
    return f"usage: ibidem {name} [flags]\n\n{command.help[0].upper()}{command.help[1:]}.\n\n{flags}"
