"""`ibidem export`: a checkpoint as a folder that transformers opens, tested before it appears: the wiring.

checkpoint -> weights, config.json            Qwen3 or Llama
           -> tokenizer.json, chat template   a text never spells a marker
           -> compare with the checkpoint     ids, texts, chats, logits: else nothing is written
           -> README.md                       what manifests say
"""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.config import settings
from ibidem.errors import CheckpointError, ConfigError
from ibidem.figures import size
from ibidem.modeling.checkpoint import TOKENIZER_DIR, WEIGHTS, load_model, verified
from ibidem.modeling.heads import HEAD_KIND
from ibidem.modeling.modeling_custom import Decoder
from ibidem.readers import readers_of, recorded
from ibidem.runs import newest
from ibidem.serving.config import ExportConfig
from ibidem.serving.export.hf_chat_template import chat_template
from ibidem.serving.export.hf_model import (
    CONFIG,
    GENERATION,
    dtype_of,
    generation_config,
    hf_config,
    name_of,
    round_to,
    save_weights,
)
from ibidem.serving.export.hf_tokenizer import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    form_of,
    tokenizer_config,
    tokenizer_json,
)
from ibidem.serving.export.model_card import About, model_card
from ibidem.serving.export.self_test import check_logits, check_tokenizer
from ibidem.serving.report_evaluation import Record, read_result
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

KIND = "export"
CARD = "README.md"
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
        ConfigError: transformers is not installed, or what was given is about another checkpoint.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("an export is compared with transformers: pip install 'ibidem[huggingface]'")
    decoder, checkpoint = load_model(newest(config.checkpoint))
    tokenizer = _tokenizer(checkpoint, decoder)
    beside = _beside(config, checkpoint)
    inputs = [checkpoint.as_input("checkpoint", of=config.output_dir), *beside.inputs]
    chosen = settings(config) | recorded(inputs, config.output_dir)
    if artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs) is None:
        is_private = readers_of(chosen) is not None
        with artifacts.create(
            config.output_dir, kind=KIND, config=chosen, inputs=inputs, is_private=is_private
        ) as draft:
            _write(draft, config, decoder, checkpoint, tokenizer, beside, chosen)
    return _summary(artifacts.load(config.output_dir, kind=KIND))


def _tokenizer(checkpoint: Artifact, decoder: Decoder) -> Tokenizer:
    """Open the tokenizer of a checkpoint.

    Raises:
        ArtifactError: it has no chat markers.
        CheckpointError: it has more ids than the model.
    """
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_DIR)
    ChatTemplate(tokenizer)
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


def _write(
    draft: artifacts.Draft,
    config: ExportConfig,
    decoder: Decoder,
    checkpoint: Artifact,
    tokenizer: Tokenizer,
    beside: Beside,
    chosen: dict[str, object],
) -> None:
    dtype = getattr(torch, config.dtype) if config.dtype else dtype_of(checkpoint.path)
    round_to(decoder, dtype)
    save_weights(decoder, dtype, draft.path / WEIGHTS)
    _write_text(draft.path / CONFIG, hf_config(decoder.config, tokenizer, dtype))
    _write_text(draft.path / GENERATION, generation_config(tokenizer))
    form = form_of(tokenizer)
    pieces, alphabet = form.pieces, form.alphabet
    template = chat_template(alphabet, document=form.document if form.is_imported else None)
    _write_text(draft.path / TOKENIZER_JSON, form.text or tokenizer_json(pieces, alphabet))
    context = decoder.config.context
    _write_text(draft.path / TOKENIZER_CONFIG, tokenizer_config(form, context=context, chat_template=template))
    difference = check_logits(draft.path, decoder)
    compared = check_tokenizer(draft.path, tokenizer, pieces, alphabet)
    log.event("export.compared", **compared, logits_difference=difference)
    if beside.head is not None:
        _copy_head(beside.head, draft.path)
    about = About(
        checkpoint,
        name_of(dtype),
        alphabet,
        compared,
        readers_of(chosen),
        beside.head,
        beside.results,
        beside.decision,
        alphabet.plain(form.document) if form.is_imported else None,
    )
    _write_text(draft.path / CARD, model_card(about))
    draft.counts |= {"parameters": decoder.num_parameters, "dtype": name_of(dtype), **compared}


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
    ties = exported.counts["text_ties"] + exported.counts["conversation_ties"]
    private = "; private: made from private documents, for their readers alone" if readers_of(exported.config) else ""
    return (
        f"{exported.path}: {exported.counts['parameters']:,} parameters in {exported.counts['dtype']}, "
        f"{size(num_bytes)}; the same as the checkpoint on {exported.counts['texts']:,} texts, "
        f"{exported.counts['conversations']:,} conversations and random ids, {ties} ties aside{private}"
    )
