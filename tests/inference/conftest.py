"""The tiny models of the evaluations."""

from tests.evaluation.conftest import hf_model, long_checkpoint

__all__ = ["hf_model", "long_checkpoint"]
