"""The word judge on sentences of public passages, verbatim and with one negation more or less.

    python benchmarks/word_judge.py XQUAD.json PUBMEDQA.json benchmarks/results/word_judge.json

The premise is always the whole passage. Verbatim claims are its sentences. Forged claims are its sentences with "not"
put behind the first auxiliary, or taken away from there. `shortened` and `shortened_forged` are the same without every
sixth word, unless it is a negation: no quotes. `any_negation` is a plain word judge for comparison: it asks
for a negation anywhere in the premise if the claim has one, and for none if it has none. Sentences are split at a full
stop before a capital letter, not as the judge splits them.

XQuAD is `xquad.en.json` of Artetxe et al. 2020, arXiv:1910.11856. PubMedQA is `ori_pqal.json` of Jin et al. 2019,
arXiv:1909.06146; no rule of the judge was chosen on it. Its authors' conclusions (LONG_ANSWER) are judged by the
abstracts that they conclude, and by those of other studies.
"""

import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem.grounding.support import Entailment, WordCover

SHARE = 0.75
AUXILIARY = re.compile(
    r"\b(is|are|was|were|has|have|had|can|could|will|would|may|might|must|should|does|do|did)(n['’]t\b|not\b|\s+not\b|\b)",
    re.IGNORECASE,
)
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
WORD = re.compile(r"\w+")
NEGATIONS = frozenset(["not", "no", "never", "none", "neither", "nor", "cannot", "without"])
EMPTY_WORDS = """
a an the and or but of in on at to for with by from as is are was were be been being it its this that these those
he she they we you i his her their our your not no do does did has have had will would can could may might
"""
EMPTY = frozenset(EMPTY_WORDS.split())


class AnyNegation:
    """A word judge that compares whether there is any negation in the premise and in the claim."""

    name = "any_negation"

    def entails(self, premise: str, claim: str) -> bool:
        known, found = set(self._words(premise)), self._words(claim)
        content = [word for word in found if word not in EMPTY]
        if not content or any(word not in known for word in found if word[0].isdigit()):
            return False
        if NEGATIONS.isdisjoint(found) != NEGATIONS.isdisjoint(known):
            return False
        return sum(word in known for word in content) >= SHARE * len(content)

    def _words(self, text: str) -> list[str]:
        return WORD.findall(text.lower().replace("’", "'").replace("n't", " not"))


def main() -> None:
    """Judge both data sets, and write the shares."""
    passages = xquad(Path(sys.argv[1]))
    studies = list(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")).values())
    abstracts = ["\n".join(study["CONTEXTS"]) for study in studies]
    result = {
        "command": "python benchmarks/word_judge.py xquad.en.json ori_pqal.json " + sys.argv[3],
        "word_share": SHARE,
        "xquad": compare(passages),
        "pubmedqa": compare(abstracts) | {"conclusions": conclusions(studies, abstracts)},
    }
    Path(sys.argv[3]).write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False, indent=1))


def xquad(path: Path) -> list[str]:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [paragraph["context"] for article in data for paragraph in article["paragraphs"]]


def compare(passages: Sequence[str]) -> dict[str, Any]:
    """Return the share of verbatim and of forged claims that each judge takes as supported."""
    verbatim = [(passage, sentence) for passage in passages for sentence in END.split(passage) if sentence.strip()]
    forged = [(passage, claim) for passage, sentence in verbatim if (claim := negate(sentence)) is not None]
    pairs = {
        "verbatim": verbatim,
        "forged": forged,
        "shortened": [(passage, shorten(claim)) for passage, claim in verbatim],
        "shortened_forged": [(passage, shorten(claim)) for passage, claim in forged],
    }
    counts = {"passages": len(passages), "verbatim_claims": len(verbatim), "forged_claims": len(forged)}
    return counts | {judge.name: shares(judge, pairs) for judge in judges()}


def judges() -> tuple[Entailment, ...]:
    return AnyNegation(), WordCover(SHARE)


def negate(sentence: str) -> str | None:
    """Put "not" behind the first auxiliary, or take it away; None if there is no auxiliary.

    >>> negate("It is red."), negate("It isn't red."), negate("It goes.")
    ('It is not red.', 'It is red.', None)
    """
    match = AUXILIARY.search(sentence)
    if match is None:
        return None
    added = "" if match[2] else " not"
    return sentence[: match.end(1)] + added + sentence[match.end() :]


def shorten(sentence: str) -> str:
    """Leave out every sixth word, unless it is a negation.

    >>> shorten("The old tower is very high and not blue.")
    'The old tower is very and not blue.'
    """
    return " ".join(
        word for place, word in enumerate(sentence.split(), 1) if place % 6 or re.search("n['’]t|^no|ne|without", word)
    )


def shares(judge: Entailment, pairs: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, float]:
    """Return the share of each kind of claim that is supported, and the CPU time of a claim."""
    started = time.process_time()
    result = {f"{kind}_supported": share(judge, each) for kind, each in pairs.items()}
    judged = sum(map(len, pairs.values()))
    return result | {"ms_per_claim": round(1000 * (time.process_time() - started) / judged, 3)}


def share(judge: Entailment, pairs: Iterable[tuple[str, str]]) -> float:
    supported = [judge.entails(premise, claim) for premise, claim in pairs]
    return round(sum(supported) / len(supported), 4)


def conclusions(studies: Sequence[dict[str, Any]], abstracts: Sequence[str]) -> dict[str, Any]:
    """Return the share of conclusions' sentences supported by their own abstract, and by the next study's."""
    claims = [END.split(study["LONG_ANSWER"]) for study in studies]
    own = [(abstract, claim) for abstract, each in zip(abstracts, claims, strict=True) for claim in each]
    others = [*abstracts[1:], abstracts[0]]
    other = [(abstract, claim) for abstract, each in zip(others, claims, strict=True) for claim in each]
    return {"claims": len(own)} | {
        judge.name: {"own_abstract": share(judge, own), "other_abstract": share(judge, other)} for judge in judges()
    }


if __name__ == "__main__":
    main()
