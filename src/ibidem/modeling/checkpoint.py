"""Trained models on disk: `step-000040/` with safetensors weights, their shape, and their tokenizer.

The weights are `model.safetensors`, or, of a run that was sharded, `model/`, a file for each process. Every stage reads
both.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import ArtifactError, CheckpointError
from ibidem.modeling.config import ModelConfig
from ibidem.readers import check_reader

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ibidem.modeling.modeling_custom import Decoder
    from ibidem.modeling.tensor_files import Tensors

KIND = "checkpoint"
MODEL = "model"
WEIGHTS = "model.safetensors"
TOKENIZER_DIR = "tokenizer"
VALUE_HEAD = "value_1D"
"""Name of the weights of a value head: PPO's checkpoints have one."""
GROUNDING_HEAD = "grounding."
"""Prefix of the weights of a grounding head: checkpoints trained with contrastive batches have one."""
INITIAL = "initial"
"""Role of the checkpoint whose weights a run started from."""
OUTSIDE = "outside"
"""Role of a model that was not trained here, in the checkpoint that was imported from it."""
IMPORTED = "imported"
"""In the config of a manifest: what is known of a model from outside; in all checkpoints that are made from it."""


def verified(
    folder: Path, kind: str = KIND, *, principal: str | None = None, for_others: bool = False
) -> artifacts.Artifact:
    """Load a checkpoint's artifact, or that of another kind of trained model, and rehash all its files.

    Whatever opens a trained model begins here, so that whoever may not read what it was tuned on is refused.

    Args:
        folder: its folder.
        kind: kind of the artifact.
        principal: who opens it; None: the user who runs the program.
        for_others: open it for those who will ask a server, and check nobody: the server checks by
            `readers.readers_of` and `readers.is_reader` whoever asks, at each request.

    Raises:
        AccessDenied: it was tuned on documents, and the principal is not among their readers.
        CheckpointError: it is missing, incomplete or damaged; the message names the file.
    """
    try:
        artifact = artifacts.verify(folder, kind=kind)
    except ArtifactError as error:
        raise CheckpointError(f"checkpoint refused: {error}") from None
    if not for_others:
        check_reader(artifact, principal)
    return artifact


def model_config(checkpoint: artifacts.Artifact) -> ModelConfig:
    """Read the shape that a checkpoint was trained with."""
    return build(ModelConfig, checkpoint.config["model"], origin=f"{checkpoint.path}: ")


def best_device() -> "torch.device":
    """Return the GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(
    folder: Path, principal: str | None = None, *, for_others: bool = False
) -> "tuple[Decoder, artifacts.Artifact]":
    """Verify a checkpoint and load its model, in float32, on the best device, in evaluation mode.

    Args:
        folder: its folder.
        principal: who opens it; None: the user who runs the program.
        for_others: check nobody; whoever calls this checks each person who asks, as `verified` says.

    Raises:
        AccessDenied: it was tuned on documents, and the principal is not among their readers.
        CheckpointError: the checkpoint is damaged, or its weights do not fit its shape.
    """
    from ibidem.modeling.modeling_custom import Decoder

    checkpoint = verified(folder, principal=principal, for_others=for_others)
    model = Decoder(model_config(checkpoint))
    load_weights(model, folder)
    return model.to(best_device()).eval(), checkpoint


def load_weights(model: "nn.Module", folder: Path) -> None:
    """Load the weights of a checkpoint into a model of the same shape: the rows that this process holds.

    A head that the model lacks is left out; one that the checkpoint lacks stays as it is.

    Raises:
        CheckpointError: the weights cannot be read, or do not fit.
    """
    own = model.state_dict()
    with weights_of(folder) as saved:
        if differing := sorted(name for name in own.keys() ^ set(saved) if not is_of_head(name)):
            raise CheckpointError(f"{folder / WEIGHTS}: {differing[0]} is only in the model or only in the file")
        try:
            for name in own.keys() & set(saved):
                saved.fill(own[name], name)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / WEIGHTS}: {error}") from None


@contextmanager
def weights_of(folder: Path) -> "Iterator[Tensors]":
    """Open the weights of a checkpoint, in one file or in one for each process that trained it.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    from ibidem.modeling.tensor_files import files_of, opened

    with opened(files_of(folder, MODEL) or [folder / WEIGHTS]) as tensors:
        yield tensors


def has_weights(files: Iterable[str]) -> bool:
    """Return whether files of these names hold the weights of a model.

    >>> has_weights(["model/00001-of-00002.safetensors"]), has_weights(["train.bin"])
    (True, False)
    """
    return any(name == WEIGHTS or name.startswith(f"{MODEL}/") for name in files)


def is_of_head(name: str) -> bool:
    """Return whether weights are those of a head, which a plain decoder does not have.

    >>> is_of_head("value_1D"), is_of_head("grounding.out.weight"), is_of_head("norm.weight")
    (True, True, False)
    """
    return name == VALUE_HEAD or name.startswith(GROUNDING_HEAD)
