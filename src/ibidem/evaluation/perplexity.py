"""Perplexity and bits per byte of a checkpoint, or of any local Hugging Face model, on text.

A long document is read in overlapping windows, and each token is scored once, with the context of its window:

    window 0   [0 1 2 3 4 5 6 7]              all targets count
    window 1           [4 5 6 7 8 9 10 11]    only 8, 9, 10, 11 count

Source: the strided evaluation of the transformers documentation, "Perplexity of fixed-length models".
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.corpus import Corpus
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation.config import PerplexityConfig
from ibidem.evaluation.tracking import name_of, send
from ibidem.figures import counted
from ibidem.files import write_file
from ibidem.inference.model_id import ModelId
from ibidem.inference.models import Bos, LanguageModel, open_model, start_ids
from ibidem.lineage import walk
from ibidem.runs import newest
from ibidem.statistics import ratio_error
from ibidem.trackers import check

MEASURED = ("documents", "tokens", "bytes", "nll", "perplexity", "bits_per_byte", "bits_per_byte_error")


def perplexity(config: PerplexityConfig) -> str:
    """Measure, and return the figures as a line."""
    result = evaluate(config)
    seen = _overlap(config, result["held_out_share"])
    bits = "NOT MEASURED" if result["bits_per_byte"] is None else f"{result['bits_per_byte']:.4f}"
    amounts = [counted(result[f"{noun}s"], noun) for noun in ("document", "token", "byte")]
    return f"perplexity {result['perplexity']:.4f}, bits per byte {bits} on {', '.join(amounts)}{seen}"


def evaluate(config: PerplexityConfig) -> dict[str, Any]:
    """Measure, write the JSON result if a file is named, and return it.

    Raises:
        ConfigError: window or stride do not fit, the path is not a model, or a tracker cannot be used.
        DataError: there is no text.
    """
    check(config.trackers)
    if config.output is not None:
        artifacts.check_outside(config.output)
    elif config.trackers:
        raise ConfigError("trackers keep their files beside the result; give --output FILE.json")
    corpus = Corpus.open(config.data, config.column)
    share = config.held_out_share or trained_without(config.checkpoint, config.data)
    if config.held_out_share is not None and not corpus.is_dataset:
        raise ConfigError(f"held_out_share: {config.data} is not a preprocessed dataset, so nothing of it was held out")
    model = open_model(config.checkpoint)
    window = config.window or model.context
    stride = config.stride or max(1, window // 2)
    if window > model.context or stride > window:
        raise ConfigError(f"window {window}, stride {stride}: need stride <= window <= context {model.context}")
    result = {
        "task": "perplexity",
        "checkpoint": str(config.checkpoint),
        "checkpoint_digest": model.digest,
        "data": str(config.data),
        "data_digest": corpus.as_input("data", of=config.data).digest,
        "held_out_share": share,
        "max_chars": config.max_chars,
        "window": window,
        "stride": stride,
        "last_window": config.last_window,
        "bos": config.bos,
        **measure(
            model,
            _texts(corpus, share, config),
            window=window,
            stride=stride,
            last_is_full=config.last_window == "full",
            bos=config.bos,
        ),
    }
    if config.output is not None:
        write_file(config.output, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        _track(config, config.output.parent, result)
    log.event("evaluate.perplexity", **result)
    return result


def _track(config: PerplexityConfig, folder: Path, result: Mapping[str, Any]) -> None:
    """Send what was measured to the trackers; all else is the configuration."""
    if not config.trackers:
        return
    path = newest(config.checkpoint)
    is_checkpoint = (path / artifacts.MANIFEST).exists()
    model, step = name_of(ModelId(path, result["checkpoint_digest"], is_checkpoint=is_checkpoint))
    about = {key: value for key, value in result.items() if key not in MEASURED}
    send(config.trackers, folder, model, "perplexity", about, [(step, {key: result[key] for key in MEASURED})])


def trained_without(checkpoint: Path, data: Path) -> float | None:
    """Return the share that the training of a checkpoint held out of a dataset; None if it did not read it."""
    checkpoint = newest(checkpoint)
    if not all((path / artifacts.MANIFEST).exists() for path in (checkpoint, data)):
        return None
    digest = artifacts.load(data).digest
    tokens = (node for _, _, node in walk(checkpoint) if isinstance(node, artifacts.Artifact) and node.kind == "tokens")
    return next((node.config["held_out_share"] for node in tokens if node.digest_of("dataset") == digest), None)


def _overlap(config: PerplexityConfig, share: float | None) -> str:
    """Say whether the model was trained on what it was measured on."""
    held_out = trained_without(config.checkpoint, config.data)
    if held_out is None or share is None:
        return ""
    if share > held_out:
        return f"; the model was trained on some of them: its training held out a share of {held_out:g}"
    return ", which the training held out"


class Score(NamedTuple):
    """How well a text was predicted."""

    nll: float
    """Negative log-likelihood in nats, summed over the tokens."""
    tokens: int
    bytes: int


def measure(
    model: LanguageModel,
    texts: Iterable[str],
    *,
    window: int,
    stride: int,
    last_is_full: bool = False,
    bos: Bos = "always",
) -> dict[str, Any]:
    """Score every token of every text once."""
    scores = []
    with log.progress("evaluate.perplexity", None, "documents") as bar:
        for text in texts:
            scores.append(score(model, text, window=window, stride=stride, last_is_full=last_is_full, bos=bos))
            bar.advance()
    return figures(scores, has_start=bool(start_ids(model, bos)))


def score(
    model: LanguageModel, text: str, *, window: int, stride: int, last_is_full: bool = False, bos: Bos = "always"
) -> Score:
    """Score every token of a text once; the first one only if a start token precedes it.

    Raises:
        DataError: the likelihood is not finite.
    """
    nll, num_tokens = 0.0, 0
    ids = [*start_ids(model, bos), *model.encode(text)]
    for start, end, first in windows(len(ids), window=window, stride=stride, last_is_full=last_is_full):
        nll += model.nll(ids[start:end], first - start)
        num_tokens += end - first
    if not math.isfinite(nll):
        raise DataError("the model's likelihoods are not finite: its weights are damaged")
    return Score(nll, num_tokens, len(text.encode()))


def figures(scores: Sequence[Score], *, has_start: bool) -> dict[str, Any]:
    """Aggregate the scores of documents.

    Raises:
        DataError: they have no tokens.
    """
    nll, num_tokens, num_bytes = (
        math.fsum(s.nll for s in scores),
        sum(s.tokens for s in scores),
        sum(s.bytes for s in scores),
    )
    if num_tokens == 0 or num_bytes == 0:
        raise DataError("there are no tokens to score: the documents are empty, or none is held out")
    return {
        "documents": len(scores),
        "tokens": num_tokens,
        "bytes": num_bytes,
        "nll": nll,
        "first_token_scored": has_start,
        "perplexity": math.exp(nll / num_tokens),
        "bits_per_byte": nll / math.log(2) / num_bytes if has_start else None,  # else the first token is missing
        "bits_per_byte_error": ratio_error([s.nll / math.log(2) for s in scores], [s.bytes for s in scores]),
    }


def windows(length: int, *, window: int, stride: int, last_is_full: bool = False) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, first target to count) over `length` ids; a window is `window` inputs and one more target.

    >>> list(windows(13, window=8, stride=4))
    [(0, 9, 1), (4, 13, 9)]
    >>> list(windows(13, window=8, stride=8)), list(windows(13, window=8, stride=8, last_is_full=True))
    ([(0, 9, 1), (8, 13, 9)], [(0, 9, 1), (4, 13, 9)])
    """
    counted = 1
    start = 0
    while counted < length:
        end = min(start + window + 1, length)
        yield max(0, end - window - 1) if last_is_full else start, end, counted
        counted = end
        start += stride


def _texts(corpus: Corpus, share: float | None, config: PerplexityConfig) -> Iterator[str]:
    texts = (text for sha256, text in corpus.documents() if share is None or shards.is_held_out(sha256, share))
    return (text[: config.max_chars] for text in islice(texts, config.max_documents))
