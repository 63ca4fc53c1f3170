"""The tiny Hugging Face model of the evaluations."""

from tests.evaluation.conftest import hf_model

__all__ = ["hf_model"]
