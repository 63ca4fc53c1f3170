"""The Python interface: the stages of the command line as functions that return what they made.

    import ibidem

    data = ibidem.preprocess(dataset=["my-code:train:text"], output_dir="data")
    tokenizer = ibidem.train_tokenizer(input=data, output_dir="tokenizer", vocab_size=2000)
    ibidem.generate("artifacts", "def fibonacci(n):", max_tokens=40)

Settings are the keys of the configuration page, nested as in a YAML file: `training={"steps": 100}`. A mistake is a
`ConfigError`, which is a `ValueError`; every error is an `ibidem.IbidemError`, and `ibidem.errors` has the others.
Where a folder is due, its path will do, or what a stage returned. Nothing is printed; `show_progress` shows what the
command line shows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibidem import artifacts, runtime
from ibidem.artifacts import Artifact
from ibidem.commands import COMMANDS, load
from ibidem.config import build, suggest
from ibidem.console import console
from ibidem.data import shards
from ibidem.errors import ConfigError, IbidemError  # noqa: F401 - a part of the interface
from ibidem.figures import counted
from ibidem.serving.config import DEFAULT_TOKENS, GenerateConfig
from ibidem.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ibidem.inference.models import LanguageModel

EVALUATIONS = ("perplexity", "human-eval", "mbpp", "mmlu", "doc-qa", "refusals", "verbatim", "ratings")


@dataclass(frozen=True, repr=False)
class Dataset:
    """A preprocessed or blended dataset. Iterating yields one document after the other, as a dict of its columns."""

    artifact: Artifact

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.artifact.path

    @property
    def digest(self) -> str:
        """Identifies its content, its settings and what it was made from."""
        return self.artifact.digest

    @property
    def counts(self) -> Mapping[str, Any]:
        """What was read, kept, dropped and quarantined, and what the documents are; see the page on the layout."""
        return self.artifact.counts

    def __len__(self) -> int:
        """Return the number of documents."""
        return int(self.counts["kept"])

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {counted(len(self), 'document')}, {self.digest[:19]})"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield every document with all its columns."""
        return self.rows()

    def rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Yield every document with some columns, or with all of them.

        Raises:
            DigestMismatch: a shard is missing or damaged.
            DataError: a column does not exist.
        """
        for path in shards.checked_shards(self.artifact):
            yield from shards.read_rows(path, columns or shards.SCHEMA.names)

    def dropped(self, reason: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield what was dropped, all or for one reason, such as license or filter.lines; a row has no text."""
        rows = (row for table in shards.read_dropped(self.artifact) for row in table.to_pylist())
        yield from (row for row in rows if reason is None or f"{row['reason']}.".startswith(f"{reason}."))


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    results: Mapping[str, Any]
    """The figures, such as `pass@1`, and what they were measured on; None was not measured."""
    items: Sequence[Mapping[str, Any]]
    """The judged items, from which the figures follow; empty for perplexity."""
    path: Path | None
    """The folder of the evidence, or the file of the result."""

    def __getitem__(self, figure: str) -> Any:
        """Return a figure."""
        return self.results[figure]


Place = str | Path | Artifact | Dataset | Tokenizer | Evaluation
"""A folder, as a path or as what a stage returned."""


def show_progress() -> AbstractContextManager[None]:
    """Show the progress of the block on standard error, as the command line does."""
    return console()


def open_dataset(path: Place) -> Dataset:
    """Open a preprocessed or blended dataset; its shards are checked when they are read.

    Raises:
        ArtifactError: it is not a dataset.
    """
    return Dataset(artifacts.load(_path(path), kind=shards.KIND))


def load_model(path: Place) -> "LanguageModel":
    """Load a checkpoint, the newest checkpoint of a run, or a local folder of a Hugging Face language model.

    Raises:
        ConfigError: it is none of them.
        CheckpointError: it is damaged.
    """
    runtime.tune()
    from ibidem.inference.models import open_model

    return open_model(_path(path))


def generate(
    model: "LanguageModel | Place",
    prompt: str | Sequence[str],
    *,
    max_tokens: int | None = None,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> str | list[str]:
    """Continue a prompt, or each of several together; the prompt itself is not repeated. Same seed, same text.

    Args:
        model: what `load_model` returned, or a path.
        prompt: the start of a document, or several; a prompt that is too long is truncated on the left.
        max_tokens: maximum number of tokens of a completion; by default 128, or as many as fit into the context.
        temperature: 0 takes the most likely token.
        top_p: draw from the most likely tokens that together have this probability.
        seed: of the draws.
        stop: a completion ends before the first of these.

    Raises:
        ConfigError: an argument is out of range, or max_tokens leaves no room for a prompt.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    values = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "stop": stop}
    asked = build(GenerateConfig, {"checkpoint": Path(), "prompt": prompts, **values})
    loaded = load_model(model) if isinstance(model, Place) else model
    from ibidem.modeling.generate import Sampling, room_for

    fitting = max(1, min(DEFAULT_TOKENS, room_for(loaded.context, loaded.encode, asked.prompt)))
    sampling = Sampling(asked.max_tokens or fitting, asked.temperature, asked.top_p, asked.seed)
    texts = loaded.complete(asked.prompt, sampling, asked.stop)
    return texts[0] if isinstance(prompt, str) else texts


def preprocess(**settings: Any) -> Dataset:
    """Turn public data into clean, licensed, deduplicated, traceable shards; settings as of `ibidem preprocess`."""
    return open_dataset(_run("preprocess", settings).output_dir)


def blend(**settings: Any) -> Dataset:
    """Combine preprocessed datasets in given shares; settings as of `ibidem blend`."""
    return open_dataset(_run("blend", settings).output_dir)


def train_tokenizer(**settings: Any) -> Tokenizer:
    """Train a tokenizer that reproduces every byte; settings as of `ibidem train-tokenizer`."""
    return Tokenizer.load(_run("train-tokenizer", settings).output_dir)


def train(**settings: Any) -> Artifact:
    """Pretrain a decoder; settings as of `ibidem train`. Return the last checkpoint; `counts` are its figures."""
    checkpoint: Artifact = _returned("train", "ibidem.training.train:run", settings)
    return checkpoint


def synthesize(source: Place, **settings: Any) -> Dataset:
    """Make conversations from the functions of a dataset; settings as of `ibidem synthesize`."""
    return open_dataset(_run("synthesize", {"from": source, **settings}).output_dir)


def import_model(source: Place, **settings: Any) -> Artifact:
    """Make a checkpoint from a Llama or Qwen3 folder of Hugging Face; settings as of `ibidem import`. Return it."""
    checkpoint: Artifact = _returned("import", "ibidem.serving.imports.import_model:run", {"from": source, **settings})
    return checkpoint


def sft(**settings: Any) -> Artifact:
    """Teach a checkpoint to answer; settings as of `ibidem sft`. Return the last checkpoint."""
    checkpoint: Artifact = _returned("sft", "ibidem.training.rlhf.sft_pipeline:run", settings)
    return checkpoint


def dpo(**settings: Any) -> Artifact:
    """Train a checkpoint on preferences; settings as of `ibidem dpo`. Return the last checkpoint."""
    checkpoint: Artifact = _returned("dpo", "ibidem.training.rlhf.dpo_trainer:run", settings)
    return checkpoint


def reward(**settings: Any) -> Artifact:
    """Train a reward model on preferences; settings as of `ibidem reward`. Return the last one."""
    model: Artifact = _returned("reward", "ibidem.training.rlhf.reward_model:run", settings)
    return model


def ppo(**settings: Any) -> Artifact:
    """Train a checkpoint with a reward model; settings as of `ibidem ppo`. Return the last checkpoint."""
    checkpoint: Artifact = _returned("ppo", "ibidem.training.rlhf.ppo_trainer:run", settings)
    return checkpoint


def grpo(**settings: Any) -> Artifact:
    """Train a checkpoint on executed tests; settings as of `ibidem grpo`. Return the last checkpoint."""
    checkpoint: Artifact = _returned("grpo", "ibidem.training.rlhf.grpo_trainer:run", settings)
    return checkpoint


def index_documents(docs: Place, **settings: Any) -> Artifact:
    """Index a folder of private documents; settings as of `ibidem ground index`. Return the index."""
    config = _run("ground index", {"docs": docs, **settings})
    if config.output_dir is None:
        raise ConfigError("an index in a database is no folder; use the command line")
    return artifacts.load(config.output_dir)


def search_documents(index: Place, principal: str, query: str, **settings: Any) -> list[dict[str, Any]]:
    """Find passages that a principal may read; settings as of `ibidem ground search`.

    Returns:
        The best first, each as `{chunk, path, title, span, score, text}`.

    Raises:
        AccessDenied: the access rules or the index changed during the query.
    """
    given = {"index": index, "principal": principal, "query": query, **settings, "json": True}
    return list(json.loads(_returned("ground search", COMMANDS["ground search"].run, given)))


def ask_documents(index: Place, principal: str, question: str, **settings: Any) -> dict[str, Any]:
    """Answer a question from the documents that a principal may read; settings as of `ibidem ground ask`.

    Returns:
        `{question, principal, answer, citations, removed, unsupported, left_out}`.

    Raises:
        AccessDenied: the access rules or the index changed during the query.
    """
    given = {"index": index, "principal": principal, "question": question, **settings, "json": True}
    return dict(json.loads(_returned("ground ask", COMMANDS["ground ask"].run, given)))


def evaluate(name: str, **settings: Any) -> Evaluation:
    """Evaluate a model, or its answers; settings as of `ibidem evaluate NAME`.

    Args:
        name: perplexity, human-eval, mbpp, mmlu, doc-qa, refusals, verbatim or ratings.
        settings: as of the command, such as `checkpoint` and `output_dir`.

    Raises:
        ConfigError: the name or a setting is wrong.
    """
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise ConfigError(f"no evaluation is called {name!r}{suggest(name, EVALUATIONS)}; there are {known}")
    if name == "perplexity":
        result = _returned("evaluate perplexity", "ibidem.evaluation.perplexity:evaluate", settings)
        return Evaluation(result, (), _path(settings["output"]) if settings.get("output") else None)
    from ibidem.evaluation import evidence

    evaluation = evidence.read(_run(f"evaluate {name}", settings).output_dir)
    return Evaluation(evaluation.results, evaluation.items, evaluation.artifact.path)


def _run(name: str, settings: Mapping[str, Any]) -> Any:
    """Run a command; return its configuration."""
    config = build(load(COMMANDS[name].config), _plain(settings))
    runtime.tune()
    load(COMMANDS[name].run)(config)
    return config


def _returned(name: str, function: str, settings: Mapping[str, Any]) -> Any:
    """Run the function behind a command; return what it returns."""
    config = build(load(COMMANDS[name].config), _plain(settings))
    runtime.tune()
    return load(function)(config)


def _plain(value: Any) -> Any:
    """Replace whatever has a folder by its path."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _path(value) if isinstance(value, Artifact | Dataset | Tokenizer | Evaluation) else value


def _path(place: Place) -> Path:
    if not isinstance(place, Place):
        raise ConfigError(f"a folder is due, not {type(place).__name__}")
    path = place if isinstance(place, str | Path) else place.path
    if path is None:
        raise ConfigError(f"this {type(place).__name__.lower()} has no folder: it was not written")
    return Path(path)
