"""`ibidem export`: a checkpoint as a folder that other programs open, tested before it appears: the wiring.

                                hf                                gguf
checkpoint -> weights, shape    model.safetensors, config.json    model.gguf, for llama.cpp
           -> tokenizer         tokenizer.json, chat template     in the same file
           -> compare with the checkpoint: ids, texts, logits; else nothing is written
           -> README.md: what manifests say
"""

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.config import settings
from ibidem.errors import ArtifactError, CheckpointError, ConfigError
from ibidem.figures import counted, size
from ibidem.modeling.checkpoint import TOKENIZER_DIR, WEIGHTS, load_model, verified
from ibidem.modeling.heads import HEAD_KIND
from ibidem.modeling.modeling_custom import Decoder
from ibidem.readers import readers_of, recorded
from ibidem.records import TOKENIZER_JSON
from ibidem.runs import newest
from ibidem.serving.config import ExportConfig
from ibidem.serving.export.gguf_check import check_gguf, python_of
from ibidem.serving.export.gguf_model import write_gguf
from ibidem.serving.export.gguf_vocabulary import Vocabulary, vocabulary_of
from ibidem.serving.export.hf_chat_template import chat_template
from ibidem.serving.export.hf_model import (
    dtype_of,
    generation_config,
    hf_config,
    hf_weights,
    name_of,
    round_to,
    save_weights,
)
from ibidem.serving.export.hf_tokenizer import Form, form_of, tokenizer_config
from ibidem.serving.export.model_card import About, model_card
from ibidem.serving.export.self_test import check_logits, check_tokenizer
from ibidem.serving.report_evaluation import Record, read_result
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.json_file import CONFIG, GENERATION, TOKENIZER_CONFIG
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.train_tokenizer import has_exact_sums
from ibidem.tokenization.unigram_json import tokenizer_json

KIND = "export"
CARD, GGUF = "README.md", "model.gguf"
HEAD_FOLDER = "grounding_head"
"""A folder of its own, because some programs load every weight file that is beside the model's."""
HEAD_FILE = "grounding_head/head.json"
DECISION = "decision"


@dataclass(frozen=True)
class Beside:
    """What was given beside the checkpoint."""

    head: Artifact | None
    results: Sequence[Record]
    decision: Artifact | None
    inputs: Sequence[Input]


def export(config: ExportConfig) -> str:
    """Write the export and compare it with the checkpoint; return a line about it.

    Raises:
        AccessDenied: the checkpoint or the head was tuned on documents that the user may not read.
        ArtifactError: something else is at `output_dir`, or the export is not the same as the checkpoint.
        CheckpointError: the checkpoint is damaged, or its tokenizer is another one's.
        ConfigError: what an export is compared with is not installed, llama.cpp has no such tokenizer, or what was
            given is about another checkpoint.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    _check_installed(config.format)
    decoder, checkpoint = load_model(newest(config.checkpoint))
    tokenizer = _tokenizer(checkpoint, decoder)
    vocabulary = _vocabulary(tokenizer, decoder) if config.format == "gguf" else None
    beside = _beside(config, checkpoint)
    inputs = [checkpoint.as_input("checkpoint", of=config.output_dir), *beside.inputs]
    chosen = {key: value for key, value in settings(config).items() if key != "llama_cpp"}
    chosen |= recorded(inputs, config.output_dir)
    if artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs) is None:
        is_private = readers_of(chosen) is not None
        with artifacts.create(
            config.output_dir, kind=KIND, config=chosen, inputs=inputs, is_private=is_private
        ) as draft:
            dtype = _rounded(decoder, config, checkpoint)
            about = About(
                checkpoint, name_of(dtype), readers_of(chosen), beside.head, beside.results, beside.decision, {}
            )
            if vocabulary is None:
                about = _write_hf(draft.path, about, decoder, tokenizer)
            else:
                about = _write_gguf(draft.path, about, decoder, tokenizer, vocabulary, python_of(config.llama_cpp))
            log.event("export.compared", **about.compared)
            if beside.head is not None:
                _copy_head(beside.head, draft.path)
            _write_text(draft.path / CARD, model_card(about))
            draft.counts |= {"parameters": decoder.num_parameters, "dtype": about.dtype, **_counts(about.compared)}
    return _summary(artifacts.load(config.output_dir, kind=KIND))


def _check_installed(name: str) -> None:
    """Check that what an export needs is there.

    Raises:
        ConfigError: it is not.
    """
    if name == "hf" and importlib.util.find_spec("transformers") is None:
        raise ConfigError("an export is compared with transformers: pip install 'ibidem[huggingface]'")
    if name == "gguf" and importlib.util.find_spec("gguf") is None:
        raise ConfigError("a GGUF file is written by gguf: pip install 'ibidem[gguf]'")


def _tokenizer(checkpoint: Artifact, decoder: Decoder) -> Tokenizer:
    """Open the tokenizer of a checkpoint.

    Raises:
        ArtifactError: it has no chat markers, or its scores are not rounded.
        CheckpointError: it has more ids than the model.
    """
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_DIR)
    ChatTemplate(tokenizer)
    form = form_of(tokenizer)
    if not form.is_imported and not has_exact_sums(form.pieces.scores):
        raise ArtifactError(
            f"{tokenizer.path}: its scores are not rounded, so other programs add them differently and give other ids: "
            "train a tokenizer again with ibidem train-tokenizer, and the model with it"
        )
    if tokenizer.vocab_size > decoder.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path}: the model has {decoder.config.vocab_size:,} ids and its tokenizer "
            f"{tokenizer.vocab_size:,}; export a checkpoint as ibidem train wrote it"
        )
    return tokenizer


def _beside(config: ExportConfig, checkpoint: Artifact) -> Beside:
    """Open head, results and decision.

    Raises:
        ConfigError: a result or the decision is about another checkpoint.
    """
    head = verified(newest(config.head), HEAD_KIND) if config.head else None
    results = [_about(checkpoint, path, read_result(path)) for path in config.evaluation]
    decision = artifacts.load(config.decision, kind=DECISION) if config.decision else None
    if decision is not None and decision.digest_of("checkpoint") != checkpoint.digest:
        raise ConfigError(f"decision {decision.path}: it is about another checkpoint than {checkpoint.path}")
    opened = [("head", head), (DECISION, decision)]
    given = [artifact.as_input(role, of=config.output_dir) for role, artifact in opened if artifact is not None]
    return Beside(
        head, results, decision, [*given, *(_evaluation(path, config.output_dir) for path in config.evaluation)]
    )


def _about(checkpoint: Artifact, path: Path, result: Record) -> Record:
    """Return what a result says of a checkpoint."""
    rows = result.get("rows", [result])
    mine = [row for row in rows if row["checkpoint_digest"] == checkpoint.digest]
    if not mine:
        raise ConfigError(f"evaluation {path}: it is about another checkpoint than {checkpoint.path}")
    return result | {"rows": mine} if "rows" in result else result


def _evaluation(path: Path, output_dir: Path) -> Input:
    if (path / artifacts.MANIFEST).exists():
        return artifacts.load(path).as_input("evaluation", of=output_dir)
    return Input.of_file("evaluation", path)


def _vocabulary(tokenizer: Tokenizer, decoder: Decoder) -> Vocabulary:
    """Return the tokenizer as llama.cpp has it.

    Raises:
        ConfigError: llama.cpp has no such tokenizer.
    """
    assert tokenizer.path is not None
    path = tokenizer.path / TOKENIZER_JSON
    return vocabulary_of(
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else None,
        where=path,
        rows=decoder.config.vocab_size,
        document_id=tokenizer.document_id,
        turn_end_id=tokenizer.turn_end_id,
        pad_id=tokenizer.pad_id,
    )


def _rounded(decoder: Decoder, config: ExportConfig, checkpoint: Artifact) -> torch.dtype:
    """Round the weights to the dtype of the export, and return it.

    Raises:
        ConfigError: a weight is too large for it.
    """
    dtype: torch.dtype = getattr(torch, config.dtype) if config.dtype else dtype_of(checkpoint.path)
    round_to(decoder, dtype)
    if not all(bool(parameter.isfinite().all()) for parameter in decoder.parameters()):
        raise ConfigError(f"--dtype {name_of(dtype)}: a weight is too large for it; use bfloat16 or float32")
    return dtype


def _write_hf(folder: Path, about: About, decoder: Decoder, tokenizer: Tokenizer) -> About:
    dtype = getattr(torch, about.dtype)
    save_weights(decoder, dtype, folder / WEIGHTS)
    _write_text(folder / CONFIG, hf_config(decoder.config, tokenizer, dtype))
    _write_text(folder / GENERATION, generation_config(tokenizer))
    form = form_of(tokenizer)
    _write_text(folder / TOKENIZER_JSON, form.text or tokenizer_json(form.pieces, form.alphabet))
    template, context = _template(form), decoder.config.context
    _write_text(folder / TOKENIZER_CONFIG, tokenizer_config(form, context=context, chat_template=template))
    difference = check_logits(folder, decoder)
    compared = check_tokenizer(folder, tokenizer, form.pieces, form.alphabet)
    begins = form.alphabet.plain(form.document) if form.is_imported else None
    return about._replace(alphabet=form.alphabet, begins=begins, compared={**compared, "logits_difference": difference})


def _template(form: Form) -> str:
    return chat_template(form.alphabet, document=form.document if form.is_imported else None)


def _write_gguf(
    folder: Path, about: About, decoder: Decoder, tokenizer: Tokenizer, vocabulary: Vocabulary, python: Path
) -> About:
    dtype = getattr(torch, about.dtype)
    write_gguf(
        folder / GGUF,
        name=about.checkpoint.path.resolve().name,
        config=json.loads(hf_config(decoder.config, tokenizer, dtype)),
        weights=hf_weights(decoder.state_dict(), decoder.config),
        dtype=dtype,
        vocabulary=vocabulary,
        chat_template=_template(form_of(tokenizer)),
    )
    pieces = vocabulary.pieces
    return about._replace(compared=check_gguf(folder / GGUF, python, decoder, tokenizer, pieces, dtype=dtype))


def _counts(compared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest counts; the difference of logits depends on the machine."""
    return {name: value for name, value in compared.items() if name != "logits_difference"}


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def _copy_head(head: Artifact, folder: Path) -> None:
    """Put a head beside the model, with what its manifest says of it."""
    (folder / HEAD_FOLDER).mkdir()
    shutil.copyfile(head.path / WEIGHTS, folder / HEAD_FOLDER / WEIGHTS)
    about = {"digest": head.digest, "encoder": head.digest_of("encoder"), "model": head.config["model"]}
    _write_text(folder / HEAD_FILE, json.dumps(about, indent=2) + "\n")


def _summary(exported: Artifact) -> str:
    num_bytes = sum(file.bytes for file in exported.files.values())
    private = "; private: made from private documents, for their readers alone" if readers_of(exported.config) else ""
    counts = exported.counts
    texts = counted(counts["texts"], "text")
    chats = f", {counted(counts['conversations'], 'conversation')}" if "conversations" in counts else ""
    return (
        f"{exported.path}: {counts['parameters']:,} parameters in {counts['dtype']}, {size(num_bytes)}; the same as "
        f"the checkpoint on {texts}{chats} and random ids{private}"
    )
