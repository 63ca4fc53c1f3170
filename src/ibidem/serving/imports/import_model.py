"""`ibidem import`: a Llama or Qwen3 of Hugging Face as a checkpoint of ours: the wiring.

config.json      -> the shape                  or a refusal that names what our decoder does not compute
safetensors      -> weights, under our names   every tensor named, shaped and finite
README, LICENSE  -> the license                which the gate asks for
tokenizer.json   -> the tokenizer              with our markers, for which the matrix may get rows
                 -> checkpoints/step-000000/   lineage begins with the digest of what was read

Nothing is written before all of it was looked at.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file

from ibidem import artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.config import resolved
from ibidem.errors import ArtifactError, DataError
from ibidem.figures import counted
from ibidem.files import is_file
from ibidem.inference.models import unchanged
from ibidem.inference.weights_license import WeightsLicense, license_of
from ibidem.modeling.checkpoint import IMPORTED, KIND, OUTSIDE, TOKENIZER_DIR, WEIGHTS
from ibidem.modeling.config import ModelConfig
from ibidem.records import TOKENIZER_JSON
from ibidem.runs import folder_of, steps_of
from ibidem.serving.config import ImportConfig
from ibidem.serving.export.hf_model import name_of
from ibidem.serving.imports import hf_folder
from ibidem.serving.imports.hf_config import read_config, read_json
from ibidem.serving.imports.hf_weights import Weights, check_weights, converted, find_weights
from ibidem.tokenization.import_tokenizer import SETTINGS, import_tokenizer, summary
from ibidem.tokenization.json_file import CONFIG, TOKENIZER_CONFIG
from ibidem.tokenization.tokenizer import Tokenizer

_NEEDED = {
    CONFIG: "it has the shape of the model",
    TOKENIZER_JSON: "no other form of a tokenizer is read; save_pretrained of a fast tokenizer writes it",
    TOKENIZER_CONFIG: "it has the settings of the tokenizer",
}


@dataclass(frozen=True)
class Model:
    """A foreign model that was looked at."""

    architecture: str
    shape: ModelConfig
    """With the rows that its files have."""
    weights: Weights
    license: WeightsLicense
    files: dict[str, str]
    """SHA-256 of each file that was read."""


def import_model(config: ImportConfig) -> str:
    """Import a model; return a line about the checkpoint."""
    made = run(config)
    about, counts = made.config[IMPORTED], made.counts
    return (
        f"{made.path}: {about['architecture']} {about['name']}, {counts['parameters']:,} parameters in "
        f"{counts['dtype']}, {counted(counts['added_rows'], 'row')} added to the matrix; license {about['license']} "
        f"({about['license_source']}); tokenizer: {summary(artifacts.load(made.path / TOKENIZER_DIR))}"
    )


def run(config: ImportConfig) -> Artifact:
    """Look at a model folder, and write its checkpoint; return it.

    Raises:
        AccessDenied: it is the export of a checkpoint that was tuned on private documents.
        ArtifactError: something else is at `output_dir`.
        CheckpointError: a file changed while it was read.
        ConfigError: there is no such folder, or the license that is given is unknown.
        DataError: the model is not one that our decoder computes exactly, or its files are incomplete or damaged.
    """
    place = folder_of(config.output_dir, 0)
    artifacts.check_replaceable(place, KIND)
    if [step for step in steps_of(config.output_dir) if step]:
        raise ArtifactError(f"{config.output_dir}: checkpoints of a training are here; choose another --output-dir")
    hf_folder.check_folder(config.from_)
    with unchanged(config.from_), TemporaryDirectory(prefix="ibidem-") as scratch:
        model = look(config.from_, config.license)
        tokenizer = import_tokenizer(config.from_, Path(scratch) / TOKENIZER_DIR)
        about = {"model": resolved(_shape_with(model.shape, tokenizer)), IMPORTED: _about(config.from_, model)}
        inputs = [
            Input(OUTSIDE, hf_folder.digest_of(model.files), about[IMPORTED]["name"], is_artifact=False),
            Input("tokenizer", tokenizer.digest, TOKENIZER_DIR),
        ]
        if artifacts.finished(place, kind=KIND, config=about, inputs=inputs) is None:
            with artifacts.create(place, kind=KIND, config=about, inputs=inputs) as draft:
                _write(draft, model, tokenizer)
    return artifacts.load(place, kind=KIND)


def look(folder: Path, license_given: str | None = None) -> Model:
    """Read all that there is to know of a model, and refuse it before anything is written.

    Raises:
        ConfigError: the license that is given is unknown.
        DataError: as `run`.
    """
    paths = {name: hf_folder.file_in(folder, name, why) for name, why in _NEEDED.items()}
    architecture, shape = read_config(paths[CONFIG])
    _check_ids(paths[TOKENIZER_JSON], shape)
    license_found = license_of(folder, license_given)
    weights = find_weights(folder, shape)
    check_weights(weights)
    read = {*paths, *weights.files, *(name for name in SETTINGS if is_file(folder / name))}
    return Model(architecture, shape, weights, license_found, hf_folder.hashed(folder, read))


def _check_ids(path: Path, shape: ModelConfig) -> None:
    """Refuse a tokenizer with more ids of its own than the matrix has rows: nothing says what they mean."""
    tree = read_json(path)
    model = tree.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list):
        raise DataError(f"{path}: its model has no vocab")
    learned = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    added = [each.get("id") for each in tree.get("added_tokens") or [] if isinstance(each, dict)]
    ids = [each for each in (*learned, *added) if isinstance(each, int)]
    if (number := max(ids, default=-1) + 1) > shape.vocab_size:
        raise DataError(
            f"{path}: it has {number:,} ids of its own, and the matrix of the model {shape.vocab_size:,} rows; "
            "they are of different models"
        )


def _shape_with(shape: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return a shape with a row for each id; spare rows that the matrix has stay."""
    return replace(shape, vocab_size=max(shape.vocab_size, tokenizer.vocab_size))


def _about(folder: Path, model: Model) -> dict[str, Any]:
    return {
        "architecture": model.architecture,
        "name": hf_folder.name_of(folder),
        "license": model.license.expression,
        "license_source": model.license.source,
        "files": model.files,
    }


def _copy(tokenizer: Path, place: Path) -> None:
    """Copy a tokenizer without when and where it was made, by which the same import would differ each time."""
    shutil.copytree(tokenizer, place)
    manifest = json.loads((tokenizer / artifacts.MANIFEST).read_text(encoding="utf-8")) | {"volatile": {}}
    text = json.dumps(manifest, ensure_ascii=False, indent=1, allow_nan=False)
    (place / artifacts.MANIFEST).write_text(text + "\n", encoding="utf-8")


def _write(draft: artifacts.Draft, model: Model, tokenizer: Tokenizer) -> None:
    shape = _shape_with(model.shape, tokenizer)
    assert tokenizer.path is not None, "it was just written"
    save_file(converted(model.weights, shape), draft.path / WEIGHTS, metadata={"format": "pt"})
    _copy(tokenizer.path, draft.path / TOKENIZER_DIR)
    draft.counts |= {
        "step": 0,
        "parameters": shape.parameters,
        "dtype": name_of(model.weights.dtype),
        "added_rows": shape.vocab_size - model.shape.vocab_size,
    }
