"""Generation gives what the whole text gives, to each row its own, and draws from the nucleus."""

from collections.abc import Callable

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, huggingface_weights, small

from ibidem.errors import ConfigError, DataError
from ibidem.modeling import cache as caching
from ibidem.modeling import generate as generating
from ibidem.modeling import matrices, running_batch
from ibidem.modeling.cache import KVCache, Reading, read_prompts, read_tokens
from ibidem.modeling.generate import Sampling, generate
from ibidem.modeling.matrices import FrozenDecoder, Int8Matrix, PackedMatrix
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.running_batch import Request, RunningBatch
from ibidem.modeling.sampling import by_histogram, by_sorting, draw, draw_scored, most_likely

PROMPTS = [[1, 5, 9, 22, 4], [3], [7, 7, 2, 50, 60, 61, 62, 63, 64, 65, 1, 2], [8, 8]]
GREEDY = Sampling(max_tokens=12, temperature=0)
NEVER = 97
"""An id that is not drawn."""


@pytest.fixture(params=["amx_bf16", "avx512_bf16", "avx2"])
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CPU on which other products are the fast ones."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {request.param: True})
    return str(request.param)


@pytest.fixture(params=[{}, {"kv_heads": 4, "tied": False, "qk_norm": False}, {"kv_heads": 1}])
def model(request: pytest.FixtureRequest) -> Decoder:
    return decoder(small(**request.param))


def added(frozen: FrozenDecoder, cache: KVCache, texts: list[torch.Tensor]) -> torch.Tensor:
    """Read texts, add a row for each, and return the hidden states of their last tokens."""
    readings = [Reading.of(frozen, text.tolist()) for text in texts]
    hidden_BD = read_prompts(frozen, readings, [len(text) for text in texts])
    for reading in readings:
        cache.add(reading.kv_L2GSK, 1)
    return hidden_BD


@pytest.mark.usefixtures("cpu")
def test_rows_of_a_cache_have_the_logits_of_their_whole_texts(model: Decoder) -> None:
    frozen = FrozenDecoder(model)
    generator = torch.Generator().manual_seed(9)
    texts = [torch.randint(97, (length,), generator=generator) for length in (5, 30, 1, 17)]
    cache = KVCache(model.config, slots=5, size=40, dtype=frozen.dtype, device=frozen.device)
    with torch.no_grad():
        first, second = added(frozen, cache, texts[:2]), added(frozen, cache, texts[2:])
        steps = [frozen.head(torch.cat([first, second]))]
        more = torch.randint(97, (6, 4), generator=generator)
        steps += [frozen.head(read_tokens(frozen, cache, ids)) for ids in more]
        for row, text in enumerate(texts):
            whole = model.logits(torch.cat([text, more[:, row]])[None])[0, len(text) - 1 :]
            torch.testing.assert_close(torch.stack(steps)[:, row], whole, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("qk_norm", [False, True])
def test_greedy_tokens_equal_hugging_face(qk_norm: bool) -> None:
    transformers = pytest.importorskip("transformers")
    model = decoder(small(qk_norm=qk_norm))
    shape = {
        "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 12,
        "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 64,
        "rms_norm_eps": model.config.norm_eps, "tie_word_embeddings": True, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.config.rope_theta},
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    kind = "Qwen3" if qk_norm else "Llama"
    peer = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**shape)).eval()
    huggingface_weights.copy(model, peer)
    expected = []
    for prompt in PROMPTS:
        row = torch.tensor([prompt])
        whole = peer.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        expected.append(whole[0, len(prompt) :].tolist())
    assert generate(model, PROMPTS, GREEDY, end_ids=(NEVER,)) == expected


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(12, 1.0, 0.9, seed=3)])
def test_a_batch_generates_what_each_prompt_generates_alone(model: Decoder, sampling: Sampling) -> None:
    together = generate(model, PROMPTS, sampling, end_ids=(96,))
    alone = [
        generate(model, [prompt], Sampling(12, sampling.temperature, sampling.top_p, 3, first), end_ids=(96,))[0]
        for first, prompt in enumerate(PROMPTS)
    ]
    assert together == alone


@pytest.mark.usefixtures("cpu")
def test_rows_that_leave_and_rows_that_join_change_no_other(model: Decoder) -> None:
    frozen = FrozenDecoder(model)
    requests = [Request(prompt, 1.0, 0.9, [seed]) for seed, prompt in enumerate(PROMPTS)]
    lengths, joins = [3, 9, 5, 4], [0, 0, 2, 6]
    batch = RunningBatch(frozen, slots=3, size=40)
    numbers: list[int] = []
    made: dict[int, list[int]] = {}
    for step in range(12):
        for request, at in zip(requests, joins, strict=True):
            numbers += batch.admit(request) if at == step else []
        for number, drawn in batch.step().items():
            made.setdefault(number, []).append(drawn.id)
            if len(made[number]) == lengths[number]:
                batch.release(number)
    assert numbers == [0, 1, 2, 3]
    assert batch.step() == {}
    for number, request in enumerate(requests):
        alone = RunningBatch(frozen, slots=1)
        alone.admit(request)
        assert made[number] == [alone.step()[0].id for _ in range(lengths[number])]


def test_the_slots_grow_with_what_is_in_them(model: Decoder) -> None:
    frozen, generator = FrozenDecoder(model), torch.Generator().manual_seed(3)
    texts = [torch.randint(97, (length,), generator=generator) for length in (2, 5, 1, 3, 4, 2)]
    caches = [KVCache(model.config, 6, 64, dtype=frozen.dtype, device=frozen.device) for _ in range(2)]
    caches[1].reserve(6, 64)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(caching, "FIRST_ROWS", 1)
        patch.setattr(caching, "FIRST_SIZE", 2)
        hidden = [[added(frozen, cache, [text]) for text in texts] for cache in caches]
        hidden = [
            [*rows, *(read_tokens(frozen, cache, torch.arange(6)) for _ in range(30))]
            for rows, cache in zip(hidden, caches, strict=True)
        ]
    for grown, whole in zip(*hidden, strict=True):
        torch.testing.assert_close(grown, whole, atol=0, rtol=0)


def test_more_prompts_than_slots_are_continued_as_rows_leave(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = generate(model, PROMPTS, GREEDY, end_ids=(96,))
    monkeypatch.setattr(generating, "MOST_ROWS", 2)
    assert generate(model, PROMPTS, GREEDY, end_ids=(96,)) == expected


def test_a_long_prompt_beside_a_short_one_costs_no_padding() -> None:
    batch = RunningBatch(FrozenDecoder(decoder(small())), slots=3)
    for prompt in ([1] * 50, [2], [3, 4]):
        batch.admit(Request(prompt, 0.0, 1.0, [0]))
    batch.step()
    assert batch.tokens_read == 50 + 1 + 2
    batch.release(0)
    batch.step()
    assert batch.tokens_read == 53 + 2


def test_prompts_are_joined_up_to_a_number_of_tokens_and_longer_ones_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[int]] = []

    def counted(model: FrozenDecoder, readings: list[Reading], sizes: list[int]) -> torch.Tensor:
        passes.append(sizes)
        return read_prompts(model, readings, sizes)

    frozen = FrozenDecoder(decoder(small()))
    expected = generate(frozen, PROMPTS, GREEDY, end_ids=(96,))
    monkeypatch.setattr(running_batch, "read_prompts", counted)
    batch = RunningBatch(frozen, slots=4, pace=8)
    made: list[list[int]] = [[] for _ in PROMPTS]
    for prompt in PROMPTS:
        batch.admit(Request(prompt, 0.0, 1.0, [0]))
    for _ in range(20):
        for number, drawn in batch.step().items():
            made[number].append(drawn.id)
    assert passes == [[5, 1, 2], [8], [2, 2]], "a prompt that fits into a step is not cut, and no prompt is overtaken"
    assert [ids[: len(whole)] for ids, whole in zip(made, expected, strict=True)] == expected


def test_a_row_that_is_released_before_it_was_read_leaves_nothing() -> None:
    batch = RunningBatch(FrozenDecoder(decoder(small())), slots=2)
    (kept,), (gone,) = batch.admit(Request([1, 2], 0.0, 1.0, [0])), batch.admit(Request([3], 0.0, 1.0, [0]))
    batch.release(gone)
    assert list(batch.step()) == [kept]
    batch.release(kept)
    assert batch.step() == {}
    assert batch.tokens_read == 2


def test_a_prompt_and_its_continuation_must_fit_into_the_context() -> None:
    with pytest.raises(ConfigError, match="at most 4 fit"):
        generate(decoder(small()), [[1] * 60], Sampling(5), end_ids=(96,))


def test_sampling_is_reproducible_and_follows_the_seed() -> None:
    model = decoder(small())
    draws = [generate(model, [[1, 2]], Sampling(20, 1.0, 1.0, seed), end_ids=(NEVER,)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_generation_ends_at_the_end_of_the_document_or_where_it_is_stopped() -> None:
    model = decoder(small())
    (whole,) = generate(model, [[1, 2]], Sampling(20, 1.0, 1.0), end_ids=(NEVER,))
    end = next(at for at in range(1, 20) if whole[at] not in whole[:at])
    assert generate(model, [[1, 2]], Sampling(20, 1.0, 1.0), end_ids=(whole[end],)) == [whole[: end + 1]]
    stopped = generate(model, [[1, 2]], Sampling(20, 1.0, 1.0), end_ids=(NEVER,), is_stopped=lambda ids: len(ids) == 7)
    assert stopped == [whole[:7]]


def test_a_small_top_p_always_takes_the_most_likely_token() -> None:
    model = decoder(small())
    greedy = generate(model, [[1, 2]], GREEDY, end_ids=(96,))
    assert generate(model, [[1, 2]], Sampling(12, temperature=1.0, top_p=1e-6), end_ids=(96,)) == greedy


CHOOSERS = pytest.mark.parametrize("choose", [by_histogram, by_sorting])
Chooser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def nucleus_probabilities(logits_V: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """Return the distribution that is drawn from. Source: Holtzman et al. 2019, arXiv:1904.09751, section 3.1."""
    probabilities_V = torch.softmax(logits_V / temperature, dim=-1)
    if top_p < 1:
        sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
        outside_V = sorted_V.cumsum(0) - sorted_V >= top_p
        probabilities_V = probabilities_V.index_fill(0, order_V[outside_V], 0.0)
        probabilities_V /= probabilities_V.sum()
    return probabilities_V


@CHOOSERS
@pytest.mark.parametrize(("top_p", "nucleus"), [(0.4, {1}), (0.6, {1, 2}), (0.85, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_only_the_nucleus_is_drawn_from(choose: Chooser, top_p: float, nucleus: set[int]) -> None:
    logits = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
    drawn = choose(logits.expand(100, -1), torch.full((100,), top_p), torch.arange(100) / 100)
    assert set(drawn.tolist()) == nucleus


@CHOOSERS
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.001, 1.0, 20.0])
def test_draws_have_the_reference_distribution(choose: Chooser, top_p: float, spread: float) -> None:
    """A fine grid of random numbers gives each token its share to the width of the grid."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)) * spread
    logits[10:14] = logits.max()  # equally likely tokens: the first ones are in the nucleus
    grid = (torch.arange(4000) + 0.5) / 4000
    drawn = torch.cat([choose(logits.expand(500, -1), torch.full((500,), top_p), part) for part in grid.split(500)])
    shares = drawn.bincount(minlength=50) / 4000
    expected = nucleus_probabilities(logits, temperature=1.0, top_p=top_p)
    torch.testing.assert_close(shares, expected, atol=1.01 / 4000, rtol=0)


@pytest.mark.parametrize("ids", [50, 256, 700])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_draws_from_all_ids_have_the_reference_distribution(spread: float, ids: int) -> None:
    logits = torch.randn(ids, generator=torch.Generator().manual_seed(1)) * spread
    logits[-3:] = -torch.inf
    grid = (torch.arange(4000) + 0.5) / 4000
    ones = torch.ones(500)
    drawn, log_probs = map(
        torch.cat, zip(*(draw_scored(logits.expand(500, -1), ones, part) for part in grid.split(500)), strict=True)
    )
    torch.testing.assert_close(log_probs, logits.log_softmax(-1)[drawn], atol=1e-5, rtol=1e-6)
    shares = drawn.bincount(minlength=ids) / 4000
    torch.testing.assert_close(shares, logits.softmax(-1), atol=1.01 / 4000, rtol=0)
    last, _ = draw_scored(logits[None], torch.ones(1), torch.ones(1))
    assert int(last) < ids - 3, "rounding never draws what is impossible"


@pytest.mark.parametrize("spread", [0.4, 4.0])
def test_a_draw_of_a_large_vocabulary_equals_the_full_sort(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(24, 65_536, generator=generator) * spread
    uniform, top_p = torch.rand(24, generator=generator), torch.tensor([0.5, 0.95, 1.0]).repeat(8)
    expected = by_sorting(logits, top_p, uniform)
    sizes = []
    sort = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda self, **how: sizes.append(self.numel()) or sort(self, **how))
    drawn = draw(logits, torch.ones(24), top_p, uniform)
    chances = logits.softmax(-1)
    mine, reference = (chances.gather(1, ids[:, None])[:, 0] for ids in (drawn, expected))
    torch.testing.assert_close(mine, reference, rtol=2e-3, atol=0)  # neighbors in the order, up to rounding
    if spread > 1:  # else so many are almost equally likely that rounding decides
        assert (drawn == expected).float().mean() >= 0.9
    assert 24 <= len(sizes) <= 48
    assert max(sizes) < 65_536 / 50


def test_each_row_has_its_own_temperature() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
    uniform = torch.tensor([0.99, 0.2, 0.99, 0.7])
    temperatures, top_p = torch.tensor([0.0, 0.5, 0.5, 2.0]), torch.tensor([1.0, 1.0, 0.7, 0.9])
    together = draw(logits, temperatures, top_p, uniform)
    assert together[0] == logits[0].argmax()
    rows = zip(logits, temperatures, top_p, uniform, strict=True)
    assert together.tolist() == [int(draw(*(value[None] for value in row))) for row in rows]


@pytest.mark.parametrize("vocabulary", [97, 1024])
def test_the_most_likely_token_is_the_first_of_equals(vocabulary: int) -> None:
    logits = torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(6)).round()
    first = [row.tolist().index(row.max()) for row in logits]
    assert most_likely(logits).tolist() == first
    assert len({*first}) > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_refused(temperature: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        draw(torch.full((1, 9), float("nan")), torch.tensor([temperature]), torch.ones(1), torch.zeros(1))


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 16, 64, 65])
def test_a_packed_matrix_multiplies_any_number_of_rows(rows: int) -> None:
    generator = torch.Generator().manual_seed(4)
    weight, x = torch.randn(70, 48, generator=generator), torch.randn(rows, 48, generator=generator)
    matrix = PackedMatrix(weight)
    torch.testing.assert_close(matrix(x), x @ weight.T, atol=1e-5, rtol=1e-5)
    matrix(x[:1].expand(4, -1).contiguous())  # from now on the packed weights are there
    torch.testing.assert_close(matrix(x), x @ weight.T, atol=1e-5, rtol=1e-5)


def test_a_packed_matrix_is_compiled_for_few_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled stays, half a megabyte each."""
    product = torch.ops.mkldnn._linear_pointwise
    compiled = set()

    def counted(x_XK: torch.Tensor, *rest: object) -> torch.Tensor:
        compiled.add(len(x_XK))
        return product(x_XK, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    monkeypatch.setattr(matrices, "SMALL", 0)
    matrix = PackedMatrix(torch.randn(70, 48))
    for rows in range(1, 300):
        assert len(matrix(torch.randn(rows, 48))) == rows
    assert len(compiled) <= 20


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("width", [64, 72])  # torch's kernel reads 16 inputs at once
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 9, 100])
def test_int8_weights_are_within_half_a_step(rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(70, width, generator=generator)
    x = torch.randn(rows, width, generator=generator).bfloat16().float()
    matrix = Int8Matrix(weight)
    restored = matrix.rows(torch.arange(70))
    assert ((restored - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 * 1.0001).all()
    torch.testing.assert_close(matrix(x), x @ restored.T, atol=0.02, rtol=0.008)  # the product has 8 bits


def test_products_are_in_bfloat16_only_where_the_cpu_has_it(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without it multiplies bfloat16 at a third of the speed of float32."""
    packed, dtypes = matrices.packed, set()

    def seen(weight: torch.Tensor) -> matrices.ByWeight:
        dtypes.add(weight.dtype)
        return packed(weight)

    monkeypatch.setattr(matrices, "packed", seen)
    for weights in ("bfloat16", "int8"):
        FrozenDecoder(decoder(small(width=64)), weights).head(torch.randn(16, 64))
    assert dtypes == {torch.float32 if cpu == "avx2" else torch.bfloat16}


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_smaller_weights_come_close(weights: str) -> None:
    model = decoder(small(width=64))
    texts = [torch.randint(97, (40,), generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    hidden = []
    for kind in ("float32", weights):
        frozen = FrozenDecoder(model, kind)
        cache = KVCache(model.config, 5, 41, dtype=frozen.dtype, device=frozen.device)
        with torch.no_grad():
            added(frozen, cache, texts)
            hidden.append(frozen.head(read_tokens(frozen, cache, torch.arange(5))).float())
    assert torch.nn.functional.cosine_similarity(*hidden, dim=-1).min() > 0.99
    assert not torch.equal(*hidden)
