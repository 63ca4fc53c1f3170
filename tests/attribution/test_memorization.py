"""What a model repeats of planted training documents is attributed to these, and to no others."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memorization.py"


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memorization", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memorization"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_what_a_model_repeats_is_attributed_to_its_file(tmp_path: Path) -> None:
    found = benchmark().attribution(tmp_path, 480)
    assert found["spans_of_a_planted_function"] >= 10
    assert found["share"] >= 0.99
    assert found["attributed_to_a_file_without_the_span"] == 0
