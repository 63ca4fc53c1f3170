"""The grounding head: does a passage answer a question, with which of its spans, and does it support a claim?

    question, passage, spans    states of the encoder, which is never changed, and alignment features -> head -> scores
    a passage's score           that of its best candidate: reranks passages
    a claim's margin            each number, year and name of the claim is taken out, and the rest is the question:
                                score of the same text in the passage - best score of another text of its kind there;
                                the smallest counts: "330 m high" fails if 300 fits better where 330 is asked for

A head belongs to its encoder, by digest. What it needs of other texts, the frequencies of terms, is given to it: those
of the passages that the principal may read.

Shapes: see `ibidem.modeling.heads`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ibidem.artifacts import Artifact
from ibidem.errors import CheckpointError, ConfigError
from ibidem.grounding.alignment import FEATURES, Frequencies, features, sentence_of, weights_of_words
from ibidem.grounding.cloze import Candidate, candidates, is_same
from ibidem.grounding.encoder import ENCODER, TextEncoder, TokenStates, open_encoder
from ibidem.modeling.checkpoint import load_weights, verified
from ibidem.modeling.heads import HEAD_KIND, INTERACTIONS, GroundingHead, Spans
from ibidem.readers import Readers, common, readers_of
from ibidem.runs import newest

_NEAR = {"near_12": 1.0}
_LATE = {
    "late_40": 1.0,
    "late_15": 0.1,
    "late_5": 0.05,
    "late_sentence": 0.25,
    "late_span": 0.1,
    "focus_before": 0.1,
    "focus_behind": 0.1,
    "pairs": 0.05,
}
_INPUTS = (*FEATURES, *INTERACTIONS)
NEAR, LATE = (tuple(prior.get(name, 0.0) for name in _INPUTS) for prior in (_NEAR, _LATE))
"""Weights before training: those of `alignment.proximity`, which need no encoder; and late interaction with what the
question word asks for, which is better with an encoder whose states are alike where meanings are."""
States = Callable[[str], TokenStates]
"""Returns an encoder's states of a text."""
_REMEMBERED = 512
_ASKED_KINDS = frozenset(["year", "number", "name"])


class Asked(NamedTuple):
    """A question, a passage, and spans of it as its answers."""

    question: TokenStates
    weights_Q: Tensor
    passage: TokenStates
    spans: Sequence[tuple[int, int]]
    """In characters of the passage."""
    sentences: Sequence[tuple[int, int]]
    """Those that the spans are in."""
    features_SF: NDArray[np.float32]


class Head:
    """A grounding head on its encoder."""

    def __init__(self, model: GroundingHead, encoder: TextEncoder, artifact: Artifact) -> None:
        self.model, self.encoder, self.artifact = model.eval(), encoder, artifact
        self.digest = artifact.digest
        self._states: dict[str, TokenStates] = {}

    def scores(
        self, question: str, passage: str, spans: Sequence[tuple[int, int]], known: Frequencies
    ) -> NDArray[np.float32]:
        """Return the score of each span of a passage as the answer to a question, [S].

        Args:
            question: the question.
            passage: the text.
            spans: in characters of the passage.
            known: frequencies of the terms.
        """
        if not spans:
            return np.zeros(0, np.float32)
        asked = read(question, passage, spans, known, self.states)
        with torch.inference_mode():
            return self.model(collate([asked])).numpy()  # type: ignore[no-any-return]

    def best(self, question: str, passage: str, known: Frequencies) -> float:
        """Return the score of a passage for a question: that of its best candidate; -inf if it has none."""
        spans = [(each.start, each.end) for each in candidates(passage)]
        return float(self.scores(question, passage, spans, known).max(initial=-np.inf))

    def margin(self, claim: str, passage: str, known: Frequencies) -> float:
        """Return by how much a passage supports a claim; inf if there is nothing to compare.

        That is so if the claim has no number, year or name, or if the passage has nothing else of the same kind. It is
        -inf if one of them does not occur in the passage. What the rest of the claim names is no rival: where one
        item of a list is asked for, its neighbors fit nearly as well.
        """
        there = candidates(passage)
        parts = [each for each in candidates(claim) if each.kind in _ASKED_KINDS]
        texts = [claim[each.start : each.end] for each in parts]
        free = [each for each in there if not any(is_same(passage[each.start : each.end], text) for text in texts)]
        return min((self._margin_of(part, claim, passage, there, free, known) for part in parts), default=np.inf)

    @property
    def readers(self) -> Readers | None:
        """Who may use it and its encoder; None: everyone."""
        found = [each for each in (readers_of(self.artifact.config), self.encoder.readers) if each is not None]
        return common(found) if found else None

    @property
    def threshold(self) -> float:
        """Margin from which on a claim counts as supported; 0 if the head was not calibrated."""
        found = float(self.model.calibration)
        return 0.0 if np.isnan(found) else found

    def states(self, text: str) -> TokenStates:
        """Return the encoder's states of a text; those of the last texts are kept."""
        if (found := self._states.get(text)) is None:
            if len(self._states) >= _REMEMBERED:
                self._states.clear()
            found = self._states[text] = self.encoder.states(text)
        return found

    def _margin_of(
        self,
        part: Candidate,
        claim: str,
        passage: str,
        there: Sequence[Candidate],
        free: Sequence[Candidate],
        known: Frequencies,
    ) -> float:
        text = claim[part.start : part.end]
        alike = [each for each in there if is_same(passage[each.start : each.end], text)]
        if not alike:
            return -np.inf
        rivals = [each for each in free if each.kind == part.kind]
        question = f"{claim[: part.start]} {claim[part.end :]}"
        spans = [(each.start, each.end) for each in (*alike, *rivals)]
        scores = self.scores(question, passage, spans, known)
        mine, others = scores[: len(alike)], scores[len(alike) :]
        return float(mine.max() - others.max(initial=-np.inf))


def open_head(
    path: Path, encoder: Path | None = None, principal: str | None = None, *, for_others: bool = False
) -> Head:
    """Verify a head, or the newest of its run, and open it with its encoder.

    Args:
        path: folder of the head or of its training.
        encoder: folder of its encoder, or of the training of that; by default where it was in training.
        principal: who opens them; None: the user who runs the program.
        for_others: check nobody; whoever calls this checks each person who asks by `Head.readers`.

    Raises:
        AccessDenied: it was trained on private documents, or its encoder was, of which the principal is no reader.
        CheckpointError: it is damaged, no grounding head, or one that reads other features.
        ConfigError: the encoder is not there, or another one.
    """
    artifact = verified(newest(path), kind=HEAD_KIND, principal=principal, for_others=for_others)
    again = f"{artifact.path}: of another version of ibidem; train the head again"
    if tuple(artifact.config.get("model", {}).get("features", ())) != FEATURES:
        raise CheckpointError(again)
    due = next(item for item in artifact.inputs if item.role == ENCODER)
    place = newest(encoder) if encoder else artifact.path.resolve() / due.name
    if not place.is_dir():
        raise ConfigError(f"head {path}: its encoder is not at {place}; give it with --head-encoder")
    opened = open_encoder(place, principal, for_others=for_others)
    if opened.digest != due.digest:
        raise ConfigError(f"head {path}: it was trained on another encoder than {place}")
    model = new_head(opened.width)
    try:
        load_weights(model, artifact.path)
    except RuntimeError as error:
        raise CheckpointError(again) from error
    return Head(model, opened, artifact)


def new_head(width: int, prior_I: Sequence[float] = NEAR) -> GroundingHead:
    """Return an untrained head for states of a width; by default it ranks as proximity does."""
    head = GroundingHead(width, len(FEATURES))
    head.set_prior(prior_I)
    return head


def read(question: str, passage: str, spans: Sequence[tuple[int, int]], known: Frequencies, states: States) -> Asked:
    """Read a question and a passage with an encoder, and align them.

    Args:
        question: the question.
        passage: the text.
        spans: in characters of the passage.
        known: frequencies of the terms.
        states: returns the encoder's states of a text.
    """
    asked = states(question)
    aligned = features(question, passage, spans, known)
    sentences = [sentence_of(passage, span) for span in spans]
    return Asked(asked, token_weights(question, asked.spans_T2, known), states(passage), spans, sentences, aligned)


def token_weights(text: str, spans_T2: NDArray[np.int64], known: Frequencies) -> Tensor:
    """Return the weight of each token, with sum 1: its share of the weight of the word that it is in, [T].

    All are 0 if no token is in a word.
    """
    words = weights_of_words(text, known)
    weights = np.zeros(len(spans_T2), np.float32)
    for start, end, weight in words:
        inside = (spans_T2[:, 1] > start) & (spans_T2[:, 0] < end)
        weights[inside] += weight / max(inside.sum(), 1)
    return torch.from_numpy(weights / (weights.sum() or 1.0))


def collate(asked: Sequence[Asked]) -> Spans:
    """Put the spans of several questions into one batch, in order."""
    spans = [token_span(each.passage.spans_T2, span) for each in asked for span in each.spans]
    sentences = [token_span(each.passage.spans_T2, span) for each in asked for span in each.sentences]
    counts = torch.tensor([len(each.spans) for each in asked])
    owner_R = torch.repeat_interleave(torch.arange(len(asked)), counts)
    return Spans(
        question_states_NQD=pad_sequence([each.question.states_TD for each in asked], batch_first=True),
        question_weights_NQ=pad_sequence([each.weights_Q for each in asked], batch_first=True),
        passage_states_MPD=pad_sequence([each.passage.states_TD for each in asked], batch_first=True),
        passage_lengths_M=torch.tensor([len(each.passage.states_TD) for each in asked]),
        question_of_R=owner_R,
        passage_of_R=owner_R,
        spans_R2=torch.tensor(spans).reshape(-1, 2),
        sentences_R2=torch.tensor(sentences).reshape(-1, 2),
        features_RF=torch.from_numpy(np.concatenate([each.features_SF for each in asked])),
    )


def token_span(spans_T2: NDArray[np.int64], span: tuple[int, int]) -> tuple[int, int]:
    """Return the tokens that a span of characters touches: the first, and the one behind the last; (0, 0) if none."""
    inside = np.flatnonzero((spans_T2[:, 1] > span[0]) & (spans_T2[:, 0] < span[1]))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
