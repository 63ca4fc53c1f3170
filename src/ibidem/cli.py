"""The command line: one table from a command's name to its configuration and its function.

Nothing heavy is imported before the flags are parsed, so `--help` and typos are answered at once.
Exit codes: 0 done, 1 the gate blocks, 2 an error that the user can fix, reported in one line.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ibidem import __version__, config, log, runtime
from ibidem.errors import ConfigError, GateFailed, IbidemError, NothingFound, RequestsUnmatched


class Command(NamedTuple):
    """A command's configuration and function, as `module:name`, and its help."""

    config: str
    run: str
    help: str


COMMANDS = {
    "demo": Command("ibidem.demo:DemoConfig", "ibidem.demo:demo", "every stage, at small scale, on this computer"),
    "doctor": Command(
        "ibidem.doctor:DoctorConfig", "ibidem.doctor:doctor", "what this machine has, and what is wrong with it"
    ),
    "init": Command("ibidem.init:InitConfig", "ibidem.init:init", "copies of the shipped configurations, to edit"),
    "plan": Command(
        "ibidem.training.plan:PlanConfig",
        "ibidem.training.plan:plan",
        "parameters, memory, FLOP, days and cost, before anything is spent",
    ),
    "preprocess": Command(
        "ibidem.data.preprocess:PreprocessConfig",
        "ibidem.data.preprocess:preprocess",
        "turn public data into clean, licensed Parquet shards",
    ),
    "blend": Command(
        "ibidem.data.blend:BlendConfig",
        "ibidem.data.blend:blend",
        "combine preprocessed datasets in given shares, the same bytes every time",
    ),
    "takedown plan": Command(
        "ibidem.data.provenance.takedown:TakedownConfig",
        "ibidem.data.provenance.takedown:plan_command",
        "list what removal requests affect: documents, shards, tokens, checkpoints",
    ),
    "takedown apply": Command(
        "ibidem.data.provenance.takedown:TakedownConfig",
        "ibidem.data.provenance.takedown:apply_command",
        "remove documents from finished shards, verify and certify the removal",
    ),
    "takedown verify": Command(
        "ibidem.data.provenance.takedown:TakedownConfig",
        "ibidem.data.provenance.takedown:verify_command",
        "check that nothing named by the removal requests is left",
    ),
    "card": Command(
        "ibidem.data.provenance.card:CardConfig",
        "ibidem.data.provenance.card:card",
        "data card, Croissant and the EU training-content summary of a dataset",
    ),
    "train-tokenizer": Command(
        "ibidem.tokenization.train_tokenizer:TrainTokenizerConfig",
        "ibidem.tokenization.train_tokenizer:train_tokenizer",
        "train a tokenizer that reproduces every byte",
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
        "HumanEval and HumanEval+, by a judge that forged verdicts cannot reach",
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
        "responses to support scenarios and red-team prompts, for people to rate",
    ),
    "evaluate ratings": Command(
        "ibidem.evaluation.config:RatingsConfig",
        "ibidem.evaluation.ratings:ratings",
        "people's ratings of responses, with the raters' agreement",
    ),
    "gate": Command(
        "ibidem.evaluation.gate.config:GateConfig",
        "ibidem.evaluation.gate.gate:gate",
        "decide whether a checkpoint may be released, with the evidence",
    ),
    "gate pin": Command(
        "ibidem.evaluation.gate.config:PinConfig",
        "ibidem.evaluation.gate.pin:pin",
        "write the digests of a policy's benchmarks into its file",
    ),
    "key": Command(
        "ibidem.evaluation.gate.config:KeyConfig",
        "ibidem.evaluation.gate.statements:make_key",
        "make a key that signs evaluations and decisions",
    ),
    "sign": Command(
        "ibidem.evaluation.gate.config:SignConfig",
        "ibidem.evaluation.gate.statements:sign_evaluation",
        "sign an evaluation, for a gate whose policy names the signer",
    ),
    "report": Command(
        "ibidem.serving.config:ReportConfig",
        "ibidem.serving.report:report",
        "one HTML page about data, training and model",
    ),
    "verify": Command(
        "ibidem.lineage:ArtifactPath", "ibidem.lineage:verify_command", "rehash an artifact and its ancestors"
    ),
    "trace": Command(
        "ibidem.data.provenance.trace:TraceConfig",
        "ibidem.data.provenance.trace:trace",
        "show what an artifact was made from, or where a document went",
    ),
}


GROUPS: dict[str, dict[str, str]] = {  # the commands in the order of a project, each with an example
    "Begin": {
        "demo": "ibidem demo",
        "doctor": "ibidem doctor",
        "init": "ibidem init configs",
        "plan": "ibidem plan --config configs/training/base.yaml",
    },
    "Data": {
        "preprocess": "ibidem preprocess --dataset path/to/code:train:text --output-dir data/public/processed",
        "blend": "ibidem blend --config configs/data/blend.yaml",
        "card": "ibidem card data/public/processed",
        "takedown plan": "ibidem takedown plan requests.jsonl --dataset data/public/processed",
        "takedown apply": "ibidem takedown apply requests.jsonl --dataset data/public/processed",
        "takedown verify": "ibidem takedown verify requests.jsonl --dataset data/public/processed",
    },
    "Model": {
        "train-tokenizer": "ibidem train-tokenizer --input data/public/processed --output-dir artifacts/tokenizer",
        "train": "ibidem train --config configs/training/base.yaml --model tiny",
        "generate": 'ibidem generate --checkpoint artifacts --prompt "def fibonacci(n):"',
        "report": "ibidem report --run artifacts --output artifacts/report.html",
    },
    "Evaluation": {
        "evaluate perplexity": "ibidem evaluate perplexity --checkpoint artifacts --data data/public/processed",
        "evaluate dashboard": "ibidem evaluate dashboard --run artifacts --data data/public --output-dir board",
        "evaluate human-eval": "ibidem evaluate human-eval --checkpoint artifacts --output-dir human-eval",
        "evaluate mbpp": "ibidem evaluate mbpp --checkpoint artifacts --problems mbpp.jsonl --output-dir mbpp",
        "evaluate mmlu": "ibidem evaluate mmlu --checkpoint artifacts --data mmlu --output-dir mmlu-5",
        "evaluate doc-qa": "ibidem evaluate doc-qa --checkpoint artifacts --data questions.jsonl --output-dir answers",
        "evaluate chat": "ibidem evaluate chat --checkpoint artifacts --prompts prompts.jsonl --output-dir responses",
        "evaluate ratings": "ibidem evaluate ratings --responses responses --ratings ratings.csv --output-dir ratings",
    },
    "Release": {
        "gate pin": "ibidem gate pin --policy configs/evaluation/gate.yaml",
        "gate": "ibidem gate --evaluate --config configs/evaluation/gate.yaml",
        "key": "ibidem key signing.key",
        "sign": "ibidem sign ratings --key signing.key",
    },
    "Lineage": {
        "trace": "ibidem trace artifacts/checkpoints/step-025000",
        "verify": "ibidem verify artifacts/checkpoints/step-025000",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    runtime.tune()
    try:
        return _answer(words)
    except (GateFailed, NothingFound) as answer:
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
        print(f"ibidem: {error.filename or words[0]}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"ibidem: interrupted; {stop or 'finished work is kept'}", file=sys.stderr)
        return 130


def _answer(words: Sequence[str]) -> int:
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
        meant = config.suggest(" ".join(words[:2]), longer) if len(words) > 1 else ""
        raise ConfigError(f"{words[0]} what? {', '.join(longer)}{meant}; see ibidem --help")
    raise ConfigError(f"unknown command {words[0]!r}{config.suggest(words[0], COMMANDS)}; see ibidem --help")


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    with runtime.importing():
        return getattr(importlib.import_module(module), name)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "More": [name for name in COMMANDS if name not in grouped]}
    lines = ["usage: ibidem COMMAND [--config FILE.yaml] [--flag VALUE ...]"]
    for group, names in groups.items():
        rows = [f"  {name:<{width}}  {COMMANDS[name].help}" for name in names]
        lines += ["", group, *rows] if rows else []
    return "\n".join([*lines, "", "ibidem COMMAND --help shows an example and every flag."])


def _help(name: str, command: Command) -> str:
    config_type = _load(command.config)
    rows = [*config.describe(config_type), ("--config", "path", "A YAML file with the same keys; flags win over it.")]
    flags = "\n".join(f"  {flag}  ({kind})\n      {' '.join(meaning.split())}" for flag, kind, meaning in rows)
    example = next((f"example: {names[name]}\n\n" for names in GROUPS.values() if name in names), "")
    return f"usage: ibidem {name} [flags]\n\n{command.help[0].upper()}{command.help[1:]}.\n\n{example}{flags}"
