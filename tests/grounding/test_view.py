"""Rankings: BM25 and cosine as a naive computation gives them, ties and all."""

import math
from collections import Counter
from operator import mul
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.grounding.corpora import KEY, HashEncoder, corpus, document

from ibidem.errors import DataError
from ibidem.grounding.segment import Segment, make_entry, write_segment
from ibidem.grounding.store import Indexed
from ibidem.grounding.terms import hash_of, terms
from ibidem.grounding.view import RANK_WINDOW, RRF_K, Part, View, best, quantize


def view_of(documents: list[Indexed], folder: Path, encoder: HashEncoder | None = None) -> View:
    entries = [make_entry(each, KEY, encoder) for each in sorted(documents)]
    write_segment(folder, entries)
    return View([Part(Segment(folder), range(len(entries)))])


def asked(text: str) -> list[tuple[int, int]]:
    return [(hash_of(term, KEY), number) for term, number in sorted(Counter(terms(text)).items())]


def chunks_of(documents: list[Indexed]) -> list[str]:
    return [each.text[span.start : span.end] for each in sorted(documents) for span in each.chunks]


def naive_bm25(query: str, chunks: list[str]) -> list[float]:
    counted = [Counter(terms(chunk)) for chunk in chunks]
    mean = sum(counts.total() for counts in counted) / len(counted)
    scores = [0.0] * len(chunks)
    for term, repeats in Counter(terms(query)).items():
        df = sum(term in counts for counts in counted)
        idf = math.log(1 + (len(chunks) - df + 0.5) / (df + 0.5))
        for number, counts in enumerate(counted):
            tf = counts[term]
            norm = 1.2 * (1 - 0.75 + 0.75 * counts.total() / mean)
            scores[number] += repeats * idf * tf * 2.2 / (tf + norm)
    return scores


@pytest.mark.parametrize("query", ["salary valve", "the the of", "pump pump budget", "nothing", ""])
def test_bm25_is_the_formula(query: str, tmp_path: Path) -> None:
    documents = corpus(7, 40)
    view, expected = view_of(documents, tmp_path / "segment"), naive_bm25(query, chunks_of(documents))
    assert np.allclose(view.bm25(asked(query)), expected, rtol=1e-6, atol=1e-12)
    found = [hit.score for hit in view.search(asked(query), None, 1000)]
    assert found == sorted(found, reverse=True)
    assert len(found) == sum(score > 0 for score in expected)


def test_equal_scores_are_in_the_order_of_path_and_start(tmp_path: Path) -> None:
    documents = [document(f"{name}.md", "valve", "valve", "pump") for name in "cab"]
    hits = view_of(documents, tmp_path / "segment").search(asked("valve"), None, 10)
    assert [(hit.chunk.path, hit.chunk.start) for hit in hits] == [(f"{n}.md", s) for n in "abc" for s in (0, 7)]
    assert len({hit.score for hit in hits}) == 1


def naive_nearest(vectors_ND: np.ndarray, query_D: np.ndarray) -> list[int]:
    query = query_D.tolist()
    cosines = [float(np.float32(sum(map(mul, vector, query)))) for vector in vectors_ND.tolist()]
    return sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))


@pytest.mark.parametrize(("width", "coarse"), [(1, True), (7, True), (8, True), (24, False), (65, False)])
def test_the_nearest_are_exactly_those_of_a_float64_loop(width: int, coarse: bool, tmp_path: Path) -> None:
    encoder = HashEncoder(width, coarse=coarse)
    texts = [f"text {number % 150}" for number in range(400)]  # most vectors occur more than once
    view = view_of([document(f"{n:03d}.md", text) for n, text in enumerate(texts)], tmp_path / "segment", encoder)
    vectors_ND = encoder.encode(texts)
    for query in ("text 3", "another", "a third"):
        query_D = encoder.encode([query])[0]
        expected = naive_nearest(vectors_ND, query_D)
        for window in (1, 5, 100, 400):
            assert view.nearest(query_D, window).tolist() == expected[:window]


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e6])
def test_bounds_hold_for_vectors_of_any_length(scale: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors_ND = (rng.standard_normal((300, 16)) * scale * rng.exponential(size=(300, 1))).astype(np.float32)

    class Given(HashEncoder):
        def encode(self, texts):
            return vectors_ND[[int(text) for text in texts]]

    documents = [document(f"{number:03d}.md", str(number)) for number in range(300)]
    view = view_of(documents, tmp_path / "segment", Given(16))
    for query_D in (vectors_ND[5], rng.standard_normal(16).astype(np.float32), np.zeros(16, np.float32)):
        assert view.nearest(query_D, 20).tolist() == naive_nearest(vectors_ND, query_D)[:20]


def test_two_rankings_are_joined_by_reciprocal_ranks(tmp_path: Path) -> None:
    encoder, documents = HashEncoder(), corpus(5, 120)
    view, chunks = view_of(documents, tmp_path / "segment", encoder), chunks_of(documents)
    assert len(chunks) > 2 * RANK_WINDOW
    query = "salary valve index"
    words = view.bm25(asked(query))
    by_words = [row for row in sorted(range(len(chunks)), key=lambda row: (-words[row], row)) if words[row] > 0]
    by_vector = naive_nearest(encoder.encode(chunks), encoder.encode([query])[0])
    for k in (1, 20, 150, 1000):
        scores = dict.fromkeys(range(len(chunks)), 0.0)
        for ranking in (by_words, by_vector):
            for rank, row in enumerate(ranking[: max(k, RANK_WINDOW)], 1):
                scores[row] += 1 / (RRF_K + rank)
        expected = sorted((row for row in scores if scores[row]), key=lambda row: (-scores[row], row))[:k]
        hits = view.search(asked(query), encoder.encode([query])[0], k)
        assert [hit.chunk.text for hit in hits] == [chunks[row] for row in expected]
        assert [hit.score for hit in hits] == [scores[row] for row in expected]


@given(st.lists(st.integers(-3, 3).map(float), max_size=300), st.integers(0, 40), st.sampled_from([-math.inf, 0.0]))
@settings(deadline=None)
def test_the_best_rows_are_those_of_a_sort(scores: list[float], k: int, above: float) -> None:
    expected = [row for row in sorted(range(len(scores)), key=lambda row: (-scores[row], row)) if scores[row] > above]
    assert best(np.array(scores), k, above).tolist() == expected[:k]


def test_codes_of_a_row_do_not_depend_on_where_it_is() -> None:
    vectors_ND = np.random.default_rng(1).standard_normal((50, 33)).astype(np.float32)
    whole = quantize(vectors_ND)
    for place in (0, 17, 49):
        for part, alone in zip(whole, quantize(vectors_ND[place : place + 1]), strict=True):
            assert np.array_equal(part[place : place + 1], alone)


def test_a_text_that_appears_twice_has_two_ids_and_twins_elsewhere_have_others(tmp_path: Path) -> None:
    documents = [document("a.md", "same", "same"), document("b.md", "same")]
    view = view_of(documents, tmp_path / "segment")
    hits = view.search(asked("same"), None, 10)
    assert len({hit.chunk.id for hit in hits}) == 3
    assert [view.find(hit.chunk.id) for hit in hits] == [hit.chunk for hit in hits]
    assert make_entry(documents[0], b"x" * 32, None).ids != make_entry(documents[0], KEY, None).ids


@pytest.mark.parametrize("vector", [[1.0] * 23, [1.0] * 25, [math.nan] * 24, [[1.0] * 24]])
def test_a_vector_of_another_encoder_is_refused(vector: list[float], tmp_path: Path) -> None:
    view = view_of([document("a.md", "valve")], tmp_path / "segment", HashEncoder())
    with pytest.raises(DataError, match="the query's vector is not 24 finite numbers"):
        view.search([], np.array(vector, np.float32), 3)


def test_rows_that_int8_codes_would_misplace_are_ranked_exactly(tmp_path: Path) -> None:
    """Vectors so close that their order is lost in int8, and that of the whole window with it."""
    rng = np.random.default_rng(3)
    center_D = rng.standard_normal(48)
    vectors_ND = (center_D + 0.002 * rng.standard_normal((500, 48))).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)

    class Given(HashEncoder):
        def encode(self, texts):
            return vectors_ND[[int(text) for text in texts]]

    view = view_of([document(f"{n:03d}.md", str(n)) for n in range(500)], tmp_path / "segment", Given(48))
    for window in (1, 7, 60):
        assert view.nearest(vectors_ND[9], window).tolist() == naive_nearest(vectors_ND, vectors_ND[9])[:window]
