"""PPO and GRPO end at the optimum that theory gives; three mistakes do not."""

import importlib.util

import pytest
from tests.conftest import REPOSITORY

_SPEC = importlib.util.spec_from_file_location("known_optimum", REPOSITORY / "benchmarks" / "known_optimum.py")
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


# A short run: other seeds need more rollouts. At its full length the game is in the slow test, for 5 seeds.
SMALL = {"seed": 2, "rollouts": 160, "ids": 4, "answers": 64}


@pytest.mark.parametrize("variant", benchmark.BARS)
def test_16_answers_end_at_their_optimum(variant: str) -> None:
    game = benchmark.make(SMALL["seed"], SMALL["ids"])
    assert benchmark.total_variation(benchmark.distribution(game.reference), game.optimum_A) > 0.15
    assert benchmark.run(variant, **SMALL) <= benchmark.BARS[variant]


@pytest.mark.parametrize(
    ("mistake", "instead_of"),
    [
        pytest.param(*each, marks=[] if each[0] == "k3_as_loss" else pytest.mark.slow)
        for each in benchmark.MISTAKES.items()
    ],
)
def test_with_a_mistake_they_do_not(mistake: str, instead_of: str) -> None:
    assert benchmark.run(mistake, **SMALL) > benchmark.BARS[instead_of]


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*benchmark.BARS, *benchmark.MISTAKES])
@pytest.mark.parametrize("seed", range(benchmark.SEEDS))
def test_256_answers_end_at_their_optimum(variant: str, seed: int) -> None:
    found = benchmark.run(variant, seed)
    if variant in benchmark.MISTAKES:
        assert found > benchmark.BARS[benchmark.MISTAKES[variant]]
    else:
        assert found <= benchmark.BARS[variant]
