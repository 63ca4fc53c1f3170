"""Perplexity and bits per byte of a checkpoint, or of any local Hugging Face model, on text.

A long document is read in overlapping windows, and each token is scored once, with as much context as its window has:

    window 0   [0 1 2 3 4 5 6 7]              all targets count
    window 1           [4 5 6 7 8 9 10 11]    only 8, 9, 10, 11 count

Source: the strided evaluation of the transformers documentation, "Perplexity of fixed-length models".
"""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.corpus import Corpus
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation.config import PerplexityConfig
from ibidem.modeling.checkpoint import TOKENIZER_DIR, best_device, load_model
from ibidem.modeling.loss import IGNORE
from ibidem.tokenization.tokenizer import Tokenizer


class Scorer(Protocol):
    """What perplexity needs of a model."""

    digest: str | None
    context: int
    start_ids: list[int]
    """What stands before a document; nothing where the model has no such token."""

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text, without any special token."""

    def nll(self, ids: Sequence[int], first: int) -> float:
        """Sum the negative log-likelihoods of ids[first:], each given all before it, in nats."""


def perplexity(config: PerplexityConfig) -> str:
    """Measure, write the JSON result if a file is named, say the figures.

    Raises:
        ConfigError: window or stride do not fit, or the path is no model.
        DataError: there is no text.
    """
    corpus = Corpus.open(config.data, config.column)
    if config.held_out_share is not None and not corpus.is_dataset:
        raise ConfigError(f"held_out_share: {config.data} is no preprocessed dataset, so nothing of it was held out")
    scorer = open_scorer(config.checkpoint)
    window = config.window or scorer.context
    stride = config.stride or max(1, window // 2)
    if window > scorer.context or stride > window:
        raise ConfigError(f"window {window}, stride {stride}: need stride <= window <= context {scorer.context}")
    result = {
        "task": "perplexity",
        "checkpoint": str(config.checkpoint),
        "checkpoint_digest": scorer.digest,
        "data": str(config.data),
        "data_digest": corpus.as_input("data", of=config.data).digest,
        "held_out_share": config.held_out_share,
        "window": window,
        "stride": stride,
        **measure(scorer, _texts(corpus, config), window=window, stride=stride),
    }
    if config.output is not None:
        artifacts.write_file(config.output, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    log.event("evaluate.perplexity", **result)
    bits = "NOT MEASURED" if result["bits_per_byte"] is None else f"{result['bits_per_byte']:.4f}"
    return (
        f"perplexity {result['perplexity']:.4f}, bits per byte {bits} on "
        f"{result['documents']:,} documents, {result['tokens']:,} tokens, {result['bytes']:,} bytes"
    )


def measure(scorer: Scorer, texts: Iterator[str], *, window: int, stride: int) -> dict[str, Any]:
    """Score every token of every text once."""
    nll, num_tokens, num_bytes, documents = 0.0, 0, 0, 0
    with log.progress("evaluate.perplexity", None, "documents") as bar:
        for text in texts:
            ids = [*scorer.start_ids, *scorer.encode(text)]
            for start, end, first in windows(len(ids), window=window, stride=stride):
                nll += scorer.nll(ids[start:end], first - start)
                num_tokens += end - first
            documents += 1
            num_bytes += len(text.encode())
            bar.advance()
    if num_tokens == 0 or num_bytes == 0:
        raise DataError("there is no token to score: the documents are empty, or none is held out")
    return {
        "documents": documents,
        "tokens": num_tokens,
        "bytes": num_bytes,
        "nll": nll,
        "first_token_scored": bool(scorer.start_ids),
        "perplexity": math.exp(nll / num_tokens),
        "bits_per_byte": nll / math.log(2) / num_bytes if scorer.start_ids else None,  # else the first token lacks
    }


def windows(length: int, *, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Cut `length` ids into (start, end, first target to count); a window is `window` inputs and one target more.

    >>> list(windows(13, window=8, stride=4))
    [(0, 9, 1), (4, 13, 9)]
    """
    counted = 1
    start = 0
    while counted < length:
        end = min(start + window + 1, length)
        yield start, end, counted
        counted = end
        start += stride


def open_scorer(path: Path) -> Scorer:
    """Open a checkpoint of ours, or a folder that Hugging Face `transformers` can load.

    Raises:
        ConfigError: it is neither.
    """
    if (path / artifacts.MANIFEST).exists():
        return OwnScorer(path)
    if (path / "config.json").exists():
        return HuggingFaceScorer(path)
    raise ConfigError(f"checkpoint {path}: neither a checkpoint of ibidem train nor a Hugging Face model folder")


class OwnScorer:
    """A checkpoint of `ibidem train`."""

    def __init__(self, path: Path) -> None:
        self._model, checkpoint = load_model(path)
        self._tokenizer = Tokenizer.load(path / TOKENIZER_DIR)
        self.digest: str | None = checkpoint.digest
        self.context = self._model.config.context
        self.start_ids = [self._tokenizer.document_id]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    @torch.no_grad()
    def nll(self, ids: Sequence[int], first: int) -> float:
        row = torch.tensor([ids], device=self._model.embedding_VD.device)
        targets = row[:, 1:].clone()
        targets[:, : first - 1] = IGNORE
        return float(self._model(row[:, :-1], targets))


class HuggingFaceScorer:
    """Any causal language model in a local folder; nothing is fetched."""

    def __init__(self, path: Path) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ConfigError("a Hugging Face model needs transformers: pip install 'ibidem[huggingface]'") from None
        try:
            local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer = AutoTokenizer.from_pretrained(path, **local)
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"checkpoint {path}: {' '.join(str(error).split())[:200]}") from None
        self._model: Any = model.to(best_device()).eval()
        self.digest: str | None = None
        self.context = int(getattr(self._model.config, "max_position_embeddings", 1024))
        start = (
            self._tokenizer.bos_token_id if self._tokenizer.bos_token_id is not None else self._tokenizer.eos_token_id
        )
        self.start_ids = [] if start is None else [start]

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def nll(self, ids: Sequence[int], first: int) -> float:
        row = torch.tensor([ids], device=self._model.device)
        logits_TV = self._model(row[:, :-1]).logits[0]
        return float(cross_entropy(logits_TV[first - 1 :].float(), row[0, first:], reduction="sum"))


def _texts(corpus: Corpus, config: PerplexityConfig) -> Iterator[str]:
    share = config.held_out_share
    texts = (text for sha256, text in corpus.documents() if share is None or shards.is_held_out(sha256, share))
    return islice(texts, config.max_documents)
