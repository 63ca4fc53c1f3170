"""Grounding heads on XQuAD, which none was trained on: is the right answer told from another of its kind?

class X    a question, the span of its right answer, and each other answer of the same passage that is of the same kind:
           year, number, capitalized name, other (`cloze.kind_of`); answers that contain one another are left out
class B    the right passage has to be the first of 240: BM25 alone, and reranked by the head as `ground search --head`

    words         question terms in the span's sentence, counted; nothing else
    proximity     sum of idf x exp(-distance / 12) of the question's terms around the span: untrained
    late          late interaction with the encoder's token states, and what the question word asks for: the untrained
                  prior of a head, whose eight weights were chosen on the articles of even number (`even`)
    head          the same, trained on cloze questions of other texts without labels

A pair that ties counts one half. Rates are means over questions; their bounds are percentile bootstraps over passages,
since the questions of a passage are not independent. `all` is the share of the questions whose right answer is above
every wrong one, with its exact bound. The last choice of the prior's weights was made on even articles alone; features,
earlier weights and the weight decay were chosen with the figures of all articles in sight, so `odd` is no untouched
column, and all rates of `late` and `head` are optimistic.

    python benchmarks/grounding_head.py XQUAD.json benchmarks/results/grounding_head.json HEAD_RUN [HEAD_RUN ...]
"""

import json
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from ibidem import artifacts
from ibidem.grounding.alignment import Frequencies, frequencies, proximity, sentence_of
from ibidem.grounding.cloze import is_same, kind_of
from ibidem.grounding.head import LATE, Head, collate, new_head, open_head, read
from ibidem.grounding.rerank import reranked
from ibidem.grounding.store import Chunk, Hit
from ibidem.grounding.terms import terms
from ibidem.grounding.view import K1, B
from ibidem.runs import newest
from ibidem.statistics import lower_bound

RESAMPLES, ASKED, TOP = 10_000, 300, 20
"""Of the bootstrap; questions of class B, and passages that the head reorders."""
COMMAND = (
    "python benchmarks/grounding_head.py XQUAD.json benchmarks/results/grounding_head.json HEAD_RUN [HEAD_RUN ...]"
)
Span = tuple[int, int]
Scores = list[np.ndarray]


class Asked(NamedTuple):
    """A question of class X."""

    question: str
    passage: int
    spans: list[Span]
    """The right one first."""
    kind: str
    is_even: bool


def main() -> None:
    torch.set_num_threads(1)
    articles = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["data"]
    passages = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    asked, known = class_x(articles), frequencies(passages)
    result: dict[str, Any] = {
        "command": COMMAND,
        "machine": f"{platform.machine()}, one thread",
        "questions": len(asked),
        "pairs": sum(len(each.spans) - 1 for each in asked),
        "kinds": dict(Counter(each.kind for each in asked)),
    }
    near = [proximity(each.question, passages[each.passage], each.spans, known) for each in asked]
    result["words"] = rates([words(each, passages[each.passage]) for each in asked], asked, near)
    result["proximity"] = rates(near, asked, near)
    found = class_b(articles, passages, known)
    result["class B"] = {"questions": len(found), "BM25": first([(each.right, each.hits) for each in found])}
    for place in map(Path, sys.argv[3:]):
        head, before = open_head(place), time.process_time()
        again = [(each.right, reranked(each.question, each.hits, head, known)) for each in found]
        result[place.name] = {
            "trained with": artifacts.load(newest(place)).config["train"]["training"],
            "encoder": head.encoder.digest,
            "late": rates(span_scores(head, asked, passages, known, is_trained=False), asked, near),
            "head": rates(span_scores(head, asked, passages, known, is_trained=True), asked, near),
            "class B, reranked": first(again),
            "cpu_s": round(time.process_time() - before),
        }
    print(json.dumps(result, indent=1))
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def class_x(articles: Sequence[Any]) -> list[Asked]:
    """Return the questions that have a wrong answer of the same kind in their passage."""
    found = []
    paragraphs = [(number, paragraph) for number, article in enumerate(articles) for paragraph in article["paragraphs"]]
    for place, (number, paragraph) in enumerate(paragraphs):
        answers = [(row["question"], row["answers"][0]) for row in paragraph["qas"]]
        for question, right in answers:
            wrong: dict[str, Span] = {}
            for _, other in answers:
                if kind_of(other["text"]) == kind_of(right["text"]) and not any(
                    is_same(other["text"], text) for text in (right["text"], *wrong)
                ):
                    wrong[other["text"]] = span(other)
            if wrong:
                spans = [span(right), *wrong.values()]
                found.append(Asked(question, place, spans, kind_of(right["text"]), number % 2 == 0))
    return found


def span(answer: dict[str, Any]) -> Span:
    return answer["answer_start"], answer["answer_start"] + len(answer["text"])


def words(asked: Asked, passage: str) -> np.ndarray:
    """Return how many of the question's terms are in the sentence of each span."""
    wanted = set(terms(asked.question))
    return np.array([len(wanted & set(terms(passage[slice(*sentence_of(passage, each))]))) for each in asked.spans])


def span_scores(
    head: Head, asked: Sequence[Asked], passages: Sequence[str], known: Frequencies, *, is_trained: bool
) -> Scores:
    """Return the scores of the spans of each question, by a head or by its untrained prior."""
    model = head.model if is_trained else new_head(head.encoder.width, LATE).eval()
    found = []
    for each in asked:
        batch = collate([read(each.question, passages[each.passage], each.spans, known, head.states)])
        with torch.inference_mode():
            found.append(model(batch).numpy())
    return found


def rates(scores: Scores, asked: Sequence[Asked], near: Scores) -> dict[str, Any]:
    """Return the rates of a system, and its paired gain over proximity."""
    halves = {"everything": None, "even": True, "odd": False}
    kept = {name: [n for n, each in enumerate(asked) if half in (None, each.is_even)] for name, half in halves.items()}
    kept |= {kind: [n for n, each in enumerate(asked) if each.kind == kind] for kind in sorted({e.kind for e in asked})}
    return {name: rate(scores, asked, near, numbers) for name, numbers in kept.items()}


def rate(scores: Scores, asked: Sequence[Asked], near: Scores, numbers: Sequence[int]) -> dict[str, Any]:
    wins, theirs = ([won(system[number]) for number in numbers] for system in (scores, near))
    above = sum(bool((scores[number][0] > scores[number][1:]).all()) for number in numbers)
    places = [asked[number].passage for number in numbers]
    gains = [mine - other for mine, other in zip(wins, theirs, strict=True)]
    return {
        "questions": len(numbers),
        "wins": round(float(np.mean(wins)), 4),
        "wins_at_least": round(clustered_bound(wins, places), 4),
        "gain_over_proximity": round(float(np.mean(gains)), 4),
        "gain_at_least": round(clustered_bound(gains, places), 4),
        "all": round(above / len(numbers), 4),
        "all_at_least": round(lower_bound(above, len(numbers)), 4),
    }


def won(scores_S: np.ndarray) -> float:
    right, wrong = scores_S[0], scores_S[1:]
    return float(((right > wrong) + (right == wrong) / 2).mean())


def clustered_bound(values: Sequence[float], places: Sequence[int]) -> float:
    """Return the lower 95 % bound of a mean: a percentile bootstrap over passages."""
    sums, counts = (np.bincount(places, weights) for weights in (values, np.ones(len(values))))
    sums, counts = sums[counts > 0], counts[counts > 0]
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    return float(np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), 0.05))


class Found(NamedTuple):
    """A question of class B."""

    question: str
    right: int
    hits: list[Hit]
    """The best passages by BM25."""


def class_b(articles: Sequence[Any], passages: Sequence[str], known: Frequencies) -> list[Found]:
    """Return questions, spread over all, with the passages that BM25 finds for them."""
    counts = [Counter(terms(passage)) for passage in passages]
    mean = sum(count.total() for count in counts) / len(counts)
    chunks = [Chunk(f"{place:032x}", f"{place}.txt", (), 0, len(text), text) for place, text in enumerate(passages)]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    asked = [(row["question"], place) for place, paragraph in enumerate(paragraphs) for row in paragraph["qas"]]
    found = []
    for question, right in asked[:: max(1, len(asked) // ASKED)][:ASKED]:
        scores = [bm25(question, count, mean, known) for count in counts]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])[:TOP]
        found.append(Found(question, right, [Hit(chunks[place], scores[place]) for place in order]))
    return found


def bm25(question: str, count: Counter[str], mean: float, known: Frequencies) -> float:
    norm = K1 * (1 - B + B * count.total() / mean)
    return math.fsum(
        known.idf(term) * count[term] * (K1 + 1) / (count[term] + norm) for term in terms(question) if term in count
    )


def first(found: Sequence[tuple[int, Sequence[Hit]]]) -> dict[str, float]:
    """Return how often the right passage is the first, with its exact bound."""
    right = sum(hits[0].chunk.path == f"{place}.txt" for place, hits in found)
    return {"first": round(right / len(found), 4), "first_at_least": round(lower_bound(right, len(found)), 4)}


if __name__ == "__main__":
    main()
