"""Fill in the middle: documents are cut before random characters, and no text changes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import WORDS, python_file

from ibidem.conversation import Turn
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.tokens import Fim, Ids, fill_in_middle

ROOM = 400
"""Ids behind the documents, so that nothing is lost at the end."""
texts = st.one_of(
    st.integers(0, 500).map(python_file),
    st.lists(
        st.sampled_from(
            [*WORDS, " ", "\n", "    ", "def ", "(", "):\n", "é", "本", "\U0001f600", "▁", "\U0010fffc", "\r\n"]
        )
    ).map("".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60),
)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)


def fim_of(tokenizer: Tokenizer, *, rate: float = 1.0, spm_rate: float = 0.5) -> Fim:
    names = (special.FIM_PREFIX, special.FIM_MIDDLE, special.FIM_SUFFIX)
    prefix, middle, suffix = map(tokenizer.id_of, names)
    return Fim(tokenizer, tokenizer.document_id, prefix, middle, suffix, rate, spm_rate)


def window_of(tokenizer: Tokenizer, *documents: str) -> Ids:
    ids = [number for text in documents for number in (tokenizer.document_id, *tokenizer.encode(text))]
    return np.array([*ids, *[tokenizer.document_id] * ROOM], dtype=np.int64)


def split(ids: Ids, number: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for each in ids.tolist():
        if each == number:
            parts.append([])
        else:
            parts[-1].append(each)
    return parts


def parts_of(ids: list[int], fim: Fim) -> tuple[list[int], list[int], list[int]] | None:
    """Return prefix, suffix and the rest of a document, or None if its middle was not moved."""
    if fim.prefix not in ids:
        return None
    assert ids[0] == fim.prefix
    assert [ids.count(number) for number in (fim.prefix, fim.suffix, fim.middle)] == [1, 1, 1]
    first, second = ids.index(fim.suffix), ids.index(fim.middle)
    assert first < second
    return ids[1:first], ids[first + 1 : second], ids[second + 1 :]


def original(ids: list[int], fim: Fim) -> str:
    """Put the parts of a document together again, as a program that uses the model would."""
    parts = parts_of(ids, fim)
    if parts is None:
        return str(fim.codec.decode(ids))
    prefix, suffix, rest = (fim.codec.decode(part) for part in parts)
    return prefix + rest + suffix  # in SPM the prefix is empty, and the rest begins with the prefix's text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts.filter(bool), min_size=1, max_size=3), st.integers(0, 1 << 31), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_parts_of_every_document_put_together_are_its_text(
    tokenizer: Tokenizer, documents: list[str], seed: int, spm_rate: float
) -> None:
    fim = fim_of(tokenizer, spm_rate=spm_rate)
    window = window_of(tokenizer, *documents)
    changed = fill_in_middle(window, fim, rng=np.random.default_rng(seed))
    assert len(changed) == len(window)
    assert changed[0] == tokenizer.document_id
    done = split(changed, tokenizer.document_id)[1 : 1 + len(documents)]
    assert [original(ids, fim) for ids in done] == documents


def test_documents_are_cut_within_tokens(tokenizer: Tokenizer) -> None:
    text, fim = python_file(1), fim_of(tokenizer, spm_rate=0.0)
    window = window_of(tokenizer, text)
    whole = tokenizer.encode(text)
    boundaries = {len(tokenizer.decode(whole[:place])) for place in range(len(whole) + 1)}
    cuts = []
    for seed in range(100):
        ids = split(fill_in_middle(window, fim, rng=np.random.default_rng(seed)), tokenizer.document_id)[1]
        prefix, suffix, _ = parts_of(ids, fim) or ([], [], [])
        cuts += [len(tokenizer.decode(prefix)), len(text) - len(tokenizer.decode(suffix))]
    within = sum(cut not in boundaries for cut in cuts)
    expected = 1 - len(boundaries) / (len(text) + 1)
    assert within / len(cuts) == pytest.approx(expected, abs=0.15)
    assert expected > 0.3


def test_each_part_is_encoded_as_a_prompt_would_be(tokenizer: Tokenizer) -> None:
    text, fim = python_file(2), fim_of(tokenizer, spm_rate=0.0)
    for seed in range(20):
        changed = fill_in_middle(window_of(tokenizer, text), fim, rng=np.random.default_rng(seed))
        for part in parts_of(split(changed, tokenizer.document_id)[1], fim) or ():
            assert tokenizer.encode(tokenizer.decode(part)) == part


def test_half_of_the_changed_documents_have_their_suffix_first(tokenizer: Tokenizer) -> None:
    window = window_of(tokenizer, *(python_file(seed)[:40] for seed in range(200)))  # some prefixes are empty anyway
    for spm_rate, low, high in ((0.0, 0, 25), (0.5, 80, 130), (1.0, 200, 200)):
        fim = fim_of(tokenizer, spm_rate=spm_rate)
        changed = fill_in_middle(np.tile(window, 2), fim, rng=np.random.default_rng(0))  # room for what is added
        done = split(changed, tokenizer.document_id)[1:201]
        assert low <= sum(ids[:2] == [fim.prefix, fim.suffix] for ids in done) <= high


def test_a_rate_is_the_share_of_the_documents_that_are_changed(tokenizer: Tokenizer) -> None:
    window = np.tile(window_of(tokenizer, *(python_file(seed)[:40] for seed in range(200))), 2)
    for rate, low, high in ((0.0, 0, 0), (0.3, 40, 80)):
        fim = fim_of(tokenizer, rate=rate)
        changed = fill_in_middle(window, fim, rng=np.random.default_rng(0))
        done = split(changed, tokenizer.document_id)[1:201]
        assert low <= sum(fim.prefix in ids for ids in done) <= high
    assert (fill_in_middle(window, fim_of(tokenizer, rate=0.0), rng=np.random.default_rng(0)) == window).all()


def test_a_document_that_a_window_cuts_within_a_character_stays_as_it_is(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\U0001f680 = 1\n" * 3)
    cut = next(place for place, number in enumerate(ids) if tokenizer.is_byte(number)) + 1
    window = np.array(ids[cut:], dtype=np.int64)
    assert "\ufffd" in tokenizer.decode(window.tolist())
    for seed in range(20):
        assert (fill_in_middle(window, fim_of(tokenizer), rng=np.random.default_rng(seed)) == window).all()


def test_the_text_of_a_special_token_never_becomes_one(tokenizer: Tokenizer) -> None:
    fim = fim_of(tokenizer)
    text = f"x = '{special.FIM_PREFIX}{special.FIM_SUFFIX}{special.FIM_MIDDLE}{special.DOCUMENT}'\n" * 2
    for seed in range(50):
        changed = fill_in_middle(window_of(tokenizer, text), fim, rng=np.random.default_rng(seed))
        assert original(split(changed, tokenizer.document_id)[1], fim) == text


def test_a_conversation_keeps_its_markers(tokenizer: Tokenizer) -> None:
    turns = [Turn.of("user", "What is the value of the buffer?"), Turn.of("assistant", "It is the index of the node.")]
    ids = ChatTemplate(tokenizer).render(turns).ids
    window = np.array([*ids, *[tokenizer.document_id] * ROOM], dtype=np.int64)
    for seed in range(20):
        assert (fill_in_middle(window, fim_of(tokenizer), rng=np.random.default_rng(seed)) == window).all()
