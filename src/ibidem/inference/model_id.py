"""The identity of a model, by digest. Loads no weights and imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.errors import ConfigError
from ibidem.inference.model_folder import digest_of_model_folder
from ibidem.modeling.checkpoint import verified
from ibidem.runs import newest


@dataclass(frozen=True)
class ModelId:
    """Path and digest of a model."""

    path: Path
    digest: str
    is_checkpoint: bool
    """Whether `ibidem train` made it, so that its lineage is known."""

    def as_input(self, *, of: Path) -> Input:
        """Return the model as an input of the artifact at `of`."""
        if self.is_checkpoint:
            return artifacts.load(self.path).as_input("checkpoint", of=of)
        return Input("checkpoint", self.digest, self.path.name, is_artifact=False)


def identify(path: Path, principal: str | None = None) -> ModelId:
    """Identify the model at `path`; in the folder of a run, its newest checkpoint.

    Args:
        path: its folder.
        principal: who opens it; None: the user who runs the program.

    Raises:
        AccessDenied: it was tuned on documents, and the principal is not among their readers.
        ConfigError: there is no model at `path`, or loading it would read files elsewhere.
        CheckpointError: the checkpoint is damaged.
    """
    path = newest(path)
    if (path / artifacts.MANIFEST).exists():
        return ModelId(path, verified(path, principal=principal).digest, is_checkpoint=True)
    if (path / "config.json").exists():
        return ModelId(path, digest_of_model_folder(path), is_checkpoint=False)
    raise ConfigError(f"checkpoint {path}: neither a checkpoint of ibidem train nor a Hugging Face model folder")
