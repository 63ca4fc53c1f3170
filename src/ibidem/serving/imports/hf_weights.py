"""The weights of a Hugging Face folder under our names: named, shaped and finite before anything is written.

    model.safetensors                        one file, or
    model.safetensors.index.json             {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    pytorch_model.bin                        refused: a pickle is a program, and reading it runs it

Headers are compared with the shape first, so that a wrong file is refused at once; then every number is looked at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibidem import log
from ibidem.errors import DataError
from ibidem.modeling.checkpoint import WEIGHTS
from ibidem.modeling.config import ModelConfig
from ibidem.serving.export.hf_model import Part, layout
from ibidem.serving.imports.hf_config import read_json
from ibidem.serving.imports.hf_folder import file_in

INDEX = "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
ROWS = 4096
"""Number of rows of a matrix that are added up at once."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_COMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Rotary frequencies, which early Llamas have in their files and every program computes from config.json."""


class _Header(NamedTuple):
    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """Where the tensors of a model are."""

    folder: Path
    file_of: Mapping[str, str]
    """The file of each tensor."""
    files: tuple[str, ...]
    """Files to read, the index included."""
    dtype: torch.dtype
    """Of all tensors; float32 if they have several."""
    tied: bool
    """Whether the embedding is the output matrix too; some files have it twice."""

    def read(self, name: str) -> Tensor:
        """Return a tensor."""
        with safe_open(self.folder / self.file_of[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor.to(self.dtype)


def find_weights(folder: Path, shape: ModelConfig) -> Weights:
    """Find the tensors of a model by the headers of its files.

    Args:
        folder: of the model.
        shape: of the decoder; the files must have its weights, all of them and no others.

    Raises:
        DataError: there are only pickles, the index leaves the folder, a file is damaged, or a tensor is missing, has
            another shape, another type, or no place in the decoder.
    """
    files, listed = _files(folder)
    headers = _headers(folder, files, listed)
    expected = {part.name: part for _, parts in layout(shape) for part in _found(folder, parts, headers)}
    extra = sorted(name for name in headers.keys() - expected.keys() if not _COMPUTED.fullmatch(name))
    if shape.tied and OUTPUT in extra:
        extra.remove(OUTPUT)
        expected[OUTPUT] = _found(folder, [Part(OUTPUT, expected[EMBEDDING].shape)], headers)[0]
    if extra:
        raise DataError(f"{folder / headers[extra[0]].file}: {extra[0]} has no place in this architecture")
    dtypes = {DTYPES[headers[name].dtype] for name in expected}
    return Weights(
        folder,
        {name: headers[name].file for name in expected},
        (*files, *([INDEX] if listed is not None else [])),
        dtypes.pop() if len(dtypes) == 1 else torch.float32,
        shape.tied,
    )


def check_weights(weights: Weights) -> None:
    """Look at every number.

    Raises:
        DataError: a tensor has a number that is not finite, or a tied model has an output matrix of its own.
    """
    with log.progress("import.check", len(weights.file_of), "tensors") as bar:
        for name in weights.file_of:
            if not bool(weights.read(name).isfinite().all()):
                raise DataError(f"{weights.folder / weights.file_of[name]}: {name} has numbers that are not finite")
            bar.advance()
    if weights.tied and OUTPUT in weights.file_of and not torch.equal(weights.read(OUTPUT), weights.read(EMBEDDING)):
        raise DataError(
            f"{weights.folder / weights.file_of[OUTPUT]}: {OUTPUT} differs from the embedding, although config.json "
            "says tie_word_embeddings"
        )


def converted(weights: Weights, shape: ModelConfig) -> dict[str, Tensor]:
    """Return the weights under our names, in their own precision.

    Args:
        weights: as `find_weights` found them.
        shape: of the checkpoint; a larger `vocab_size` than the files have adds rows, each the mean of the others.
    """
    named = {}
    for name, parts in layout(shape):
        joined = torch.cat([weights.read(part.name) for part in parts])
        is_matrix_of_ids = name.endswith("weight_VD")
        named[name] = extended(joined, shape.vocab_size) if is_matrix_of_ids else joined
    return named


def extended(matrix_VD: Tensor, rows: int) -> Tensor:
    """Add rows to a matrix until it has `rows`: each is the mean of those that it had.

    The sum is in float64 and row by row, so that it does not depend on the number of threads.

    >>> extended(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 3)
    tensor([[1., 2.],
            [3., 6.],
            [2., 4.]])
    """
    missing = rows - len(matrix_VD)
    if not missing:
        return matrix_VD
    sum_D = np.zeros(matrix_VD.shape[1])
    for part in torch.split(matrix_VD, ROWS):
        sum_D += part.double().numpy().sum(axis=0)
    mean_1D = torch.from_numpy(sum_D / len(matrix_VD)).to(matrix_VD.dtype)[None]
    return torch.cat([matrix_VD, mean_1D.expand(missing, -1)])


def _files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Return the names of the weight files; with an index also the file of each tensor."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS], None
    if (folder / INDEX).exists():
        listed = _weight_map(folder / INDEX)
        return sorted(set(listed.values())), listed
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise DataError(
            f"{folder / pickles[0]}: only pickled weights are here, and reading a pickle runs whatever program is in "
            f"it; ask for the model's safetensors, or convert them where that does no harm"
        )
    raise DataError(f"from {folder}: neither {WEIGHTS} nor {INDEX} is here")


def _weight_map(index: Path) -> dict[str, str]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise DataError(f"{index}: it has no weight_map")
    for tensor, name in listed.items():
        if not isinstance(name, str) or PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise DataError(f"{index}: {tensor} is in {name!r}, which is no name of a safetensors file of this folder")
        file_in(index.parent, name, f"{INDEX} names it")
    return listed


def _headers(folder: Path, files: list[str], listed: dict[str, str] | None) -> dict[str, _Header]:
    headers: dict[str, _Header] = {}
    for name in files:
        found = _header(folder / name)
        due = found.keys() if listed is None else {tensor for tensor, file in listed.items() if file == name}
        if missing := sorted(due - found.keys()):
            raise DataError(f"{folder / name}: {missing[0]} is missing, although {INDEX} names it")
        if extra := sorted(found.keys() - due):
            raise DataError(f"{folder / name}: it has {extra[0]}, which {INDEX} does not name in it")
        headers |= found
    return headers


def _header(path: Path) -> dict[str, _Header]:
    try:
        with safe_open(path, "pt") as file:
            slices: dict[str, Any] = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
            return {
                name: _Header(path.name, each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()
            }
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: no whole safetensors file ({reason}); download it again") from None


def _found(folder: Path, parts: list[Part], headers: Mapping[str, _Header]) -> list[Part]:
    """Return the tensors of a weight, which are all there.

    Raises:
        DataError: one is missing, or has another shape or type.
    """
    for name, shape in parts:
        if name not in headers:
            raise DataError(f"from {folder}: the tensor {name} is missing")
        header = headers[name]
        if header.shape != shape:
            theirs, ours = (" x ".join(map(str, each)) for each in (header.shape, shape))
            raise DataError(f"{folder / header.file}: {name} is {theirs}; by config.json it is {ours}")
        if header.dtype not in DTYPES:
            raise DataError(f"{folder / header.file}: {name} is in {header.dtype}; only {', '.join(DTYPES)} are read")
    return parts
