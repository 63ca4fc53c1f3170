"""Heads for tests: one that goes by rule, and an untrained one on disk, whose scores are those of proximity."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.grounding.alignment import FEATURES, Frequencies
from ibidem.grounding.terms import terms


class RuleHead:
    """Prefers passages with rare words of the question; a claim is supported if the passage has its numbers."""

    digest = "sha256:rule"
    threshold = 0.0

    def __init__(self) -> None:
        self.known: list[Frequencies] = []

    def best(self, question: str, passage: str, known: Frequencies) -> float:
        self.known.append(known)
        return sum(known.idf(term) for term in set(terms(question)) & set(terms(passage)))

    def margin(self, claim: str, passage: str, known: Frequencies) -> float:
        self.known.append(known)
        numbers = [word for word in terms(claim) if word.isdigit()]
        if not numbers:
            return float("inf")
        return 1.0 if set(numbers) <= set(terms(passage)) else float("-inf")


def save_head(
    folder: Path,
    encoder: Path,
    *,
    calibration: float = 0.0,
    readers: dict[str, list[str]] | None = None,
    features: Sequence[str] = FEATURES,
) -> Path:
    """Save an untrained head on a checkpoint; with readers, as one that was trained on private documents."""
    import torch
    from safetensors.torch import save_file

    from ibidem.grounding.encoder import open_encoder
    from ibidem.grounding.head import new_head
    from ibidem.modeling.checkpoint import WEIGHTS
    from ibidem.modeling.heads import HEAD_KIND

    base = open_encoder(encoder)
    torch.manual_seed(0)
    model = new_head(base.width)
    model.calibration.fill_(calibration)
    name = os.path.relpath(encoder.resolve(), folder.resolve())
    inputs = [Input("encoder", base.digest, name, is_artifact=True)]
    config: dict[str, Any] = {"model": {"width": base.width, "features": list(features)}}
    if readers is not None:
        config["readers"] = readers
    with artifacts.create(folder, kind=HEAD_KIND, config=config, inputs=inputs) as draft:
        save_file(model.state_dict(), draft.path / WEIGHTS)
    return folder
