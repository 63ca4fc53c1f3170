"""The model card of an export, from manifests alone: what is not known is not said, or is NOT MEASURED."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ibidem.artifacts import Artifact, Input
from ibidem.data import shards
from ibidem.data.provenance.plain_words import table
from ibidem.figures import MARGIN, NOT_MEASURED, between, counted, margin, percent
from ibidem.inference.weights_license import UNKNOWN
from ibidem.lineage import Node, walk
from ibidem.modeling.checkpoint import IMPORTED, model_config
from ibidem.modeling.checkpoint import KIND as CHECKPOINT
from ibidem.readers import Readers
from ibidem.serving.report_evaluation import NO_SHARES, Record, bounds_of, metrics_of
from ibidem.tokenization.alphabet import Alphabet

MOST_LICENSES = 30

_OPEN = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
ids = tokenizer("def add(", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40, do_sample=False)[0]))
```"""


_OPEN_GGUF = """```bash
llama-cli --model model.gguf --prompt "def add("
```"""


class About(NamedTuple):
    """What a card tells of."""

    checkpoint: Artifact
    dtype: str
    readers: Readers | None
    head: Artifact | None
    results: Sequence[Record]
    decision: Artifact | None
    compared: Mapping[str, Any]
    """Counts of the self-test."""
    alphabet: Alphabet | None = None
    """The characters that a tokenizer of transformers uses itself; None in a GGUF file."""
    begins: str | None = None
    """Name of the token that begins a document, of an imported tokenizer."""


def model_card(about: About) -> str:
    """Return the card as Markdown, with the front matter of the Hugging Face hub."""
    library = "llama.cpp" if about.alphabet is None else "transformers"
    front: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation", "tags": ["ibidem"]}
    imported = about.checkpoint.config.get(IMPORTED)
    if imported is not None and imported["license"] != UNKNOWN:
        front["license"] = imported["license"].lower()
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        f"# {about.checkpoint.path.resolve().name}",
        *_model(about),
        *_private(about.readers),
        "## Open it",
        _OPEN_GGUF if about.alphabet is None else _OPEN,
        "## Tokens and chats",
        *(_tokens_gguf(about) if about.alphabet is None else _tokens(about, about.alphabet)),
        "## Training",
        *_training(walk(about.checkpoint.path)),
        "## Data and their licenses",
        *_data(walk(about.checkpoint.path)),
        "## Evaluation",
        *(_evaluation(about.results) or [f"{NOT_MEASURED}: no result of `ibidem evaluate` was given."]),
        "## Release",
        _decision(about.decision),
        "## License of the weights",
        _license(imported),
    ]
    return "\n\n".join(parts) + "\n"


def _model(about: About) -> Iterator[str]:
    shape = model_config(about.checkpoint)
    family = "Qwen3" if shape.qk_norm else "Llama"
    program = "llama.cpp" if about.alphabet is None else "transformers"
    yield (
        f"A {family} of {program}: {shape.parameters:,} parameters in {about.dtype}, {shape.layers} layers of width "
        f"{shape.width}, {shape.heads} heads, {shape.num_kv_heads} key-value heads, a context of {shape.context:,} "
        f"tokens, {shape.vocab_size:,} ids. It needs no code but that of {program}."
    )
    yield (
        f"Made by `ibidem export` {about.checkpoint.version} from the checkpoint `{about.checkpoint.digest}`, with the "
        f"tokenizer `{about.checkpoint.digest_of('tokenizer') or NOT_MEASURED}`. `ibidem verify` hashes every file."
    )
    if about.head is not None:
        encoder = about.head.digest_of("encoder")
        reads = "this checkpoint" if encoder == about.checkpoint.digest else f"another encoder, `{encoder}`"
        yield f"Beside it, in `grounding_head/`: a grounding head, `{about.head.digest}`, for states of {reads}."


def _license(imported: Mapping[str, Any] | None) -> str:
    if imported is None:
        return "Not stated: whoever redistributes the weights chooses one, in view of the licenses of the data above."
    return (
        f"They come from outside, from `{imported['name']}` ({imported['architecture']}), whose license is "
        f"{imported['license']} ({imported['license_source']}). What those weights were trained on is not known here."
    )


def _private(readers: Readers | None) -> list[str]:
    if readers is None:
        return []
    read, deny = (", ".join(sorted(names)) or "nobody" for names in readers)
    return [
        f"**Private.** It was tuned on private documents, which it can repeat. Their readers: {read}. Denied: {deny}. "
        "Outside of ibidem nothing enforces this: whoever has these files has the documents."
    ]


def _tokens_gguf(about: About) -> Iterator[str]:
    yield (
        "A document begins with `<|endoftext|>`. A text ends with `<|end|>`, the end of a turn, or with "
        "`<|endoftext|>`. Whether `<|user|>` in a text becomes the marker is up to the program (`parse_special`)."
    )
    yield (
        f"Compared with the checkpoint when this was written, by llama.cpp {about.compared['llama_cpp']}: the "
        f"ids of {about.compared['texts']:,} hostile texts, which are the same, and logits on random ids. The chat "
        "template is in the file; how a program renders it was not compared."
    )


def _tokens(about: About, alphabet: Alphabet) -> Iterator[str]:
    lead, escape = (f"U+{ord(each):X}" for each in alphabet)
    compared = about.compared
    begins = about.begins or "<|endoftext|>"
    yield (
        f"A document begins with `{begins}`, which the tokenizer adds. A text ends with `<|end|>`, the end of a "
        f"turn, or with `{begins}`. A content of the chat template is a text, or a list of parts of type `text`, "
        "`passage`, `cite` and `tool_call`."
    )
    yield (
        _imported(lead, escape)
        if about.begins
        else (
            "`<|user|>` in a text stays text (`split_special_tokens`): only the chat template writes markers, as "
            f"{lead} followed by `|user|>`, and it escapes its texts with {escape}. So a text that has {lead} before "
            f"`|user|>`, or {escape} after `<` or {lead}, is not encoded as it stands if it does not come through the "
            "template. A program that reads `tokenizer.json` alone, or switches `split_special_tokens` off, takes "
            "`<|user|>` in a text for the marker, unless it comes through the template."
        )
    )
    yield (
        f"Compared with the checkpoint when this was written: the ids of {compared['texts']:,} hostile texts and "
        f"{compared['conversations']:,} hostile conversations, which are the same, and logits on random ids."
    )


def _imported(lead: str, escape: str) -> str:
    return (
        "The tokenizer was imported with the model. Its special tokens have other names here, with "
        f"{lead} in place of `<`, so that `<|user|>` in a text stays text, whoever reads `tokenizer.json`. The chat "
        f"template writes {escape} after {lead} in a text. So a text that has {lead} before `|user|>`, or {escape} "
        f"after {lead}, is not encoded as it stands if it does not come through the template."
    )


def _training(lineage: Iterable[Node]) -> Iterator[str]:
    trained = [node for _, _, node in lineage if isinstance(node, Artifact) and node.kind == CHECKPOINT]
    figures = {node.digest: node for node in trained}
    rows = [(node.path.resolve().name, f"`{node.digest}`", _figures(node.counts)) for node in figures.values()]
    yield table(("Checkpoint", "Digest", "Figures in its manifest"), rows)
    yield "The first is the exported one; each of the others is one whose weights a later one started from, or used."


def _figures(counts: Mapping[str, Any]) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in counts.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _data(lineage: Sequence[Node]) -> Iterator[str]:
    datasets = {node.digest: node for _, _, node in lineage if isinstance(node, Artifact) and node.kind == shards.KIND}
    rows = [_dataset(node) for node in datasets.values()]
    yield table(("Dataset", "Digest", "Documents", "Licenses"), rows) or (
        f"{NOT_MEASURED}: the data are not where the checkpoint says, or were changed since, as by a takedown."
    )
    if gone := _gone(lineage):
        yield "Not where the manifests say, or changed since:"
        yield table(("Role", "Digest"), gone)
    if sources := _sources(lineage):
        yield table(("Source", "Digest"), sources)


def _dataset(dataset: Artifact) -> tuple[str, str, str, str]:
    licenses = list(dataset.counts.get("license", {}).items())
    rest = counted(sum(number for _, number in licenses[MOST_LICENSES:]), "document")
    shown = [f"{name} ({number:,})" for name, number in licenses[:MOST_LICENSES]]
    more = [f"others ({rest})"] if len(licenses) > MOST_LICENSES else []
    kept, name = dataset.counts.get("kept"), dataset.path.resolve().name
    return name, f"`{dataset.digest}`", NOT_MEASURED if kept is None else f"{kept:,}", ", ".join(shown + more)


def _gone(lineage: Iterable[Node]) -> list[tuple[str, str]]:
    gone = [node for _, state, node in lineage if state in {"missing", "changed"} and isinstance(node, Input)]
    return list(dict.fromkeys((node.role, f"`{node.digest}`") for node in gone))


def _sources(lineage: Iterable[Node]) -> list[tuple[str, str]]:
    sources = [node for _, state, node in lineage if state == "source" and isinstance(node, Input)]
    names = [Path(node.name).name if Path(node.name).is_absolute() else node.name for node in sources]
    return list(dict.fromkeys(zip(names, (f"`{node.digest}`" for node in sources), strict=True)))


def _evaluation(results: Sequence[Record]) -> list[str]:
    rows = [row for result in results for row in _result(result)]
    shown = table(("Task", "Figure", "Result", "95 %"), rows)
    return [shown, f"Bounds are exact, each with 95 % confidence. {MARGIN}"] if shown else []


def _result(result: Record) -> Iterator[tuple[str, str, str, str]]:
    losses = result.get("rows", [result] if result["task"] == "perplexity" else [])
    for row in losses:
        of = result["task"] if "aspect" not in row else f"dashboard, {row['aspect']} {row['value']}"
        yield of, "bits per byte", f"{row['bits_per_byte']:.4f}", margin(row) or NOT_MEASURED
    for name in [] if losses else metrics_of(result):
        value, bounds = result[name], bounds_of(result, name)
        is_share = isinstance(value, int | float) and not name.startswith(NO_SHARES)
        yield result["task"], name, percent(value) if is_share else str(value), between(bounds) if bounds else ""


def _decision(decision: Artifact | None) -> str:
    if decision is None:
        return f"{NOT_MEASURED}: no decision of `ibidem gate` was given."
    criteria = counted(decision.counts["criteria"], "criterion", "criteria")
    return f"**{decision.counts['decision']}** by `ibidem gate`, on {criteria}: `{decision.digest}`."
