"""Steps that are recorded once and replayed draw the tokens of steps that are computed anew.

A CPU has no CUDA graphs. What stands in for them here does what they do: it records the operations of a computation,
with the tensors and the numbers that they had, and replays them on the same memory. So a step that depends on a number
of the host, or on where a tensor lies, draws other tokens.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, small
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ibidem.errors import ConfigError
from ibidem.modeling import decode_graphs
from ibidem.modeling.cache import KVCache, Reading, read_prompts, read_tokens
from ibidem.modeling.decode_graphs import DecodeGraphs
from ibidem.modeling.generate import Sampling, generate, sample
from ibidem.modeling.matrices import FrozenDecoder, Weights
from ibidem.modeling.running_batch import Request, RunningBatch
from ibidem.serving.config import GenerateConfig
from ibidem.serving.generate import generate as complete_prompts

PROMPTS = [[1, 5, 9, 22, 4], [3], [7, 7, 2, 50, 60, 61, 62, 63, 64, 65, 1, 2], [8, 8], [9, 1, 4]]
NEVER = 97
READS_THE_DEVICE = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero"}


class Graph(TorchDispatchMode):
    """The operations of a computation."""

    made: list["Graph"]

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        Graph.made.append(self)

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.name() not in READS_THE_DEVICE, "a recording cannot wait for the device"
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, recorded in self.operations:
            result = function(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(result), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Stream:
    """The order in which a CPU computes."""

    def wait_stream(self, _other: "Stream") -> None:
        """Nothing runs beside it."""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Graph.made = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    monkeypatch.setattr(decode_graphs, "LEAST_POSITIONS", 8)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decoders be laid out as they are on a GPU, in bfloat16 too."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


@pytest.fixture
def frozen(request: pytest.FixtureRequest) -> tuple[FrozenDecoder, FrozenDecoder]:
    """A decoder that computes each step anew, and one that replays it."""
    request.getfixturevalue("on_a_gpu")
    anew, recorded = (FrozenDecoder(decoder(small())) for _ in range(2))
    recorded.uses_graphs = True
    return anew, recorded


@pytest.mark.parametrize("sampling", [Sampling(40, temperature=0), Sampling(40, temperature=0.8, top_p=0.9, seed=3)])
def test_recorded_steps_draw_the_same_tokens(sampling: Sampling, frozen: tuple[FrozenDecoder, FrozenDecoder]) -> None:
    anew, recorded = (
        generate(each, PROMPTS, sampling, end_ids=(), is_stopped=lambda ids: len(ids) == 10 + ids[0] % 30)
        for each in frozen
    )
    assert len({len(ids) for ids in anew}) > 2, "rows leave at different steps"
    assert recorded == anew
    assert sum(graph.replays for graph in Graph.made) == max(map(len, anew)) - 1
    assert len(Graph.made) < max(map(len, anew)) / 2


def test_rows_that_join_later_and_samples_of_a_prompt_draw_the_same_tokens(
    frozen: tuple[FrozenDecoder, FrozenDecoder],
) -> None:
    seeds = [[1, 2, 3], [4], [5, 6], [7], [8]]
    found = [sample(each, PROMPTS, seeds, max_tokens=20, end_ids=range(10), most_rows=3) for each in frozen]
    for anew, recorded in zip(*found, strict=True):
        for one, other in zip(anew, recorded, strict=True):
            assert one.ids == other.ids
            assert other.log_probs == pytest.approx(one.log_probs, abs=1e-5)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("shape", [{}, {"kv_heads": 4, "tied": False, "qk_norm": False}, {"kv_heads": 1}])
@pytest.mark.parametrize(("weights", "bound"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_states_are_those_of_steps_that_are_computed_anew(
    weights: Weights, bound: float, shape: dict[str, object]
) -> None:
    model = FrozenDecoder(decoder(small(**shape)), weights)
    assert model.dtype == getattr(torch, weights)
    caches = [KVCache(model.config, 4, 40, dtype=model.dtype, device=model.device) for _ in range(2)]
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        for cache in caches:
            cache.reserve(4, 40)
            readings = [Reading.of(model, prompt) for prompt in PROMPTS[:3]]
            read_prompts(model, readings, [len(prompt) for prompt in PROMPTS[:3]])
            for reading in readings:
                cache.add(reading.kv_L2GSK, 1)
        graphs = DecodeGraphs(model, caches[1])
        for step in range(20):
            if step == 10:
                for cache in caches:
                    cache.release(1)
            ids_B = torch.randint(97, (caches[0].rows,), generator=generator)
            anew_BD, recorded_BD = read_tokens(model, caches[0], ids_B), graphs.read_tokens(ids_B.tolist())
            assert caches[0].lengths == caches[1].lengths
            assert float((anew_BD - recorded_BD).norm() / anew_BD.norm()) < bound
    assert graphs.recorded == [(4, 16), (4, 32), (2, 32)]


def test_a_step_is_recorded_once_for_each_number_of_rows_and_positions(
    frozen: tuple[FrozenDecoder, FrozenDecoder],
) -> None:
    batch = RunningBatch(frozen[1], slots=6, size=50)
    assert isinstance(batch._graphs, DecodeGraphs)
    batch.admit(Request([1, 2, 3], 0.0, 1.0, [0, 1, 2]))
    for _ in range(8):
        batch.step()
    batch.admit(Request([4] * 30, 0.0, 1.0, [0, 1, 2]))
    for _ in range(10):
        batch.step()
    assert batch._graphs.recorded == [(4, 8), (4, 16), (6, 32), (6, 50)]
    with torch.inference_mode():
        places = [batch._graphs.read_tokens([1] * 6).data_ptr() for _ in range(2)]
    assert places[0] == places[1]


def test_a_batch_whose_memory_moves_is_not_recorded(frozen: tuple[FrozenDecoder, FrozenDecoder]) -> None:
    batch = RunningBatch(frozen[1], slots=6)
    batch.admit(Request([1, 2, 3], 0.0, 1.0, [0]))
    batch.step()
    batch.step()
    assert Graph.made == []


def test_without_a_gpu_graphs_are_refused_in_one_line(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="^CUDA graphs need a GPU, and torch finds none; leave cuda_graphs out$"):
        complete_prompts(GenerateConfig(checkpoint=checkpoint, prompt=("def ",), cuda_graphs=True))


def test_what_stands_in_notices_a_number_of_the_host() -> None:
    value, result = torch.zeros(3), []
    count = [1.0]

    def compute() -> Tensor:
        result.append(None)
        return value + count[0]

    recorded = decode_graphs.Recording(compute)
    count[0] = 2.0
    value.fill_(10.0)
    assert recorded.replay().tolist() == [11.0] * 3, "the number is the one of the recording, the memory is not"
    assert len(result) == 2
