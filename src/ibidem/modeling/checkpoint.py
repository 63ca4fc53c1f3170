"""Trained models on disk: `step-000040/` with safetensors weights, their shape, and the tokenizer they speak."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import ArtifactError, CheckpointError
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder

KIND = "checkpoint"
WEIGHTS = "model.safetensors"
TOKENIZER_DIR = "tokenizer"


def verified(folder: Path) -> artifacts.Artifact:
    """Hash every file of a checkpoint again.

    Raises:
        CheckpointError: it is missing, incomplete or damaged; the message names the file.
    """
    try:
        return artifacts.verify(folder, kind=KIND)
    except ArtifactError as error:
        raise CheckpointError(f"checkpoint refused: {error}") from None


def model_config(checkpoint: artifacts.Artifact) -> ModelConfig:
    """Read the shape that a checkpoint was trained with."""
    return build(ModelConfig, checkpoint.config["model"], origin=f"{checkpoint.path}: ")


def best_device() -> torch.device:
    """Choose the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path) -> tuple[Decoder, artifacts.Artifact]:
    """Load the model of a verified checkpoint, in float32, on the best device here, ready to evaluate.

    Raises:
        CheckpointError: the checkpoint is damaged, or its weights do not fit its shape.
    """
    checkpoint = verified(folder)
    model = Decoder(model_config(checkpoint))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: {' '.join(str(error).split())[:200]}") from None
    return model.to(best_device()).eval(), checkpoint
