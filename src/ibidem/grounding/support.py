"""Does a text support a claim? Three entailment judges, and their calibration on people's labels."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ibidem import artifacts, jsonl
from ibidem.errors import ArtifactError, ConfigError, DataError
from ibidem.grounding.alignment import frequencies
from ibidem.grounding.sentences import plain, split_sentences, words
from ibidem.inference.model_folder import digest_of_model_folder
from ibidem.runs import newest
from ibidem.statistics import CONFIDENCE, cohen_kappa, lower_bound

if TYPE_CHECKING:
    from ibidem.grounding.head import Head

WORDS = "words"
MOST_LABELS = 100_000  # exact bounds of more would take minutes
LONGEST_GAP = 2  # content words in a row that the premise may lack; more would be a statement of their own
_EMPTY_WORDS = """
a an the and or but of in on at to for with by from as is are was were be been being it its this that these
those he she they we you i his her their our your do does did has have had will would can could may
might
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_NEGATION_WORDS = """
not no never none neither nor without nobody nothing nowhere hardly barely scarcely seldom rarely unless false untrue
unlikely fail fails failed failing lack lacks lacked lacking
"""
_NEGATIONS = frozenset(_NEGATION_WORDS.split())
_OPPOSITES = ("un", "in", "im", "il", "ir", "dis", "non")
_POWERS = frozenset(["hundred", "thousand", "million", "billion", "trillion"])
_SIGNS = frozenset("<>=≤≥≠±")
_ENDING = re.compile(r"(?:ing|ed|es|s|e)$")
_TWO_SCRIPTS = re.compile(
    r"(?=.*[a-z]).*[\u0370-\u058f\u13a0-\u13fd]"
)  # Greek, Cyrillic, Armenian, Cherokee look alike

Words = tuple[str, ...]


class Entailment(Protocol):
    """Decides whether a premise supports a claim."""

    name: str
    """Its name in results."""

    def entails(self, premise: str, claim: str) -> bool:
        """Return whether the premise supports the claim."""


class WordCover:
    """A claim counts as supported if the premise contains it, or its content words, numbers and negations.

    Cheap and strict; no understanding.
    """

    def __init__(self, share: float) -> None:
        self.name = f"{WORDS} >= {share:g}"
        self._share = share

    def entails(self, premise: str, claim: str) -> bool:
        """Return whether every sentence of the claim is a quote, or is covered by sentences that negate the same words.

        A quote has all words of the claim in a row; a part of a sentence is none if it cuts a negation away. Otherwise
        the share of content words must occur, no three in a row may be missing, all numbers must occur, and the
        sentences that cover the claim best must negate the same words.

        >>> cover = WordCover(0.75)
        >>> premise = "The tower is 330 m high. It can't move."
        >>> [cover.entails(premise, claim) for claim in ("It is 330 m high", "It is 300 m high", "The tower can move")]
        [True, False, False]
        """
        sentences = _sentences(premise)
        parts = [part for part in _sentences(claim, any_case=True) if not _EMPTY.issuperset(part)]
        if not parts or not all(any(map(_is_content, part)) for part in parts):
            return False
        return _is_quoted(words(claim), sentences) or all(
            _is_quoted(part, sentences) or self._is_covered(part, sentences) for part in parts
        )

    def _is_covered(self, claim: Words, sentences: Sequence[Words]) -> bool:
        known = frozenset(word for sentence in sentences for word in sentence)
        content = [word for word in claim if _is_content(word)]
        missing = [word for word in content if word not in known]
        if any(word not in known for word in claim if word in _SIGNS or _is_number(word)):
            return False
        if len(content) - len(missing) < self._share * len(content) or _longest_gap(content, known) > LONGEST_GAP:
            return False
        if any(_TWO_SCRIPTS.match(word) or _has_opposite(word, known) for word in missing):
            return False
        source = _source(frozenset(content), sentences)
        return _negated(claim) == sum(map(_negated, source), Counter())


@lru_cache(maxsize=256)
def _sentences(text: str, *, any_case: bool = False) -> tuple[Words, ...]:
    return tuple(words(sentence) for sentence in split_sentences(plain(text), any_case=any_case))


def _is_number(word: str) -> bool:
    return word in _POWERS or word.lstrip("-")[:1].isdigit()


def _is_content(word: str) -> bool:
    return word not in _EMPTY and word not in _NEGATIONS and word not in _SIGNS


def _is_quoted(claim: Words, sentences: Sequence[Words]) -> bool:
    """Return whether the claim's words occur in a row, and what is cut off its first and last sentence has no negation.

    >>> premise = [("it", "can", "not", "move"), ("it", "is", "red")]
    >>> _is_quoted(("move", "it", "is"), premise), _is_quoted(("it", "is"), premise)
    (False, True)
    """
    text = [word for sentence in sentences for word in sentence]
    ends = list(accumulate(map(len, sentences)))
    for start in range(len(text) - len(claim) + 1):
        end = start + len(claim)
        if text[start] == claim[0] and tuple(text[start:end]) == claim:
            opening = max((each for each in ends if each <= start), default=0)
            closing = min(each for each in ends if each >= end)
            if _NEGATIONS.isdisjoint(text[opening:start] + text[end:closing]):
                return True
    return False


def _longest_gap(content: Sequence[str], known: Collection[str]) -> int:
    """Return how many words in a row are unknown.

    >>> _longest_gap(["a", "x", "y", "b", "z"], {"a", "b"})
    2
    """
    return max(
        (len(list(run)) for is_missing, run in groupby(content, lambda word: word not in known) if is_missing),
        default=0,
    )


def _has_opposite(word: str, known: Collection[str]) -> bool:
    return any(
        f"{prefix}{word}" in known or (word.startswith(prefix) and word[len(prefix) :] in known)
        for prefix in _OPPOSITES
    )


def _source(content: frozenset[str], sentences: Sequence[Words]) -> list[Words]:
    """Return the sentences that a claim is taken from: always the one that covers most of what is left.

    Of several that cover as much, the one with the fewest other words counts.
    """
    left, source = content, []
    while sentences:
        best = max(sentences, key=lambda sentence: (len(left & set(sentence)), -len(set(sentence) - content)))
        if left.isdisjoint(best):
            break
        source.append(best)
        left -= set(best)
    return source


def _negated(sentence: Words) -> Counter[str]:
    """Return the stem of the content word after each negation.

    >>> sorted(_negated(("it", "does", "not", "move", "without", "power")).items())
    [('mov', 1), ('power', 1)]
    """
    found: Counter[str] = Counter()
    following = ""
    for word in reversed(sentence):
        if word in _NEGATIONS:
            found[_ENDING.sub("", following)] += 1
        elif _is_content(word):
            following = word
    return found


class HeadJudge:
    """A claim counts as supported if its words do, and a grounding head does not contradict.

    Words alone let "finished in 1983" pass if the passage has 1983, of something else. The head looks where each
    number, year and name stands, and at nothing else: negations and comparisons are left to the words. Terms are
    weighted by the sentences of the premise, so that the judgement depends on premise and claim alone.
    """

    def __init__(self, head: "Head", share: float) -> None:
        self.digest = head.digest
        self.name = f"head {head.digest[:23]} and {WORDS} >= {share:g}"
        self._head, self._words = head, WordCover(share)

    def entails(self, premise: str, claim: str) -> bool:
        """Return whether the words support the claim, and its margin reaches the head's threshold."""
        return self._words.entails(premise, claim) and self.margin(premise, claim) >= self._head.threshold

    def margin(self, premise: str, claim: str) -> float:
        """Return by how much a premise supports a claim, by the head alone; inf if there is nothing to compare."""
        return self._head.margin(claim, premise, frequencies(split_sentences(plain(premise))))


class InferenceModel:
    """A Hugging Face model for natural language inference in a local folder."""

    def __init__(self, path: Path) -> None:
        import torch
        from safetensors import SafetensorError

        try:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError:
            raise ConfigError("an entailment model needs transformers: pip install 'ibidem[huggingface]'") from None
        self.name = f"{path.name} {digest_of_model_folder(path)[:23]}"
        try:
            local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer = AutoTokenizer.from_pretrained(path, **local)
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(path, **local).eval()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"entailment {path}: {' '.join(str(error).split())[:200]}") from None
        labels = {str(name).lower(): index for index, name in self._model.config.id2label.items()}
        self._label = next((index for name, index in labels.items() if name.startswith("entail")), None)
        if self._label is None:
            raise ConfigError(f"entailment {path}: it has no label for entailment, only {', '.join(labels)}")
        self._torch = torch

    def entails(self, premise: str, claim: str) -> bool:
        """Return whether entailment is the most likely label."""
        longest = min(self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", 512))
        if len(self._tokenizer(claim)["input_ids"]) >= longest - 2:  # no room for the premise
            return False
        with self._torch.no_grad():
            row = self._tokenizer(premise, claim, truncation="only_first", return_tensors="pt")
            return int(self._model(**row).logits[0].argmax()) == int(self._label or 0)


def open_entailment(
    name: str, word_share: float, head_encoder: Path | None = None, principal: str | None = None
) -> Entailment:
    """Open the judge.

    Args:
        name: `words`, or the folder of a grounding head or of a Hugging Face model.
        word_share: of the words.
        head_encoder: what a head reads with; None: the model that its manifest names.
        principal: who opens a head; None: the user who runs the program.

    Raises:
        AccessDenied: the head was trained on private documents, and the principal is not among their readers.
        ConfigError: there is no such judge.
    """
    if name == WORDS:
        return WordCover(word_share)
    if not Path(name).is_dir():
        raise ConfigError(f"entailment {name!r}: neither {WORDS} nor the folder of a model")
    if _head(Path(name)) is not None:
        from ibidem.grounding.head import open_head

        return HeadJudge(open_head(Path(name), head_encoder, principal), word_share)
    if (newest(Path(name)) / artifacts.MANIFEST).exists():
        kind = artifacts.load(newest(Path(name))).kind
        raise ConfigError(f"entailment {name}: this is a {kind}; expected a grounding head or a Hugging Face model")
    return InferenceModel(Path(name))


def digest_of_entailment(name: str) -> str:
    """Return what identifies a judge: `words`, the digest of a head, which covers its base, or of a model's folder."""
    if name == WORDS:
        return name
    head = _head(Path(name))
    return digest_of_model_folder(Path(name)) if head is None else head.digest


def _head(folder: Path) -> artifacts.Artifact | None:
    """Return the head in a folder, or the newest of its training there; None if there is none."""
    from ibidem.modeling.heads import HEAD_KIND

    try:
        artifact = artifacts.load(newest(folder))
    except (ArtifactError, ConfigError):
        return None
    return artifact if artifact.kind == HEAD_KIND else None


def calibrate(judge: Entailment, labels: Path) -> dict[str, Any]:
    """Compare a judge with people's labels, separately for claims that are supported and claims that are not.

    Pairs of premise and claim that differ only in case and blanks count once.

    Returns:
        The number of labels in all and, of each class, how many there are and how many the judge agreed with; Cohen's
        kappa; and `agreement_at_least`, as `calibration_bound` defines it.

    Raises:
        DataError: a row is not a label, a pair is labelled both ways, all labels are the same, or there are too many.
    """
    label_of: dict[tuple[str, str], tuple[int, bool]] = {}
    agreed = {True: 0, False: 0}
    for number, row in enumerate(jsonl.read(labels, "calibration"), 1):
        premise, claim, supported = row.get("premise"), row.get("claim"), row.get("supported")
        if not (isinstance(premise, str) and isinstance(claim, str) and isinstance(supported, bool)):
            raise DataError(f"calibration {labels}: line {number} needs premise, claim, and supported as true or false")
        pair = _without_case(premise), _without_case(claim)
        if len(label_of) > MOST_LABELS:
            raise DataError(f"calibration {labels}: more than {MOST_LABELS:,} labels, which are enough")
        if pair not in label_of:
            agreed[supported] += judge.entails(premise, claim) == supported
        first, before = label_of.setdefault(pair, (number, supported))
        if before != supported:
            raise DataError(f"calibration {labels}: line {number} labels the pair of line {first} the other way")
    of_class = Counter(supported for _, supported in label_of.values())
    if len(of_class) < 2:
        raise DataError(f"calibration {labels}: both kinds of labels are needed, supported and not supported")
    yes, no = ({"labels": of_class[each], "agreed": agreed[each]} for each in (True, False))
    return {
        "labels": len(label_of),
        "supported": yes,
        "unsupported": no,
        "kappa": cohen_kappa(
            [[yes["agreed"], yes["labels"] - yes["agreed"]], [no["labels"] - no["agreed"], no["agreed"]]]
        ),
        "agreement_at_least": calibration_bound(yes, no),
    }


def calibration_bound(supported: object, unsupported: object) -> float | None:
    """Return the agreement that is shown within each class of labels; None if the counts are malformed.

    It is the smaller of two exact lower bounds at 97.5 % each, so that both hold with 95 % (Bonferroni). A judge that
    says yes to everything agrees with none of the unsupported labels, however many supported ones there are.

    Args:
        supported: `labels` and `agreed`, the counts of one class.
        unsupported: those of the other class.

    >>> calibration_bound({"labels": 30, "agreed": 30}, {"labels": 1, "agreed": 0})
    0.0
    >>> round(calibration_bound({"labels": 90, "agreed": 90}, {"labels": 40, "agreed": 40}), 4)
    0.9119
    """
    bounds = []
    for counts in (supported, unsupported):
        labels, agreed = (counts.get("labels"), counts.get("agreed")) if isinstance(counts, dict) else (None, None)
        if type(labels) is not int or type(agreed) is not int or not 0 <= agreed <= labels <= MOST_LABELS:
            return None
        bounds.append(lower_bound(agreed, labels, 1 - (1 - CONFIDENCE) / 2))
    return min(bounds)


def _without_case(text: str) -> str:
    return " ".join(text.split()).casefold()
