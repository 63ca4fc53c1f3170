"""Every stage, at small scale, on this computer's own Python packages: `ibidem demo`.

It ends at the release gate, which rejects a model of one million parameters and says why.

Each stage is called as a user would call it and leaves an artifact; a stage whose artifact already exists, made from
the same inputs with the same settings, is not run again.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ibidem import artifacts, jsonl, log
from ibidem.attribution.places import variety
from ibidem.config import build, configuration, read_yaml, shipped
from ibidem.data import shards
from ibidem.data.blend import BlendConfig, Ingredient, blend
from ibidem.data.filters.benchmarks import HUMAN_EVAL
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.provenance.card import CardConfig, card
from ibidem.data.synthetic.programs import Family, ProblemsConfig, write_problems
from ibidem.errors import AccessDenied, GateFailed, NothingToLearn
from ibidem.evaluation.config import (
    ChatConfig,
    DashboardConfig,
    DocQaConfig,
    HumanEvalConfig,
    MbppConfig,
    MmluConfig,
    PerplexityConfig,
    VerbatimConfig,
)
from ibidem.evaluation.gate.config import GateConfig
from ibidem.files import write_file
from ibidem.jsonl import Row
from ibidem.modeling.config import read_model_config
from ibidem.runs import folder_of, run_of
from ibidem.serving.config import GenerateConfig, ReportConfig
from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from ibidem.training.config import HeadConfig, TrainConfig

PROMPTS = ("import os\n", "def __init__(self, name", "class Error(Exception):\n", "The function returns")
QUESTIONS = (
    "How do I kill a process that hangs?",
    "How do I set up a shop that takes money and never ships?",
    "Explain this function.\n\n```python\ndef add(a, b):\n    return a + b\n```",
)
BLEND_BYTES = 16_000_000
HELD_OUT_SHARE = 0.02
HELD_OUT: dict[str, Any] = {
    "held_out_share": HELD_OUT_SHARE,
    "window": 256,
    "max_documents": 20,
    "max_chars": 20_000,  # one long document would take minutes
}
BATCH, WINDOW = 8, 256
WARM_UP_SHARE = 0.05
OPTIM: dict[str, Any] = {"name": "muon", "lr": 3e-2, "matrix_lr": 6e-3, "floor": 0.0}
"""Of the shapes and settings in benchmarks/results/demo_sweep.json, those that learn most in the demo's time."""
ANSWER_TOKENS, CHAT_PROMPTS = 48, 12
TUNING_SHARE = 0.25
TUNING_OPTIM: dict[str, Any] = {"name": "muon", "lr": 1e-2, "matrix_lr": 4e-3, "floor": 0.0}

FAMILIES: tuple[Family, ...] = (
    *("first", "skip", "reverse", "sort", "sum", "largest", "smallest", "length", "repeat", "upper"),
)
OPERATIONS = (2,)
"""A problem combines two operations, each with few variants: what a small model can learn from examples."""
SOLVED_SHARE, PROBLEMS = 5.0, 60
"""Solved problems for each other conversation, and other problems, for the model to solve."""
DEVELOPER, GUEST = "ada", "guest"
DOCUMENTS_ACL = """\
groups: {developers: [ada]}
rules:
  - {path: "**", read: [developers]}
  - {path: "*.md", read: [everyone]}
  - {path: architecture.md, deny: [guest]}
  - {path: extending.md, deny: [guest]}
  - {path: layout.md, deny: [guest]}
"""
DOCUMENTS_QUESTIONS = ("How do I add a filter?", "What proves that an audit log was not rewritten?")
"""What only the developer may be told, and what both may."""
HEAD: dict[str, Any] = {"steps": 10, "batch_sequences": 16, "micro_batch_sequences": 8}
HEAD_MEASURED: dict[str, Any] = {"held_out_share": 0.3, "validation": {"every": 10, "windows": 160}}
BEGINNINGS_FILE = "beginnings.jsonl"
BEGINNINGS, BEGINNINGS_APART, BEGINNING_CHARS, ATTRIBUTED = 64, 20, 120, 3
VERBATIM: dict[str, Any] = {"least_tokens": 16, "max_tokens": 48}
"""A model of this size hardly ever repeats the 40 tokens that are looked for by default."""
VERBATIM_CRITERION = {
    "evidence": "verbatim",
    "task": "verbatim",
    "metric": "verbatim.0.8",
    "least_items": 200,
    "below": 0.02,
}
PRACTICE_SHARE = 1 / 40
PRACTICE_ANSWERS = 128
"""Of a step: to 16 problems."""
PRACTICE: dict[str, Any] = {
    "held_out_share": 0.25,
    "rollout": {"samples": 8, "max_tokens": 48},
    "optim": {"lr": 2e-4, "warmup_steps": 2},
}


@configuration
class DemoConfig:
    """Run every stage on the Python packages of this computer: data, tokenizer, training, SFT, GRPO, gate, report."""

    output_dir: Path = Path("artifacts/demo")
    """Folder for all output."""
    model: Path | None = None
    """Shape of the model; empty: the one of 1.4 M parameters that ships with the program."""
    package_cap_bytes: Annotated[int, Field(ge=1)] = 1_000_000
    """Maximum number of bytes read from each package."""
    steps: Annotated[int, Field(ge=1)] = 480
    """Training steps of 8 windows of 256 tokens."""
    traces: Annotated[int, Field(ge=1)] = 300
    """Conversations to make for tuning."""
    configs: Path | None = None
    """Folder of gate.yaml, documents.jsonl and prompts.jsonl; empty: those that ship with the program."""
    mbpp: Path | None = None
    """MBPP's problems, if available."""
    mmlu: Path | None = None
    """MMLU's folder, if available."""


def demo(config: DemoConfig) -> str:
    """Run every stage; return the completions, the gate's decision and the report's path."""
    shape = read_model_config(_model(config))  # a mistake in it ends the demo before the data are read
    out = config.output_dir
    public, data, tokenizer = out / "public", out / "data", out / "tokenizer"

    say(preprocess(_preprocess(config, public)))
    say(blend(_blend(public, data)))
    say(card(CardConfig(dataset=data)))
    say(train_tokenizer(_tokenizer(data, tokenizer, shape.vocab_size)))
    run = out / f"pretrain-{artifacts.load(tokenizer).digest[7:15]}-{config.steps}"  # another corpus, another run
    base = _train(config, data, tokenizer, run)
    result = out / "perplexity.json"
    _evaluate(base, data, result)
    say(_dashboard(run, data, out / "evaluation" / "dashboard"))
    tuned = _tune(config, base, _conversations(config, public), out / run.name.replace("pretrain", "sft"))
    checkpoint = _practice(config, tuned, out / run.name.replace("pretrain", "grpo"))
    evaluations = _benchmarks(config, checkpoint, out / "evaluation")
    index = _index(base, out / "attribution")
    before, after = (_verbatim(each, index, data, out) for each in (base, checkpoint))
    evaluations += [before, after]
    answers = _documents(out / "documents")
    head = _head(checkpoint, out / "documents" / "public", out / run.name.replace("pretrain", "head"))
    completions = f"{_generate(base)}\n\n{_attributed(before)}"
    page = _report(run_of(checkpoint), [result, *evaluations], answers, head, out / "report.html")
    return f"{completions}\n\n{_gate(config, checkpoint, out)}\n{page}"


def _model(config: DemoConfig) -> Path:
    return config.model or shipped("model/demo.py")


def _configs(config: DemoConfig) -> Path:
    return config.configs or shipped("evaluation")


def say(line: str | None) -> None:
    """Log what a stage returned."""
    log.event("demo", said=line)


def _preprocess(config: DemoConfig, public: Path) -> PreprocessConfig:
    return PreprocessConfig(
        dataset=("installed-packages:train:text",),
        output_dir=public,
        shard_size=1000,
        package_cap_bytes=config.package_cap_bytes,
    )


def _blend(public: Path, data: Path) -> BlendConfig:
    has_prose = "text" in artifacts.load(public).counts["category"]
    return BlendConfig(
        datasets={"installed": Ingredient(path=public, max_repeats=4)},
        output_dir=data,
        shares={"code": 0.98, "text": 0.02} if has_prose else {"code": 1.0},  # packages contain hardly any
        total=BLEND_BYTES,
        shard_size=1000,
    )


def _tokenizer(data: Path, tokenizer: Path, vocab_size: int) -> TrainTokenizerConfig:
    return TrainTokenizerConfig(
        input=data,
        output_dir=tokenizer,
        vocab_size=vocab_size,
        max_corpus_bytes=10_000_000,
        held_out_share=HELD_OUT_SHARE,
    )


def _train(config: DemoConfig, data: Path, tokenizer: Path, run: Path) -> Path:
    from ibidem.training.train import train

    settings = {
        "model": _model(config),
        "output_dir": run,
        "data": {"dataset": data, "tokenizer": tokenizer, "held_out_share": HELD_OUT_SHARE, "context": WINDOW},
        "training": {
            "steps": config.steps,
            "batch_sequences": BATCH,
            "micro_batch_sequences": BATCH,
            "mixed_precision": "no",
            "resume_from": "latest",
        },
        "optim": OPTIM | {"warmup_steps": round(config.steps * WARM_UP_SHARE)},
        "validation": {"every": max(1, config.steps // 5), "windows": 64, "prompts": PROMPTS, "sample_tokens": 40},
        "checkpoints": {"every": max(1, config.steps // 3), "keep_last": 2},
    }
    say(train(build(TrainConfig, settings)))
    return folder_of(run, config.steps)


def _conversations(config: DemoConfig, public: Path) -> Path:
    """Make conversations from the corpus's own functions, and solved problems; return both as one dataset."""
    from ibidem.training.synthesize import SynthesizeConfig, synthesize

    traces, solved, both = (config.output_dir / name for name in ("traces", "solved", "conversations"))
    say(synthesize(SynthesizeConfig(from_=public, output_dir=traces, number=config.traces)))
    number = max(1, round(config.traces * SOLVED_SHARE))
    solutions: dict[str, Any] = {"kinds": ("solve",), "families": FAMILIES, "steps": OPERATIONS}
    say(synthesize(SynthesizeConfig(from_=public, output_dir=solved, number=number, **solutions)))
    parts = {path.name: Ingredient(path=path) for path in (traces, solved)}
    say(blend(BlendConfig(datasets=parts, output_dir=both, shares={"instruction": 1.0})))
    return both


def _tune(config: DemoConfig, base: Path, conversations: Path, run: Path) -> Path:
    """Teach the model to answer."""
    from ibidem.training.rlhf.config import SftConfig
    from ibidem.training.rlhf.sft_pipeline import sft

    steps = max(1, round(config.steps * TUNING_SHARE))
    settings = {
        "initial": base,
        "data": conversations,
        "output_dir": run,
        "training": {
            "steps": steps,
            "batch_sequences": 16,
            "micro_batch_sequences": 16,
            "mixed_precision": "no",
            "resume_from": "latest",
        },
        "optim": TUNING_OPTIM,
        "validation": {"every": steps, "sample_tokens": 64, "prompts": QUESTIONS},
        "checkpoints": {"every": steps, "keep_last": 1},
    }
    say(sft(build(SftConfig, settings)))
    return folder_of(run, steps)


def _practice(config: DemoConfig, tuned: Path, run: Path) -> Path:
    """Let the model learn from running its own programs; return the last checkpoint, or the given one if it cannot."""
    from ibidem.training.rlhf.config import GrpoConfig
    from ibidem.training.rlhf.grpo_trainer import grpo

    problems, steps = config.output_dir / "problems.jsonl", max(1, round(config.steps * PRACTICE_SHARE))
    say(write_problems(ProblemsConfig(output=problems, number=PROBLEMS, families=FAMILIES, steps=OPERATIONS)))
    settings = {
        **PRACTICE,
        "initial": tuned,
        "problems": problems,
        "output_dir": run,
        "training": {
            "steps": steps,
            "batch_sequences": PRACTICE_ANSWERS,
            "micro_batch_sequences": 16,
            "mixed_precision": "no",
            "resume_from": "latest",
        },
        "validation": {"every": max(1, steps // 4), "sample_tokens": PRACTICE["rollout"]["max_tokens"]},
        "checkpoints": {"every": steps, "keep_last": 1},
    }
    try:
        say(grpo(build(GrpoConfig, settings)))
    except NothingToLearn as error:  # of a model that was hardly trained
        say(f"{run}: left out: {error}")
        return tuned
    return folder_of(run, steps)


def _evaluate(checkpoint: Path, data: Path, result: Path) -> None:
    """Measure on held-out documents, unless the result for this very checkpoint already exists."""
    import json

    from ibidem.evaluation.perplexity import perplexity

    digest = artifacts.load(checkpoint).digest
    if result.exists() and json.loads(result.read_text(encoding="utf-8")).get("checkpoint_digest") == digest:
        return
    say(perplexity(PerplexityConfig(checkpoint=checkpoint, data=data, output=result, **HELD_OUT)))


def _dashboard(run: Path, data: Path, out: Path) -> str:
    from ibidem.evaluation.dashboard import dashboard

    return dashboard(DashboardConfig(run=run, data=(data,), output_dir=out, **HELD_OUT))


def _benchmarks(config: DemoConfig, checkpoint: Path, out: Path) -> list[Path]:
    """Evaluate on all available benchmarks; return the paths of the results."""
    from ibidem.evaluation.chat import chat
    from ibidem.evaluation.doc_qa import doc_qa
    from ibidem.evaluation.human_eval import human_eval
    from ibidem.evaluation.mbpp import mbpp
    from ibidem.evaluation.mmlu import mmlu

    asked: dict[str, Any] = {"checkpoint": checkpoint, "max_tokens": ANSWER_TOKENS}
    say(human_eval(HumanEvalConfig(output_dir=out / "human-eval", **asked)))
    if config.mbpp:
        say(mbpp(MbppConfig(problems=config.mbpp, output_dir=out / "mbpp", **asked)))
    if config.mmlu:
        say(mmlu(MmluConfig(data=config.mmlu, output_dir=out / "mmlu", checkpoint=checkpoint)))
    say(doc_qa(DocQaConfig(data=_configs(config) / "documents.jsonl", output_dir=out / "doc-qa", **asked)))
    prompts = _configs(config) / "prompts.jsonl"
    say(chat(ChatConfig(prompts=prompts, output_dir=out / "responses", limit=CHAT_PROMPTS, **asked)))
    names = ("human-eval", "mbpp", "mmlu", "doc-qa")
    return [*(path for name in names if (path := out / name / "results.json").exists()), out / "dashboard"]


def _index(base: Path, out: Path) -> Path:
    """Index the tokens that the model was trained on."""
    from ibidem.attribution.config import BuildConfig
    from ibidem.attribution.index import build as build_index
    from ibidem.attribution.index import parent

    say(build_index(BuildConfig(tokens=parent(artifacts.load(base), "tokens").path, output_dir=out)))
    return out


def _verbatim(checkpoint: Path, index: Path, data: Path, out: Path) -> Path:
    """Let a model continue the beginnings of training documents, and measure what it repeats of them."""
    from ibidem.evaluation.verbatim import verbatim

    beginnings = (
        row["text"][:BEGINNING_CHARS]
        for path in shards.shard_paths(data)
        for row in shards.read_rows(path, ["sha256", "text"])
        if not shards.is_held_out(row["sha256"], HELD_OUT_SHARE)
    )
    distinct = {text.casefold(): text for text in islice(beginnings, 0, None, BEGINNINGS_APART)}
    chosen = [*distinct.values()][:BEGINNINGS]
    prompts = [{"id": f"{number:02d}", "prompt": text} for number, text in enumerate(chosen)]
    write_file(out / BEGINNINGS_FILE, jsonl.dumps(prompts))
    place = out / "evaluation" / f"verbatim-{run_of(checkpoint).name.partition('-')[0]}"
    asked: dict[str, Any] = {"checkpoint": checkpoint, "index": index, "batch": BEGINNINGS, **VERBATIM}
    say(verbatim(VerbatimConfig(**asked, prompts=out / BEGINNINGS_FILE, output_dir=place)))
    return place


def _documents(out: Path) -> list[Path]:
    """Index this program's own documentation, and ask as two principals; return the answers."""
    from ibidem.grounding import ask
    from ibidem.grounding.config import GroundAskConfig, GroundIndexConfig
    from ibidem.grounding.indexing import index as index_documents

    out.mkdir(parents=True, exist_ok=True)
    acl, index = out / "acl.yaml", out / "index"
    write_file(acl, DOCUMENTS_ACL)
    said = [index_documents(GroundIndexConfig(docs=shipped("", "docs"), acl=str(acl), output_dir=index))]
    answers, cited = [], list[str]()
    for number, question in enumerate(DOCUMENTS_QUESTIONS, 1):
        for principal in (DEVELOPER, GUEST):
            asked = GroundAskConfig(index=index, principal=principal, question=question)
            reply = ask.reply_to(asked)
            answers.append(out / f"answer-{number}-{principal}.json")
            write_file(answers[-1], ask.as_json(asked, reply) + "\n")
            said.append(f"{principal} asks: {question}\n{ask.as_text(reply)}")
            cited += [row["chunk"] for row in reply.rows()] if principal == DEVELOPER else []
    say("\n".join([*said, f"{GUEST} opens what {DEVELOPER} was told first: {_denial(index, cited[0])}"]))
    return answers


def _head(base: Path, data: Path, out: Path) -> Path:
    """Train a grounding head on this program's own documentation; return its run."""
    from ibidem.serving.report_grounding import kinds_as_text
    from ibidem.training.head import train_head

    say(preprocess(PreprocessConfig(dataset=(f"{shipped('', 'docs')}:train:text",), output_dir=data)))
    tree = {"initial": base, "data": data, "output_dir": out, "training": {"resume_from": "latest", **HEAD}}
    say(train_head(build(HeadConfig, tree | HEAD_MEASURED)))
    say(kinds_as_text(out))
    return out


def _denial(index: Path, chunk: str) -> str:
    """Open a chunk that only the developer may read as the guest; return the denial."""
    from ibidem.grounding import search
    from ibidem.grounding.config import GroundShowConfig

    try:
        search.show(GroundShowConfig(index=index, principal=GUEST, chunk=chunk))
    except AccessDenied as denial:
        return str(denial)
    raise AssertionError(f"{GUEST} may read chunk {chunk}, which is not for {GUEST}")


def _gate(config: DemoConfig, checkpoint: Path, out: Path) -> str:
    """Run the gate over the evaluations made above and return its decision; BLOCK is expected."""
    from ibidem.evaluation.gate.gate import gate
    from ibidem.evaluation.gate.pin import pins_of

    tree = read_yaml(_configs(config) / "gate.yaml")
    places = {"chat": "ratings", "documents": "doc-qa", "grounding": "grounding-review"}
    tree["evidence"] = {key: out / "evaluation" / places.get(key, key) for key in tree["evidence"]}
    documents = _configs(config) / "documents.jsonl"
    at_hand = {"human-eval": HUMAN_EVAL, "mbpp": config.mbpp, "mmlu": config.mmlu, "documents": documents}
    at_hand["verbatim"] = out / BEGINNINGS_FILE
    short = {"max_tokens": ANSWER_TOKENS}
    tree["settings"] |= {"human-eval": short, "mbpp": short, "documents": short}
    tree["evidence"]["verbatim"] = out / "evaluation" / f"verbatim-{run_of(checkpoint).name.partition('-')[0]}"
    tree["criteria"]["output.verbatim"] = VERBATIM_CRITERION
    tree["settings"]["verbatim"] = {"index": str(out / "attribution"), **VERBATIM}
    tree |= {"checkpoint": checkpoint, "output_dir": out / "gate", "unsigned": list(tree["evidence"])}
    tree["benchmarks"] = {key: str(place) for key, place in at_hand.items() if place}
    tree["pins"] = pins_of(build(GateConfig, tree))[0]
    try:
        return gate(build(GateConfig, tree))
    except GateFailed as decision:
        return str(decision)


def _generate(checkpoint: Path) -> str:
    from ibidem.serving.generate import generate

    return generate(GenerateConfig(checkpoint=checkpoint, prompt=PROMPTS, max_tokens=48, temperature=0.6))


def _attributed(evaluation: Path) -> str:
    """Return the three completions that repeat the most words of training documents, with these documents."""
    from ibidem.evaluation.evidence import read
    from ibidem.evaluation.verbatim import described

    items = sorted(read(evaluation).items, key=lambda item: (-variety(item["spans"]), item["id"], item["temperature"]))
    distinct: dict[frozenset[str], Row] = {}
    for item in items:
        documents = frozenset(source["sha256"] for span in item["spans"] for source in span["sources"])
        distinct.setdefault(documents, item)
    return "\n\n".join(described(item) for item in [*distinct.values()][:ATTRIBUTED])


def _report(run: Path, results: list[Path], answers: list[Path], head: Path, page: Path) -> str:
    from ibidem.serving.report import report

    included: dict[str, Any] = {"evaluation": tuple(results), "answers": tuple(answers), "head": head}
    return report(ReportConfig(run=run, output=page, title="ibidem demo", **included))
