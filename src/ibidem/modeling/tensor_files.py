"""Tensors on disk: safetensors, in one file, or in one for each process that holds some rows of them.

    model.safetensors                    every tensor, whole
    model/00001-of-00002.safetensors     the rows that process 0 holds, and what all processes hold alike
    model/00002-of-00002.safetensors     the rows that process 1 holds

The header says where rows begin in their tensor, under the key of `torch.distributed.checkpoint`, whose
`HuggingFaceStorageReader` reads these files too. Nothing is pickled: to read a file runs no code of it.
"""

import hashlib
import json
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibidem.errors import CheckpointError

SUFFIX = ".safetensors"
OFFSETS_KEY, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""Names of `torch.distributed.checkpoint`."""
ROWS_KEY = "ibidem_rows"
"""Of each tensor of which a file has some rows: how many it has in all."""
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Part(NamedTuple):
    """A tensor, or some of its rows."""

    name: str
    tensor: Tensor
    first_row: int = 0
    rows: int | None = None
    """Rows of the whole tensor; None: this is the whole tensor."""


def part_of(name: str, tensor: Tensor) -> Part:
    """Return the rows of a tensor that this process holds; all of it unless it is divided."""
    if type(tensor) in {Tensor, torch.nn.Parameter}:
        return Part(name, tensor)
    from torch.distributed.tensor import DTensor  # half a second, which only a training has reason to spend
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not isinstance(tensor, DTensor):
        return Part(name, tensor)
    assert all(each.is_shard(0) or each.is_replicate() for each in tensor.placements), "divided by rows"
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Part(name, tensor.to_local(), offsets[0], tensor.shape[0])


def name_of_file(name: str, number: int, of: int) -> str:
    """Return the name of one of several files, counted from 0.

    >>> name_of_file("model", 1, of=4)
    'model/00002-of-00004.safetensors'
    """
    return f"{name}/{number + 1:05d}-of-{of:05d}{SUFFIX}"


def files_of(folder: Path, name: str) -> list[Path]:
    """Return the files that hold the tensors of a name: one, or one for each process; none if there are none.

    >>> files_of(Path("missing"), "model")
    []
    """
    whole = folder / f"{name}{SUFFIX}"
    return [whole] if whole.is_file() else sorted((folder / name).glob(f"*{SUFFIX}"))


def write(path: Path, parts: Iterable[Part]) -> str:
    """Write a file, and wait until it is on disk; return its sha256, hashed on the way there.

    The same parts give the same bytes. Tensors may be on any device; one at a time is on the CPU.

    Raises:
        OSError: it cannot be written.
    """
    parts = sorted((part for part in parts if part.tensor.numel() or part.rows is None), key=_place)
    digest = hashlib.sha256()
    blocks: Iterator[bytes | memoryview] = chain([_header(parts)], (_bytes_of(part.tensor) for part in parts))
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for data in blocks:
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class _Rows(NamedTuple):
    """Where some rows of a tensor are."""

    first: int
    number: int
    slices: Any
    """Reads what is indexed."""


class Tensors:
    """The tensors of some files, each of which is read when it is asked for."""

    def __init__(self, found: Mapping[str, Sequence[_Rows]]) -> None:
        """Take the rows of each tensor, ascending."""
        self._found = found

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._found)

    def __contains__(self, name: str) -> bool:
        """Return whether there is a tensor of this name."""
        return name in self._found

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        rows = self._found[name]
        shape = tuple(rows[0].slices.get_shape())
        return shape if not shape else (rows[-1].first + rows[-1].number, *shape[1:])

    def dtypes(self) -> set[str]:
        """Return the names of the types of all tensors, as safetensors has them."""
        return {rows.slices.get_dtype() for found in self._found.values() for rows in found}

    def read(self, name: str, first: int = 0, number: int | None = None) -> Tensor:
        """Read some rows of a tensor, by default all of it."""
        found, shape = self._found[name], self.shape(name)
        if not shape:
            return self._only(name)
        last = shape[0] if number is None else first + number
        pieces = [
            rows.slices[max(first, rows.first) - rows.first : min(last, rows.first + rows.number) - rows.first]
            for rows in found
            if max(first, rows.first) < min(last, rows.first + rows.number)
        ]
        if not pieces:
            return torch.empty(0, *shape[1:], dtype=found[0].slices[:0].dtype)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def fill(self, tensor: Tensor, name: str) -> None:
        """Copy a tensor into another one of its shape: the rows that this process holds of it.

        Raises:
            CheckpointError: the shapes differ.
        """
        if tuple(tensor.shape) != self.shape(name):
            raise CheckpointError(f"{name} has the shape {self.shape(name)}, not {tuple(tensor.shape)}")
        part = part_of(name, tensor.detach())
        if part.rows is None:
            part.tensor.copy_(self.read(name))
        elif part.tensor.shape[0]:
            part.tensor.copy_(self.read(name, part.first_row, part.tensor.shape[0]))

    def _only(self, name: str) -> Tensor:
        whole: Tensor = self._found[name][0].slices[...]
        return whole


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[Tensors]:
    """Open files that belong together.

    Raises:
        CheckpointError: one is not a safetensors file, or rows of a tensor are missing.
    """
    found: dict[str, list[_Rows]] = defaultdict(list)
    totals: dict[str, int] = {}
    with ExitStack() as stack:
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, "pt"))
                about = file.metadata() or {}
                offsets, totals_here = json.loads(about.get(OFFSETS_KEY, "{}")), json.loads(about.get(ROWS_KEY, "{}"))
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    slices = file.get_slice(name)
                    shape = slices.get_shape()
                    first = offsets[name][OFFSETS][0] if shape and name in offsets else 0
                    found[name].append(_Rows(first, shape[0] if shape else 1, slices))
                    totals[name] = totals_here.get(name, shape[0] if shape else 1)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{path}: {' '.join(str(error).split())[:200]}") from None
        for name, rows in found.items():
            rows.sort(key=lambda each: each.first)
            _check_rows(name, rows, totals[name], files[0].parent)
        yield Tensors(found)


def _check_rows(name: str, found: Sequence[_Rows], total: int, folder: Path) -> None:
    """Fail unless rows follow on one another from the first to the last."""
    end = 0
    for rows in found:
        if rows.first != end:
            break
        end += rows.number
    if end != total or any(rows.slices.get_shape()[1:] != found[0].slices.get_shape()[1:] for rows in found):
        raise CheckpointError(f"{folder}: {name} is not whole; the files are not those of one checkpoint")


def _place(part: Part) -> tuple[int, str]:
    return -part.tensor.element_size(), part.name  # so that every tensor is aligned


def _header(parts: Sequence[Part]) -> bytes:
    start, entries = 0, dict[str, Any]()
    for part in parts:
        end = start + part.tensor.numel() * part.tensor.element_size()
        shape = list(part.tensor.shape)
        entries[part.name] = {"dtype": DTYPES[part.tensor.dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
    about = {"format": "pt"}
    if any(part.rows is not None for part in parts):
        offsets = {part.name: {OFFSETS: [part.first_row, *[0] * (part.tensor.dim() - 1)][: part.tensor.dim()]}
                   for part in parts}  # fmt: skip
        totals = {part.name: part.rows for part in parts if part.rows is not None}
        about |= {OFFSETS_KEY: json.dumps(offsets), ROWS_KEY: json.dumps(totals)}
    header = json.dumps({"__metadata__": about, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
