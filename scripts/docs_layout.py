"""The page about files: what every command leaves on disk.

The facts are read from the code; the sentences stand here. `{data.shards:DROPPED}` is the constant DROPPED of
`ibidem.data.shards`, and `<...>` in a path stands for any name.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

import docs_code
import numpy as np
import pyarrow as pa
from docs_markdown import code, meaning, table

from ibidem import artifacts, records
from ibidem.attribution.index import FACTS
from ibidem.commands import COMMANDS
from ibidem.data import dedup
from ibidem.data.filters.removals import Request
from ibidem.data.shards import SCHEMA
from ibidem.evaluation.gate.tasks import TASKS
from ibidem.training.config import SessionConfig
from ibidem.training.plan import PlanConfig
from ibidem.training.token_shards import GROUPS, PLACES
from ibidem.training.tokenize import SHARDS

INTERNAL = {
    *("serving.imports.hf_folder:README", "serving.imports.hf_weights:OUTPUT"),
    *(
        "grounding.encoder:MODULES",
        "data.pipeline.decide:SCHEMA",
        "data.pipeline.decide:_FACTS",
        "evaluation.coding:SAMPLES",
    ),
    *("training.synthesize:STATED", "training.synthesize:UNSTATED", "training.synthesize:MADE"),
    *(
        "training.token_shards:COUNTS_FILE",
        "data.sources.survey:FILE",
        "data.sources.hub:_SPOOLED",
        "data.blend:_SCATTERED",
        "data.blend:_ORDER",
        "data.blend:_PARTS",
        "data.blend:_MADE",
        "data.pipeline.finish:_MADE",
        "artifacts:_WHOLE",
        "delivery:_PROBE",
    ),
    *("data.synthetic.refusals:UNSAFE", "data.synthetic.refusals:HARMLESS", "data.synthetic.self_instruct:SHIPPED"),
}
"""Schemas and file names of workspaces, of the package alone and of foreign models: no finished artifact holds them."""

MANIFEST = {
    "kind": "What the artifact is: one of the kinds below.",
    "digest": "SHA-256 of kind, version, inputs (role and digest), config, counts and files.",
    "version": "Version of ibidem that made it.",
    "inputs": "What it was made from: other artifacts, and sources outside.",
    "counts": "Figures of the result; each kind has its own, see below.",
    "config": "Settings that decide the result. Paths and the number of workers are not among them.",
    "files": "Every other file of the folder, by its path in the folder.",
    "volatile": "What differs from run to run and is outside of the digest.",
}
INPUT = {
    "role": "What the input was to the command: `dataset`, `tokenizer`, `tokens`, `checkpoint`, `source`, ...",
    "digest": "Digest of the artifact, or SHA-256 of the source's content.",
    "name": "Path of the artifact, seen from this folder; or the source's own name.",
    "is_artifact": "Whether it is an artifact, so that its own manifest can be followed.",
}
FILE = {
    "sha256": "SHA-256 of the file.",
    "bytes": "Size of the file.",
    "rows": "Number of rows or lines, where it is known.",
}
VOLATILE = {
    "created": "Unix time at which the artifact was sealed.",
    "host": "Name of the machine.",
    "seconds": "Time that the work took.",
    "mark": "Of an evaluation: a MAC that only the user who made it can make; with it, a finished one is reused.",
    "times_ns": "Modification times of the files. A file whose time is unchanged is not hashed again.",
    "stamps": "At a store instead: entity tags of the files, or their sizes and times.",
}

SHARD = {
    "text": "The document, cleaned.",
    "messages": "The turns of a conversation, each with its role and its parts; of a preference pair, prompt and "
    "chosen answer. `text` is their plain rendering.",
    "rejected": "The parts of the rejected answer of a preference pair.",
    "margin": "By how much the chosen answer of a pair is better, if the source says so.",
    "num_code_blocks": "Number of fenced code blocks in prose.",
    "code_blocks": "Place of each block, in characters of `text`, and its language.",
    "num_chars": "Length of `text` in Unicode characters.",
    "license": "SPDX expression; null where the source states no license.",
    "license_raw": "The license metadata as the source supplied them.",
    "license_evidence": "Where the license was read: `metadata`, a license file, or the words of the file's header.",
    "source": "Dataset, folder or package that the document came from.",
    "revision": "Version of the source; of a local clone, the commit that is checked out.",
    "record": "The source's own id of the document; without one, its file and row.",
    "position": "Place in the source, counted over everything that is read. It decides the shard.",
    "repo": "Repository, as the source names it; of a local clone, that of its remote `origin`.",
    "path": "Path in the repository, or else in the folder.",
    "url": "Address that the source gives; of an installed package, that of its repository.",
    "category": "`code`, `text` or `instruction`.",
    "language": "Programming or markup language.",
    "natural_language": "ISO 639 code of the prose; null for code, and for prose too short or uncertain.",
    "raw_sha256": "SHA-256 of the source's own bytes; of a notebook, of its JSON.",
    "sha256": "SHA-256 of `text`. It also decides whether the document is held out.",
    "swhid": "Software Heritage identifier of the source's own bytes.",
    "scrubbed": "Number of placeholders for secrets and personal data, by kind.",
    "cluster": "Name of the cluster of near duplicates; null outside of any.",
}
DROPPED = {
    "dataset": "Folder of the shard that the document would stand in: `<dataset>/<split>`.",
    "reason": "Why the document does not enter; see the reasons below.",
    "detail": "The evidence, short.",
    "kept": "Record of the kept document that covers this duplicate.",
    "similarity": "Exact Jaccard similarity to that document.",
    **{
        name: SHARD[name]
        for name in ("source", "record", "position", "repo", "path", "url", "raw_sha256", "swhid", "cluster")
    },
    "sha256": "SHA-256 of the text as it was when the document was dropped.",
}
SKETCH = {
    "sha256": "SHA-256 of the text, as four numbers.",
    "sequence": "Hash of the words in their order; equal words are exact duplicates.",
    "simhash": "SimHash of the words.",
    "signature": "MinHash of the 5-word shingles: the share of equal entries estimates the Jaccard similarity.",
}
QUARANTINE = {
    "file": "The file.",
    "line": "Line or row, counted from 1; null for the whole file.",
    "reason": "Why it cannot be read.",
}
REMOVALS = {
    "id": "Digest of the request.",
    "kind": "What the request names: repo, owner, path, url, swhid, sha256, record or text.",
    "value": "What was to be removed; of a text only its SHA-256.",
    "repo": "Repository that a path was limited to; null without one.",
}
DOCUMENTS = {
    "sha256": "The document, by the hash of its text.",
    "split": "`train` or `validation`.",
    "start": "Place of its first token in the shard's file of the split.",
    "tokens": "Number of its tokens, the document token before it included.",
    "category": "`code`, `text` or `instruction`.",
    "language": "Programming or markup language; null where it is not recognized.",
}
TOKEN_SHARDS = {
    "shard": "Its file in the dataset.",
    "sha256": "Digest of that file: while it is the same, the tokens of the shard are not made again.",
    "documents": "Number of its documents.",
    "tokens": "Number of their tokens, by split.",
    "bytes": "UTF-8 bytes of their texts, by split.",
}
SCHEMAS = {
    "data.shards:SCHEMA": SHARD,
    "data.shards:DROPPED_SCHEMA": DROPPED,
    "training.token_shards:PLACES": DOCUMENTS,
    "training.tokenize:SHARDS": TOKEN_SHARDS,
}
PROBLEM = {
    "task_id": "The file's own id of the problem; without one, its record.",
    "sha256": "The document, by the hash of its text.",
    "record": "The document's record in the dataset.",
    "prompt": "What the user asks, as turns: the statement, and the tests that are rewarded.",
    "visible": "Tests that are rewarded, each with its `source`, the `setup` that runs after the program, the `names` "
    "that it takes from the program, and the `preamble` that runs before it.",
    "hidden": "Tests that are never shown and never rewarded, in the same form.",
    "solution": "The file's own; empty without one, or if it has personal data or a secret.",
}
FORM = {
    "id": "The prompt's id. A cell that a spreadsheet would take for a formula has an apostrophe before it.",
    "prompt": "What the user said; of several turns, the conversation before the last response.",
    "response": "The model's response; of several turns, the last one.",
    "criterion": "What the response is rated by, such as `helpful`.",
    "instruction": "What the criterion means.",
    "rater": "Name of the rater; empty in the form.",
    "score": "From 0 to 1; empty in the form.",
    "model_digest": "The checkpoint that responded.",
    "prompts_digest": "The prompts.",
}

EVENTS = {
    "train.windows": "Number of windows in the training and held-out tokens; `groups` has those of each category or "
    "language, if a stage has shares of them, and `held_out_groups` those that are measured for each.",
    "train.conversations": "Number of conversations to train on, held out, and left out by reason.",
    "train.questions": "Number of cloze questions to train on and held out, and of the passages they are made from.",
    "train.prior": "Share of wrong spans that proximity and late interaction, untrained, rank below the right one: the "
    "head begins with one of them.",
    "head.kind": "Held-out questions of a grounding head by the kind of their answer: how many, the share won with its "
    "exact 95 % interval, and the share that untrained proximity wins.",
    "train.pairs": "Number of preference pairs to train on, held out, and left out by reason.",
    "train.prompts": "Number of prompts of PPO to train on, held out, and left out by reason.",
    "train.problems": "Number of problems of GRPO to train on, held out, and left out by reason.",
    "train.rollout_dropped": "A resumed run has other settings or prompts than the rollout of its checkpoint.",
    "train.not_measured": "There are too few prompts to hold any out of training.",
    "train.reference": "The initial checkpoint scores all pairs.",
    "reward.reliability": "Held-out pairs of about the same confidence: how many, their confidence and accuracy.",
    "train.started": "A process began or resumed the run: step, parameters, processes, how they share the model, and "
    "over how many of them it is divided.",
    "train.adapters": "Adapters were added (`--lora.rank`): how many parameters are trained, and how many frozen.",
    "train.step": "One optimizer step: tokens so far and tokens per second (of PPO and GRPO as if all answers had "
    "`max_tokens`), loss, gradient norm, learning rate; and what the objective adds, such as `objective/kl` and "
    "`objective/scores` of the step's rollout. With `--contrast.weight`, `loss` is what is minimized: the "
    "language-model loss, which is `contrast/lm_loss` alone, plus the weight times `contrast/loss`.",
    "export.compared": "What an export was compared with the checkpoint on, and the largest difference of two logits.",
    "generate.other_index": "`--attribute` is the index of a training with another tokenizer.",
    "generate.untuned": "`--chat` asks a checkpoint that was not tuned on conversations.",
    "train.not_compiled": "The blocks run as they are: there is no compiler for this computer's processor.",
    "train.skipped": "A step that was not taken: loss or gradient were not finite, or the gradient far too large.",
    "train.measured": "Figures on the held-out windows, conversations, pairs, or answers to held-out prompts.",
    "train.sample": "A completion of one of `--validation.prompts`; or the answer to a held-out prompt.",
    "train.slow": "Steps are much slower than usual in this run.",
    "train.stopping": "A signal ends the run after this step.",
    "train.starts_anew": "The run was to be resumed, from `latest` or its own copies, and has no checkpoint yet.",
    "train.decays_again": "The run decays from a checkpoint of another run whose learning rate has fallen already.",
    "train.long_warmup": "The warmup is longer than the run: the learning rate never reaches its peak.",
    "train.settings_changed": "A resumed run has other settings than its checkpoint.",
    "train.processes_changed": "Another number of processes goes on from a checkpoint.",
    "train.precision": "The precision is not the one asked for.",
    "train.no_samples": "Completions are left out: the weights are sharded, or the context is too short for them.",
    "checkpoint.saved": "A checkpoint is sealed; with `--checkpoints.asynchronous`, some steps after it was taken.",
    "checkpoint.not_saved": "A checkpoint could not be saved, as on a full disk; the run goes on, and saves the next "
    "one.",
    "checkpoint.copied": "A checkpoint is at the URL of `--checkpoints.copy-to`, its manifest last.",
    "checkpoint.not_removed": "An older checkpoint could not be removed; the new one is there.",
    "checkpoint.not_copied": "A checkpoint could not be copied; it, or a newer one, is tried again until the run ends.",
    "checkpoint.fetched": "A checkpoint came back from the URL of `--training.resume-from`.",
    "checkpoint.refused": "A damaged checkpoint was skipped while resuming.",
    "checkpoint.set_aside": "A checkpoint was renamed, because the run does not go on from it.",
}


@dataclass(frozen=True)
class Columns:
    """The columns of one file of an artifact."""

    file: str
    types: Mapping[str, str]
    """By name, from the code."""
    sentences: Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """What the page says of one kind of artifact."""

    constant: str
    about: str
    made_by: Sequence[str]
    read_by: Sequence[str]
    files: Mapping[str, str]
    counts: Mapping[str, str]
    sometimes: Mapping[str, str] = field(default_factory=dict)
    """Files that only some artifacts of the kind hold."""
    columns: Sequence[Columns] = ()

    @property
    def name(self) -> str:
        return str(docs_code.constants()[self.constant])


def _is_training(place: str) -> bool:
    module, _, name = place.partition(":")
    kind = getattr(importlib.import_module(module), name)
    return issubclass(kind, SessionConfig) and not issubclass(kind, PlanConfig)


EVERY = ("list", "show", "verify", "trace")
"""Commands that read an artifact of any kind."""
TASK_COMMANDS = tuple(f"evaluate {name}" for name in TASKS)
"""Commands that write evidence for the gate."""
TRAININGS = tuple(name for name, command in COMMANDS.items() if _is_training(command.config))
"""Commands that run a training."""
PRETRAININGS, REWARDS, HEADS = ("train",), ("reward",), ("train-head",)
"""Those that read tokens, and those that make no checkpoint."""
REWARDED_BY_MODEL, REWARDED_BY_TESTS = ("ppo",), ("grpo",)
"""Those that learn from answers which they sample: scored by a reward model, or by tests."""
TAKEDOWN = ("takedown plan", "takedown apply", "takedown verify")
NO_ARTIFACT = {
    "audit head",
    "audit list",
    "audit prove",
    "audit verify",
    "completion",
    "data get",
    "demo",
    "doctor",
    "gate pin",
    "init",
    "key",
    "plan",
    "plan data",
    "problems",
    "token create",
    "token list",
    "token revoke",
}
"""Commands that read and make no artifact themselves; the demo calls the others."""


def kinds() -> list[Kind]:
    """Describe every kind of artifact, in the order in which they are made."""
    trained = [_tokens(), _checkpoint(), _reference(), _reward_model(), _grounding_head(), _problems()]
    return [
        _dataset(),
        _data_export(),
        _tokenizer(),
        *trained,
        _attribution(),
        _index(),
        _training_set(),
        _evaluation(),
        _responses(),
        _review(),
        _decision(),
        _export(),
    ]


def _dataset() -> Kind:
    return Kind(
        constant="data.shards:KIND",
        about="Documents in Parquet shards, with a reason for everything that did not enter. A shard holds what "
        "survived of a fixed range of positions of its source, so a document that is dropped changes its own shard "
        "alone.",
        made_by=("preprocess", "synthesize", "blend", "takedown apply"),
        read_by=(
            *("preprocess", "synthesize", "blend", *TAKEDOWN, "card", "export-data", "train-tokenizer", "tokenize"),
            *TRAININGS,
            *(
                "evaluate perplexity",
                "evaluate dashboard",
                "evaluate human-eval",
                "evaluate mbpp",
                "evaluate mmlu",
                "report",
            ),
        ),
        files={
            "<dataset>/<split>/shard-<number>.parquet": "Documents, one per row. No file where no document is kept. "
            "The folder of a blend is `blend/train`.",
        },
        sometimes={
            "<dataset>/<split>/sketch-<number>.npy": "A sketch of each row of the shard with the same number. Later "
            "runs find near duplicates by it. A blend has none.",
            "<dataset>/<split>/dropped-<number>.parquet": "Dropped documents of the shard with the same number, one "
            "per row, without their text. A blend has none.",
            "<dataset>/<split>/quarantine-<number>.jsonl": "Inputs that could not be read, one per line. A blend has "
            "none.",
            "{data.shards:REMOVALS}": "Tombstones: the requests for removal that the dataset honors, one per line.",
            "<dataset>/<split>/removed-<number>.npy": "Sketches of the removed documents, for the proof that nothing "
            "like them is left.",
        },
        columns=(
            _of_schema("shard-<number>.parquet", "data.shards:SCHEMA"),
            _of_schema("dropped-<number>.parquet", "data.shards:DROPPED_SCHEMA"),
            Columns("sketch-<number>.npy", _numpy(dedup.SKETCH), SKETCH),
            Columns("quarantine-<number>.jsonl", _dataclass(records.Unreadable), QUARANTINE),
            Columns("{data.shards:REMOVALS}", dict.fromkeys(Request("repo", "a/b").tombstone, "string"), REMOVALS),
        ),
        counts={
            "read": "Documents read: kept + dropped + quarantined.",
            "kept": "Rows in the shards.",
            "quarantined": "Inputs that could not be read.",
            "chars": "Characters of the kept texts.",
            "bytes": "UTF-8 bytes of the kept texts.",
            "license_unstated": "Kept documents whose source states no license.",
            "dropped": "Dropped documents by reason.",
            "scrubbed": "Placeholders by kind.",
            **{
                aspect: f"Kept documents by {aspect.replace('_', ' ')}; `none` where the column is null."
                for aspect in docs_code.constants()["data.counts:ASPECTS"]
            },
            "lengths": "Kept documents by length: the key is a power of two that the characters stay below.",
            "skipped_files": "Files of the sources that are not read, by cause: an unknown kind by its suffix, hidden "
            "folders, links to folders, links out of the folder, another split. `__pycache__` folders are not counted: "
            "running the code makes them. Of `installed-packages`, only the files over the cap. Not in a blend.",
            "clones": "Source, repository, commit, address and day of each clone among the local files. Only with "
            "clones, and not in a blend.",
            "clusters": "Clusters of near duplicates, their documents, and the size of the largest. Not in a blend.",
            "synthetic": "Traces made by kind, candidates rejected before by reason, functions whose mutants the judge "
            "could not use among them, and refusals. Only of `synthesize`.",
            "unit": "`tokens` or `bytes`: what a blend counts. Only in a blend.",
            "total": "Size of a blend in that unit. Only in a blend.",
            "shares": "Share of each category. Only in a blend.",
            "datasets": "Documents and size taken of each dataset and category. Only in a blend.",
            "ended": "Why the blend ended. Only in a blend.",
        },
    )


def _tokenizer() -> Kind:
    return Kind(
        constant="tokenization.tokenizer:KIND",
        about="A sentencepiece unigram model that gives every byte back, or the tokenizer of an imported model.",
        made_by=("train-tokenizer",),
        read_by=("blend", *TRAININGS, "report"),
        files={
            "{records:TOKENIZER_FILE}": "The model, as sentencepiece reads it.",
            "tokenizer.vocab": "Every piece with its score, one per line, in the order of the ids.",
        },
        sometimes={
            "{records:TOKENIZER_JSON}": "Of an imported model, instead of both: the tokenizer as the library "
            "`tokenizers` reads it, with our markers.",
        },
        counts={
            "trained": "Documents that it was trained on.",
            "trained_bytes": "Their bytes.",
            "not_trained": "Documents left out, by the limit of the corpus or for characters that the model uses.",
            "vocab_size": "Number of ids.",
            "learned": "Pieces that were learned.",
            "reserved": "Ids without a piece, which fill the vocabulary.",
            "held_out": "Documents kept out of training to check the round trip.",
            "round_trips": "Those that came back byte for byte.",
            "broken": "SHA-256 of those that did not.",
            "bytes_per_token": "Bytes of a token on average, on the held-out documents.",
            "byte_pieces_share": "Share of tokens that are single bytes, on the held-out documents.",
            "markers_added": "Markers that an imported tokenizer did not have. Only of an imported one, as the next.",
            "texts": "Trial texts that were encoded and decoded.",
            "texts_changed": "Those that came back changed; `config` has their number by kind.",
        },
    )


def _tokens() -> Kind:
    return Kind(
        constant="training.tokens:KIND",
        about="A dataset as ids, shard by shard. One after another, the files of a split are one long row, which a "
        "document token ends; windows run across them. The tokens of a shard depend on it, the tokenizer and the "
        "held-out share alone. A training names the folder after these, so that a later one finds it.",
        made_by=("tokenize", *PRETRAININGS),
        read_by=("tokenize", *PRETRAININGS, *TAKEDOWN),
        files={
            "<dataset>/<split>/<shard>/train.bin": "Ids of the shard's training documents: uint16, or uint32 for a "
            "vocabulary beyond 65,536. `config` names the type, and the id of the document token, which precedes each "
            "document.",
            "<dataset>/<split>/<shard>/validation.bin": "The same for its held-out documents.",
            "<dataset>/<split>/<shard>/{records:DOCUMENTS_FILE}": "Place of each of its documents in these.",
            "{training.tokenize:SHARDS_FILE}": "The shards, in the order in which they are read.",
        },
        columns=(
            Columns("{records:DOCUMENTS_FILE}", _types(PLACES), DOCUMENTS),
            Columns("{training.tokenize:SHARDS_FILE}", _types(SHARDS), TOKEN_SHARDS),
        ),
        counts={
            "shards": "Number of shards.",
            "documents": "Number of documents.",
            "tokens": "Number of tokens by split, without the one that ends it.",
            "bytes": "UTF-8 bytes of the texts by split.",
        },
    )


def _attribution() -> Kind:
    facts = {name: SHARD[name] for name in FACTS}
    places = [each for each in PLACES if each.name not in GROUPS]
    types = [*places, *(SCHEMA.field(name) for name in FACTS)]
    return Kind(
        constant="attribution.index:KIND",
        about="Where a text occurs in the training documents: suffix arrays of the tokens' ids. Its inputs are the "
        "tokens, whose ids it needs, and their dataset.",
        made_by=("attribute build",),
        read_by=("attribute build", "attribute", "generate"),
        files={
            "<part>/train.bin": "The ids of its shards' training documents, one shard after the other.",
            "<part>/{attribution.index:SUFFIXES}": "Places of these ids, sorted by what follows there; int32.",
            "<part>/{attribution.index:TOPS}": "Number of ids and the first eight of every 256th of these.",
            "<part>/{attribution.index:SHINGLES}": "Hashes of a quarter of all 3-word runs in the upper and the number "
            "of the document in the lower 32 bits, sorted; uint64.",
            "<part>/{attribution.index:DOCUMENTS}": "The part's training documents, uncompressed, to be mapped.",
            "<part>/{records:DOCUMENTS_FILE}": "The same.",
        },
        columns=(
            Columns(
                "{records:DOCUMENTS_FILE}",
                _types(pa.schema(types)),
                {each.name: DOCUMENTS[each.name] for each in places} | facts,
            ),
        ),
        counts={"documents": "Number of training documents.", "tokens": "Number of their tokens."},
    )


TRAINED_ALONE = {
    "{modeling.checkpoint:WEIGHTS}": "Weights of the whole model. A sharded run has `{modeling.checkpoint:MODEL}/` "
    "instead; every command reads both.",
    "random_states_<process>.json": "Random states of each process.",
    "{training.state:OPTIMIZER}{modeling.tensor_files:SUFFIX}": "State of the optimizer: PARAMETER/STATE. A sharded "
    "run has `{training.state:OPTIMIZER}/` instead.",
    "{training.state:PROGRESS}": "The step, as `step`; what decides which steps are skipped, as `guard`; the kind of "
    "`optimizer`; the number of `processes`.",
}
SHARDED = {
    "{modeling.checkpoint:MODEL}/<process>-of-<processes>{modeling.tensor_files:SUFFIX}": "Of a sharded run, the rows "
    "of the weights that one process holds; where they begin is in the header, as torch.distributed.checkpoint has it.",
    "{training.state:OPTIMIZER}/<process>-of-<processes>{modeling.tensor_files:SUFFIX}": "The same of the optimizer.",
}
TRAINED = {
    **TRAINED_ALONE,
    **{
        f"{{modeling.checkpoint:TOKENIZER_DIR}}/{name}": text
        for name, text in (
            ("{artifacts:MANIFEST}", "Manifest of the tokenizer: the folder is a copy of that artifact."),
            ("{records:TOKENIZER_FILE}", "The tokenizer's model; of an imported one `tokenizer.json` alone."),
            ("tokenizer.vocab", "The tokenizer's pieces."),
        )
    },
}


def _reward_model() -> Kind:
    return Kind(
        constant="modeling.heads:KIND",
        about="A reward model after some steps: a decoder with a scalar head. It generates nothing, and no other "
        "command takes it for a checkpoint. Mean and deviation of its rewards are kept with the weights from the last "
        "step on.",
        made_by=REWARDS,
        read_by=(*REWARDS, *REWARDED_BY_MODEL),
        files=TRAINED,
        sometimes=SHARDED,
        counts={
            "step": "Number of steps taken.",
            "loss": "Loss of the last step, in nats per pair.",
            "held_out_loss": "Loss on the held-out pairs.",
            "accuracy": "Share of the held-out pairs whose chosen answer has the larger reward.",
            "accuracy_at_least": "Exact lower bound of the accuracy, with 95 % confidence.",
            "calibration_error": "Mean distance between confidence and accuracy on the held-out pairs.",
            "shorter_is_chosen": "Share of the held-out pairs whose shorter answer is chosen; a draw counts half.",
            "reward_mean": "Mean of the rewards of the training's answers, before scaling; after the last step.",
            "reward_deviation": "Their standard deviation.",
        },
    )


def _grounding_head() -> Kind:
    return Kind(
        constant="modeling.heads:HEAD_KIND",
        about="A grounding head after some steps: it scores spans of passages as answers to questions. Its encoder is "
        "an input, not a part. The threshold that tells supported claims from others is kept with the weights from "
        "the last step on.",
        made_by=HEADS,
        read_by=(*HEADS, "ground search", "ground ask", "ground review", "serve", "evaluate doc-qa", "export"),
        files=TRAINED_ALONE,
        counts={
            "step": "Number of steps taken.",
            "loss": "InfoNCE of the last step, in nats per question.",
            "held_out_loss": "InfoNCE on the held-out cloze questions.",
            "wins": "Share of the held-out questions whose right span beats all wrong ones of its passage.",
            "wins_at_least": "Exact lower bound of that share, with 95 % confidence.",
            "proximity_wins": "The same share for untrained proximity.",
            "proximity_wins_at_least": "Its exact lower bound.",
            "temperature": "What scores are divided by in the loss.",
            "threshold": "Margin from which a claim counts as supported; after the last step.",
            "told_apart": "Share of the claims of held-out questions, half of them wrong, that the threshold tells "
            "apart; it was chosen on them.",
        },
    )


def _reference() -> Kind:
    return Kind(
        constant="training.rlhf.reference:KIND",
        about="Log-probabilities of the answers of all pairs under the checkpoint that DPO starts from. A resumed run "
        "uses it again.",
        made_by=("dpo",),
        read_by=("dpo",),
        files={
            "{training.rlhf.reference:FILE}": "`train` and `held_out`: a row for each pair, the chosen answer before "
            "the rejected one; float64.",
        },
        counts={"pairs": "Number of pairs to train on.", "held_out": "Number of pairs held out."},
    )


def _problems() -> Kind:
    return Kind(
        constant="training.rlhf.problems:KIND",
        about="Programming problems that a model learns from by running its programs: of each document that the "
        "dataset of the problems kept, what the user asks, and the tests. A resumed run uses it again.",
        made_by=REWARDED_BY_TESTS,
        read_by=(*REWARDED_BY_TESTS, *TAKEDOWN),
        files={"{records:PROBLEMS_FILE}": "A problem a line."},
        columns=(
            Columns(
                "{records:PROBLEMS_FILE}",
                {
                    **dict.fromkeys(("task_id", "sha256", "record"), "string"),
                    **dict.fromkeys(("prompt", "visible", "hidden"), "list"),
                    "solution": "string",
                },
                PROBLEM,
            ),
        ),
        counts={
            "read": "Rows of the file: kept + dropped + quarantined.",
            "kept": "Problems to learn from.",
            "quarantined": "Rows that could not be read.",
            "dropped": "What is left out by reason, that of the dataset included.",
        },
    )


def _checkpoint() -> Kind:
    return Kind(
        constant="modeling.checkpoint:KIND",
        about="A model after some steps, with everything that is needed to go on. An imported one has weights and "
        "tokenizer alone.",
        made_by=(*(name for name in TRAININGS if name not in (*REWARDS, *HEADS)), "import"),
        read_by=(
            *(*TRAININGS, "generate", "serve", "chat", "export", "evaluate perplexity", "evaluate dashboard"),
            *(name for name in TASK_COMMANDS if name != "evaluate ratings"),
            *("evaluate chat", "gate", "report", *TAKEDOWN),
        ),
        files=TRAINED,
        sometimes={
            **SHARDED,
            "{training.lora:ADAPTER}": "With `--lora.rank`: A and B of the adapters, as peft names them for an export "
            "of the initial checkpoint. `model.safetensors` has them merged.",
            "{training.lora:ADAPTER_CONFIG}": "Rank, scale and matrices of the adapters, as peft writes them.",
            "{training.state:OBJECTIVE_TENSORS}": "Tensors of the objective. PPO and GRPO: the current rollout, whose "
            "policy is gone: ids, log-probabilities under policy and reference, values, scores.",
            "{training.state:OBJECTIVE_VALUES}": "Other values of the objective. PPO: the weight of the KL penalty, "
            "and the statistics of the scores so far.",
        },
        counts={
            "step": "Number of steps taken.",
            "parameters": "Number of parameters (import).",
            "dtype": "Precision of the weights (import).",
            "added_rows": "Rows that the matrix got for markers (import).",
            "loss": "Loss of the last step: of text in nats per token.",
            "objective/scores": "Mean reward of the answers of the last rollout (ppo, grpo).",
            "bits_per_byte": "Bits per byte on the held-out windows, if they were measured at this step.",
            "bits_per_byte/category/<name>": "The same of one category, with `--validation.group-windows`.",
            "bits_per_byte/language/<name>": "The same of one language.",
            "held_out_loss": "Loss on the held-out windows, in nats per token, if they were measured at this step.",
            "trained_tokens": "Tokens that these steps take, by stage; `all` in a training without stages (train).",
            "accuracy": "Share of the held-out pairs whose chosen answer is preferred (dpo).",
            "margin": "How far it is ahead on average (dpo).",
            "score": "Mean score of answers to held-out prompts: of the reward model, or share of the visible tests "
            "passed (ppo, grpo).",
            "kl": "KL divergence of these answers from the initial checkpoint, in nats; with a reference (ppo, grpo).",
            "length": "Their mean length in tokens (ppo, grpo).",
            "ended": "Share of them that ended by themselves (ppo, grpo).",
            "passed": "Share of them that pass all visible tests (grpo).",
            "hidden_passed": "Share of them that pass all hidden tests (grpo).",
            "gap": "By how much the first of these shares is larger (grpo).",
        },
    )


def _evaluation() -> Kind:
    return Kind(
        constant="evaluation.evidence:KIND",
        about="Sealed evidence: the outcome of every item, and the figures that follow from them.",
        made_by=TASK_COMMANDS,
        read_by=("gate", "report", "sign", "export"),
        files={
            "{records:RESULTS_FILE}": "Task, digest of the checkpoint, figures, how many `trials` each is the mean "
            "of, and notes such as the search for the problems in the training data.",
            "{records:ITEMS_FILE}": "Outcome of each item, one per line: a sample of a problem, a question, or "
            "a response with a criterion. Every figure is counted again from it.",
        },
        counts={
            "items": "Number of items.",
            "pass@<k>": "Share of problems solved with k samples (human-eval, mbpp).",
            "accuracy": "Share of right answers (mmlu).",
            "accuracy.<name>": "The same of a subject or of a group of subjects (mmlu).",
            "recall_at_k": "Share of questions of whose documents one is among the k passages (doc-qa with an index).",
            "reciprocal_rank": "1 / the rank of the first passage of such a document, else 0 (doc-qa with an index).",
            "exact_match": "Share of answers that equal a reference (doc-qa).",
            "f1": "Overlap of words with the best reference (doc-qa).",
            "answered": "Share of answerable questions with an answer that makes a claim (doc-qa).",
            "abstentions.<which>": "Share of abstentions among answerable and unanswerable questions (doc-qa).",
            "citation_coverage": "Share of claims that cite a passage, by question; 0 without a claim (doc-qa).",
            "citation_recall": "Share of claims that their passages support, by question; 0 without a claim (doc-qa).",
            "citation_precision": "Share of citations that are needed, by answer that cites (doc-qa).",
            "unsupported_claims": "Share of unsupported claims, by answer that makes claims (doc-qa).",
            "refused.<label>": "Share of refusals among the prompts with a label (refusals).",
            "verbatim.<temperature>": "Share of a completion's tokens in spans of training documents, common ones "
            "apart; mean over the prompts (verbatim).",
            "unlicensed.<temperature>": "Share of completions with such a span whose license is not permitted, or "
            "unknown (verbatim).",
            "good.<criterion>": "Share of good responses (ratings).",
            "alpha.<criterion>": "Krippendorff's alpha between people (ratings).",
            "unrated.<criterion>": "Responses that too few have rated (ratings).",
        },
    )


def _index() -> Kind:
    return Kind(
        constant="grounding.index:KIND",
        about="Private documents in chunks, a segment for each access class. Whoever can read its files reads the "
        "documents.",
        made_by=("ground index", "ground forget"),
        read_by=(
            *("ground index", "ground search", "ground ask", "ground show", "ground forget", "ground review"),
            *("serve", "evaluate doc-qa"),
        ),
        files={
            "{grounding.index:SEGMENTS}": "Name, access class (`read`, `deny`) and size of each segment, one per line.",
            "{grounding.index:PATHS}": "Paths of the documents of each segment, one segment per line.",
            "{grounding.index:FORGOTTEN}": "Keyed hashes of the paths that must not come back, one per line.",
            "{grounding.index:QUARANTINE}": "Files that could not be read, one per line.",
            "<segment>/{grounding.segment:DOCUMENTS}": "Path and text of each document.",
            "<segment>/{grounding.segment:CHUNKS}": "Id, headings and span of each chunk.",
            "<segment>/{grounding.segment:TERMS}": "Keyed hashes of the terms, and their numbers of postings.",
            "<segment>/{grounding.segment:POSTINGS}": "Chunk and count of each posting.",
        },
        sometimes={"<segment>/{grounding.segment:VECTORS}": "A vector of each chunk. Only with `--encoder`."},
        counts={
            "documents": "Number of documents.",
            "chunks": "Number of chunks.",
            "segments": "Number of access classes.",
            "forgotten": "Paths that must not come back.",
            "quarantined": "Files that could not be read.",
        },
    )


def _training_set() -> Kind:
    return Kind(
        constant="grounding.training_set:KIND",
        about="Questions, passages and answers that teach a model to read private documents, made as one principal. "
        "Whoever can read its files reads the documents.",
        made_by=("raft",),
        read_by=("raft", "train-head"),
        files={
            "{grounding.training_set:EXAMPLES}": "An example a line: question, answers, ids of its chunks, place of "
            "the oracle, and the conversation.",
            "{grounding.training_set:CHUNKS}": "The chunks of all examples, one per line.",
        },
        counts={
            "examples": "Number of examples.",
            "with_oracle": "Examples among whose passages is one that answers.",
            "dropped": "Questions without an example, by reason.",
        },
    )


def _review() -> Kind:
    return Kind(
        constant="grounding.review:KIND",
        about="Pairs of statements about passages, for people to say which one holds; the head's order is beside it.",
        made_by=("ground review",),
        read_by=("serve", "evaluate ratings"),
        files={
            "{grounding.review:PAIRS}": "A pair a line, as the form shows it, and the chunk that it is about.",
            "{rating_form:FORM}": "A form with a line for each pair. Raters fill in copies.",
            "{rating_form:PAGE}": "Passages, pairs and what to do, to read beside the form.",
        },
        columns=(
            Columns(
                "{rating_form:FORM}",
                dict.fromkeys(docs_code.constants()["rating_form:COLUMNS"], "string"),
                FORM,
            ),
        ),
        counts={"pairs": "Number of pairs."},
    )


def _responses() -> Kind:
    return Kind(
        constant="evaluation.chat:KIND",
        about="Responses of a model to prompts, for people to rate.",
        made_by=("evaluate chat",),
        read_by=("evaluate ratings",),
        files={
            "{evaluation.chat:RESPONSES}": "A prompt a line: its columns, the user's `turns`, the model's `responses`.",
            "{rating_form:FORM}": "A form with a line for each response and criterion. Raters fill in copies.",
            "{rating_form:PAGE}": "Prompts, responses, criteria and what to do, to read beside the form.",
        },
        columns=(
            Columns(
                "{rating_form:FORM}",
                dict.fromkeys(docs_code.constants()["rating_form:COLUMNS"], "string"),
                FORM,
            ),
        ),
        counts={"responses": "Number of prompts that were answered."},
    )


def _decision() -> Kind:
    return Kind(
        constant="evaluation.gate.gate:KIND",
        about="What the gate decided about a checkpoint, and why.",
        made_by=("gate",),
        read_by=("export",),
        files={
            "{evaluation.gate.gate:DECISION}": "The decision, the digest of the policy, every criterion with its "
            "bounds and its verdict, and what the evidence was made of.",
            "{evaluation.gate.gate:PAGE}": "The same as a page.",
            "{evaluation.gate.gate:CARD}": "The model card.",
        },
        counts={"decision": "RELEASE or BLOCK.", "criteria": "Number of criteria."},
    )


def _data_export() -> Kind:
    return Kind(
        constant="data.provenance.export_data:KIND",
        about="A copy of a dataset that `datasets.load_dataset` and readers of Croissant open. Its columns are those "
        "of a dataset, but `scrubbed` is a list of `kind` and `places`.",
        made_by=("export-data", "takedown copy"),
        read_by=("takedown copy", *TAKEDOWN),
        files={
            "{data.provenance.export_data:CARD}": "What it is; in its front matter, which files are which split.",
            "{data.provenance.export_data:CROISSANT}": "Croissant 1.0: shards with their sha256, plain columns.",
        },
        sometimes={"<dataset>/<split>/shard-<number>.parquet": "Documents, as in the dataset."},
        counts={
            "documents": "Number of documents.",
            "splits": "Documents by split.",
            "license": "Documents by license; `none` where none is stated.",
        },
    )


def _export() -> Kind:
    return Kind(
        constant="serving.export.export:KIND",
        about="A checkpoint as transformers or llama.cpp opens it, compared with the checkpoint before it appeared.",
        made_by=("export",),
        read_by=(),
        files={"{serving.export.export:CARD}": "The model card."},
        sometimes={
            "{tokenization.json_file:CONFIG}": "The shape: Qwen3 or Llama (`--format hf`, as the next four).",
            "{tokenization.json_file:GENERATION}": "The ids that end a text.",
            "{modeling.checkpoint:WEIGHTS}": "The weights, under their names in transformers.",
            "{records:TOKENIZER_JSON}": "The tokenizer.",
            "{tokenization.json_file:TOKENIZER_CONFIG}": "Its settings, and the chat template.",
            "{serving.export.export:GGUF}": "Shape, tokenizer, chat template and weights (`--format gguf`).",
            "{serving.export.export:HEAD_FILE}": "Digest, encoder and shape of a grounding head (`--head`).",
            "grounding_head/{modeling.checkpoint:WEIGHTS}": "Its weights.",
        },
        counts={
            "parameters": "Number of parameters.",
            "dtype": "Precision of the weights.",
            "texts": "Number of hostile texts whose ids were compared.",
            "conversations": "Number of hostile conversations whose ids were compared (hf).",
            "llama_cpp": "Version of llama.cpp that compared it (gguf).",
        },
    )


RUN = {
    "{log:EVENTS}": "What happened, an event a line: `time`, `event`, and the fields of the event.",
    ".lock": "Held while a process writes to the run; a second one is refused.",
    "tokens/<key>/": "The tokenized dataset, an artifact; elsewhere with `--data.cache-dir`.",
    "checkpoints/step-<step>/": "A checkpoint, an artifact. Only the newest stay: `--checkpoints.keep-last`.",
}
RUN_SOMETIMES = {
    "data/<key>/": "A file that an alignment was given, preprocessed to a dataset, an artifact.",
    "problems/<key>/": "Of GRPO: the problems of a file with their tests, an artifact.",
    "reference/": "Of DPO: log-probabilities under the initial checkpoint, an artifact.",
    "checkpoints/superseded-<number>-step-<step>/": "A newer checkpoint than the one that the run resumed from.",
    "checkpoints/damaged-<number>-step-<step>/": "A damaged checkpoint; the run resumed from an older one.",
    "{trackers:PROJECT}/": "Files of TensorBoard, with `--trackers tensorboard`.",
    "wandb/": "Files of wandb, with `--trackers wandb`; elsewhere with WANDB_DIR.",
}
HIDDEN = {
    ".NAME.partial.by-HOST-PID": "The artifact or file NAME while it is written. One rename makes it appear.",
    ".NAME.replaced.by-HOST-PID": "The older artifact during that rename.",
    ".NAME.work-KEY/": "Workspace of a long run: the finished steps of `preprocess`, `blend`, `evaluate human-eval` or "
    "`evaluate mbpp`. The key is a hash of version, settings and inputs, so only the same run finds it again. It goes "
    "when the run is done.",
    ".NAME.again/": "A blend that `blend --verify` makes again to compare it.",
    ".lock": "In a workspace or a run: held by the process that writes there.",
}
OTHERS = {
    "NAME.card/README.md, croissant.json, eu_training_content_summary.md": "`ibidem card`: beside the dataset NAME.",
    "NAME.takedown-ID.json": "`ibidem takedown apply`: the certificate, beside the first dataset NAME: a list of "
    "in-toto statements, one for each dataset. Times are in `volatile` alone.",
    "NAME.takedown-ID.html": "`ibidem takedown apply`: the certificate as a page.",
    "NAME.takedown-ID.intoto.jsonl": "`ibidem takedown apply --sign-with`: the certificate signed: a DSSE envelope for "
    "each of its statements, one a line.",
    "NAME.official.jsonl": "`ibidem evaluate human-eval --evaluator official`: disagreements, beside the result NAME.",
    "{demo:BEGINNINGS_FILE}": "`ibidem demo`: beginnings of training documents, which the models continue: prompts of "
    "`ibidem evaluate verbatim`.",
    "dashboard.html, {records:DASHBOARD_FILE}": "`ibidem evaluate dashboard`: in its output folder.",
    "{artifacts:SIGNATURE}": "`ibidem sign`, `ibidem gate --sign-with`: signatures, beside the manifest of an "
    "evaluation or a decision: a DSSE envelope around an in-toto statement.",
    "{trackers:PROJECT}/RUN/, wandb/": "`ibidem evaluate ... --trackers tensorboard wandb`: beside the result; of the "
    "dashboard, in its output folder. RUN is the folder of the checkpoint's run, with the folder above it.",
    "FILE.json": "`ibidem evaluate perplexity --output FILE.json`.",
    "FILE.html": "`ibidem report --output FILE.html`.",
    "NAME.audit/{grounding.audit.log:FILE}": "The audit log of the index NAME: events as canonical JSON in an SQLite "
    "database, under a Merkle tree. It is no artifact: it grows.",
    "STATE/{serving.server.tokens:FILE}": "`ibidem serve`, `ibidem token create`: hashes of the tokens and sessions of "
    "a server, with their principals, in an SQLite database. Its folder is `--state`.",
    "FILE.jsonl": "`ibidem generate --output FILE.jsonl`, `ibidem problems --output FILE.jsonl`.",
}

INTRODUCTION = """# Layout

Every stage leaves an **artifact**: a folder that is sealed by `{artifacts:MANIFEST}`. The work happens in a hidden
folder beside the final one. Every file is flushed and hashed, the manifest is written last, and one rename makes the
folder appear. A folder without a valid manifest does not exist for the next stage. `ibidem verify` hashes an artifact
and its ancestors again, and `ibidem trace` shows what it was made from."""


def page() -> str:
    """Write the page.

    Raises:
        LookupError: the code has a constant, column or member that no sentence describes, or the other way round.
    """
    described = kinds()
    _check(described)
    overview = table(
        ("Kind", "Made by", "What it is"),
        [
            (f"[{kind.name}](#{kind.name})", _commands(kind.made_by), f"{kind.about.partition('. ')[0].rstrip('.')}.")
            for kind in described
        ],
    )
    return filled(
        "\n\n".join(
            [
                INTRODUCTION,
                overview,
                *_manifest(),
                *(part for kind in described for part in _section(kind)),
                *_run(),
                *_beside(),
            ]
        )
        + "\n"
    )


def filled(text: str) -> str:
    """Put the constants of the code into a text.

    >>> filled("{modeling.checkpoint:WEIGHTS}")
    'model.safetensors'
    """
    return re.sub(r"\{([\w.]+:\w+)\}", lambda found: str(docs_code.constants()[found[1]]), text)


def _check(described: Sequence[Kind]) -> None:
    """Compare what is described with what the code has."""
    texts = [INTRODUCTION, *RUN, *OTHERS, *(name for kind in described for name in (*kind.files, *kind.sometimes))]
    named = set(re.findall(r"\{([\w.]+:\w+)\}", " ".join(texts)))
    _same("kind", docs_code.kinds(), {kind.constant for kind in described})
    _same("file name", docs_code.file_names() - INTERNAL, {key for key in named if key in docs_code.file_names()})
    _same("schema", docs_code.schemas() - INTERNAL, SCHEMAS)
    for columns in (columns for kind in described for columns in kind.columns):
        _same(f"column of {filled(columns.file)}", columns.types.keys(), columns.sentences.keys())


def _same(what: str, of_code: Any, described: Any) -> None:
    if missing := sorted(set(of_code) - set(described)):
        raise LookupError(f"{what} {missing[0]} is in the code; describe it in scripts/docs_layout.py")
    if stale := sorted(set(described) - set(of_code)):
        raise LookupError(f"{what} {stale[0]} is no longer in the code; take it out of scripts/docs_layout.py")


def _manifest() -> Iterator[str]:
    _same("key of the manifest", {each.name for each in fields(artifacts.Artifact)} - {"path"}, MANIFEST)
    _same("key of an input", _dataclass(artifacts.Input), INPUT)
    _same("key of a file", _dataclass(artifacts.File), FILE)
    yield "## Manifest"
    yield "`{artifacts:MANIFEST}` is one JSON object. Its digest does not depend on time, place or host."
    yield _described(("Key", "Holds"), MANIFEST)
    for name, sentences in (("an item of `inputs`", INPUT), ("an item of `files`", FILE), ("`volatile`", VOLATILE)):
        yield f"Keys of {name}:"
        yield _described(("Key", "Holds"), sentences)


def _section(kind: Kind) -> Iterator[str]:
    yield f"## {kind.name}"
    yield kind.about
    yield f"* Made by: {_commands(kind.made_by)}\n* Read by: {_commands((*kind.read_by, *EVERY))}"
    yield _described(("File", "Holds"), {**kind.files, **_sometimes(kind.sometimes)})
    for columns in kind.columns:
        yield f"### {code(columns.file)}"
        yield table(
            ("Column", "Type", "Holds"),
            [(code(name), code(shown), columns.sentences[name]) for name, shown in columns.types.items()],
        )
        if columns.sentences is DROPPED:
            yield "Reasons:"
            yield _described(("Reason", "Meaning"), _reasons())
    yield f"### `counts` ({kind.name})"
    yield _described(("Key", "Holds"), kind.counts)


def _sometimes(sentences: Mapping[str, str]) -> dict[str, str]:
    return {name: f"*Sometimes.* {text}" for name, text in sentences.items()}


def _reasons() -> dict[str, str]:
    reasons = docs_code.members("records", "DropReason")
    _same("drop reason", {str(reason) for reason in records.DropReason}, reasons)
    return {name: meaning(text) for name, text in reasons.items()}


def _run() -> Iterator[str]:
    yield "## The folder of a run"
    yield "A training writes everything below its `--output-dir`:"
    yield _described(("Path", "Holds"), RUN | _sometimes(RUN_SOMETIMES))
    yield "Events:"
    yield _described(("Event", "Meaning"), EVENTS)
    yield "## Hidden files and folders"
    yield (
        "A name that begins with a dot is work in progress. A killed process leaves it behind, and the next run in the "
        "same place uses it or clears it away. It is safe to delete when no process is running."
    )
    yield _described(("Name", "Holds"), HIDDEN)


def _beside() -> Iterator[str]:
    yield "## Other results"
    yield "These are plain files for people. They have no manifest."
    yield table(
        ("File", "Written by"),
        [(", ".join(code(part) for part in name.split(", ")), text) for name, text in OTHERS.items()],
    )


def _described(head: tuple[str, str], sentences: Mapping[str, str]) -> str:
    return table(head, [(code(name), text) for name, text in sentences.items()])


def _commands(names: Sequence[str]) -> str:
    return ", ".join(map(code, names))


def _of_schema(file: str, constant: str) -> Columns:
    module, _, name = constant.partition(":")
    return Columns(file, _types(getattr(import_module(f"ibidem.{module}"), name)), SCHEMAS[constant])


def shown(arrow_type: pa.DataType) -> str:
    """Write an Arrow type; the names of the items of lists and maps say nothing, and files have others.

    >>> shown(pa.list_(pa.int32())), shown(pa.map_(pa.string(), pa.int32()))
    ('list<int32>', 'map<string, int32>')
    """
    return re.sub(r"(?<=list<)\w+: | \('\w+'\)", "", str(arrow_type))


def _types(schema: pa.Schema) -> dict[str, str]:
    return {column.name: shown(column.type) for column in schema}


def _numpy(dtype: "np.dtype[Any]") -> dict[str, str]:
    assert dtype.fields is not None
    parts = {name: kind.subdtype or (kind, ()) for name, (kind, *_) in dtype.fields.items()}
    return {name: " x ".join([kind.name, *map(str, shape)]) for name, (kind, shape) in parts.items()}


def _dataclass(cls: type[Any]) -> dict[str, str]:
    words = {"str": "string", "int": "integer", "int | None": "integer or null"}
    return {each.name: words.get(name := getattr(each.type, "__name__", str(each.type)), name) for each in fields(cls)}
