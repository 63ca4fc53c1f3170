"""Does a text support a claim? Two entailment judges, and their calibration on people's labels."""

import re
from pathlib import Path
from typing import Any, Protocol

from ibidem import jsonl
from ibidem.errors import ConfigError, DataError
from ibidem.inference.model_folder import digest_of_model_folder
from ibidem.statistics import lower_bound

WORDS = "words"
_WORD = re.compile(r"\w+")
_EMPTY_WORDS = """
a an the and or but of in on at to for with by from as is are was were be been being it its this that these
those he she they we you i his her their our your not no do does did has have had will would can could may
might
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_NEGATIONS = frozenset(["not", "no", "never", "none", "neither", "nor", "cannot", "without"])


class Entailment(Protocol):
    """Decides whether a premise supports a claim."""

    name: str
    """Its name in results."""

    def entails(self, premise: str, claim: str) -> bool:
        """Return whether the premise supports the claim."""


class WordCover:
    """A claim counts as supported if its content words, numbers and negation occur in the premise.

    Cheap and strict; no understanding.
    """

    def __init__(self, share: float) -> None:
        self.name = f"{WORDS} >= {share:g}"
        self._share = share

    def entails(self, premise: str, claim: str) -> bool:
        """Require the share of content words, all numbers, and a negation in both texts or in neither.

        >>> cover = WordCover(0.75)
        >>> cover.entails("The tower is 330 m high.", "The tower is 330 m high"), cover.entails("It is 330 m.", "300 m")
        (True, False)
        """
        known, words = set(_words(premise)), _words(claim)
        content = [word for word in words if word not in _EMPTY]
        if not content or any(word not in known for word in words if word[0].isdigit()):
            return False
        if _NEGATIONS.isdisjoint(words) != _NEGATIONS.isdisjoint(known):
            return False
        return sum(word in known for word in content) >= self._share * len(content)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("\u2019", "'").replace("n't", " not"))


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
        with self._torch.no_grad():
            row = self._tokenizer(premise, claim, truncation="only_first", return_tensors="pt")
            return int(self._model(**row).logits[0].argmax()) == int(self._label or 0)


def open_entailment(name: str, word_share: float) -> Entailment:
    """Open the judge: `words`, or the folder of a model.

    Raises:
        ConfigError: there is no such judge.
    """
    if name == WORDS:
        return WordCover(word_share)
    if not Path(name).is_dir():
        raise ConfigError(f"entailment {name!r}: neither {WORDS} nor the folder of a model")
    return InferenceModel(Path(name))


def calibrate(judge: Entailment, labels: Path) -> dict[str, Any]:
    """Compare a judge with people's labels: how often they agree, with the lower bound at 95 % confidence.

    Raises:
        DataError: a row is not a label, or all labels are the same.
    """
    decided: dict[tuple[str, str, bool], bool] = {}  # duplicates count once
    for number, row in enumerate(jsonl.read(labels, "calibration"), 1):
        premise, claim, supported = row.get("premise"), row.get("claim"), row.get("supported")
        if not (isinstance(premise, str) and isinstance(claim, str) and isinstance(supported, bool)):
            raise DataError(f"calibration {labels}: line {number} needs premise, claim, and supported as true or false")
        decided[premise, claim, supported] = judge.entails(premise, claim) == supported
    if len({supported for _, _, supported in decided}) < 2:
        raise DataError(f"calibration {labels}: both kinds of labels are needed, supported and not supported")
    agreed = sum(decided.values())
    return {"labels": len(decided), "agreed": agreed, "agreement_at_least": lower_bound(agreed, len(decided))}
