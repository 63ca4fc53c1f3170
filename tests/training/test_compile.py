"""Compiled training is one graph from the first step to the last, and computes what it computes without."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.test_resume import Settings, changed, losses, train
from torch import Tensor, fx

from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.log_probabilities import Scoring
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import session

pytestmark = [  # what torch's compiler does itself
    pytest.mark.filterwarnings("ignore:.*should not be instantiated"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
LAYERS, STEPS = 2, 3


class Counting:
    """A compiler that only counts: its graphs, and how often each kind of graph runs."""

    def __init__(self) -> None:
        self.graphs: list[str] = []
        self.runs: Counter[str] = Counter()

    def __call__(self, graph: fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        kind = "training" if torch.is_grad_enabled() else "measuring"
        self.graphs.append(kind)

        def run(*args: Tensor) -> Any:
            self.runs[kind] += 1
            return graph.forward(*args)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Counting:
    torch.compiler.reset()
    counting = Counting()
    monkeypatch.setattr(session, "COMPILER", counting)
    return counting


@pytest.mark.parametrize("resumed", [False, True])
def test_training_is_one_graph_over_measuring_stepping_and_sampling(
    resumed: bool, compiler: Counting, train_settings: Settings, tmp_path: Path
) -> None:
    settings = changed(train_settings, training__steps=STEPS, training__compile=True, validation__every=1)
    settings = changed(settings, training__micro_batch_sequences=2, validation__windows=3)
    if resumed:
        train(settings, training__stop_at_step=1)
        torch.compiler.reset()
        compiler.__init__()
        train(settings, training__resume_from="latest")
    else:
        train(settings)
    steps = STEPS - 1 if resumed else STEPS
    assert sorted(compiler.graphs) == ["measuring", "training"]
    assert compiler.runs == {
        "training": LAYERS * steps * 2,  # micro batches
        "measuring": LAYERS * (steps if resumed else steps + 1) * 2,  # three windows, two at once
    }, "blocks ran without their graph"
    train(settings, output_dir=tmp_path / "eager", training__compile=False)
    eager = losses(tmp_path / "eager")
    assert losses(settings["output_dir"]) == pytest.approx(eager, rel=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_that_is_compiled_as_a_whole_has_the_same_gradients(tied: bool, frozen: bool) -> None:
    torch.compiler.reset()
    shape = ModelConfig(vocab_size=97, width=32, layers=2, heads=2, ffn_hidden=40, context=32, tied=tied)
    ids = torch.randint(97, (2, 22), generator=torch.Generator().manual_seed(1))
    documents = Documents.of(ids[:, :-1] < 20)
    results = []
    for whole in (False, True):
        model = Decoder(shape)
        model.init_weights(0)
        model.blocks.requires_grad_(not frozen)
        compiled = torch.compile(model, backend="aot_eager", dynamic=False, fullgraph=True) if whole else model
        loss = compiled(ids[:, :-1], ids[:, 1:], documents)
        loss.backward()
        results.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert [name for name, grad in results[0].items() if grad is None] == [
        name for name, grad in results[1].items() if grad is None
    ]
    for name, gradient in results[0].items():
        if gradient is not None:
            torch.testing.assert_close(results[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_one_graph_serves_batches_with_any_number_of_documents(compiler: Counting) -> None:
    model = Decoder(ModelConfig(vocab_size=97, width=32, layers=2, heads=2, ffn_hidden=40, context=32))
    model.init_weights(0)
    session.compile_blocks(model.blocks)
    for seed in range(6):
        ids = torch.randint(97, (2, 22), generator=torch.Generator().manual_seed(seed))
        model(ids[:, :-1], ids[:, 1:], Documents.of(ids[:, :-1] < seed * 15)).backward()
    assert compiler.graphs == ["training"]


def test_scores_of_a_model_that_is_compiled_as_a_whole_have_the_same_gradients() -> None:
    torch.compiler.reset()
    ids = torch.randint(97, (1, 22), generator=torch.Generator().manual_seed(1))
    documents, counted = Documents.of(ids[:, :-1] < 20), torch.tensor([3, 4, 11, 20])
    results = []
    for whole in (False, True):
        model = Decoder(ModelConfig(vocab_size=97, width=32, layers=2, heads=2, ffn_hidden=40, context=32))
        model.init_weights(0)
        compiled = torch.compile(model, backend="aot_eager", dynamic=False, fullgraph=True) if whole else model
        scores = compiled(ids[:, :-1], ids[:, 1:], documents, 0.0, counted, Scoring(0.7, entropy=True))
        (scores.log_probs_N.square().sum() + scores.entropies_N.sum()).backward()
        results.append([parameter.grad for parameter in model.parameters()])
    for eager, gradient in zip(*results, strict=True):
        torch.testing.assert_close(gradient, eager)
