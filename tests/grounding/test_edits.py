"""Edits make a sentence say what its passage does not say; paraphrases do not. On sentences of real passages."""

import doctest
import json
import random
import re
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
from tests.conftest import REPOSITORY, SHARED_DATA

from ibidem.grounding.edits import EDITS, hallucinations, names, sentences, year_shifted
from ibidem.grounding.support import WordCover

PARAPHRASES_FILE = REPOSITORY / "benchmarks" / "paraphrases.py"
PASSAGE = (
    "The tower was built by Gustave Eiffel in 1889 in Paris, because the fair needed a gate. It is 330 m high, weighs "
    "10,100 tons and has three floors. Its lift was added in 1983 by the firm Otis, according to Jules Verne. Visitors "
    "may climb the stairs, unless it rains. It is always lit at night, and most guests come after dinner in June."
)


@pytest.fixture(scope="module")
def paraphrases() -> ModuleType:
    """The paraphrases, which only benchmarks use."""
    spec = spec_from_file_location("paraphrases", PARAPHRASES_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources() -> list[tuple[str, str]]:
    """Sentences of 120 passages of Wikipedia, each with its passage."""
    file = SHARED_DATA / "xquad_en" / "xquad.en.json"
    if not file.exists():
        pytest.skip("XQuAD is not here")
    data = json.loads(file.read_text())["data"]
    passages = [paragraph["context"] for article in data for paragraph in article["paragraphs"]]
    return [(passage, sentence) for passage in passages[::2] for sentence in sentences(passage)]


def test_every_kind_of_edit_applies_to_real_sentences_and_makes_another_one(sources: list[tuple[str, str]]) -> None:
    made: Counter[str] = Counter()
    for number, (passage, sentence) in enumerate(sources):
        edited = hallucinations(sentence, passage, random.Random(number))
        made.update(edited.keys())
        known = {" ".join(each.split()) for each in sentences(passage)}
        assert not {" ".join(text.split()) for text in edited.values()} & known
        assert all(text.strip() and text != sentence for text in edited.values())
    assert set(made) == set(EDITS)
    assert len(EDITS) >= 20
    assert min(made.values()) >= 4, made


def test_edits_follow_from_the_seed(sources: list[tuple[str, str]]) -> None:
    for passage, sentence in sources[:40]:
        one, two = (hallucinations(sentence, passage, random.Random(1)) for _ in range(2))
        assert one == two


@pytest.mark.parametrize(
    ("kind", "sentence", "edited"),
    [
        ("number_swapped", "It is 330 m high.", "It is 10,100 m high."),
        ("year_swapped", "It was built in 1889.", "It was built in 1983."),
        ("date_shifted", "They come in March.", "They come in June."),
        ("unit_changed", "It weighs 10,100 tons.", "It weighs 10,100 kilograms."),
        ("percent_changed", "Some 40 percent came.", "Some 40 came."),
        ("scale_changed", "It cost five million.", "It cost five billion."),
        ("place_swapped", "It stands in Rome.", "It stands in Paris."),
        ("negation_added", "It can move.", "It cannot move."),
        ("negation_removed", "Neither Ann nor Bob came.", "Both Ann and Bob came."),
        ("antonym", "The Northern gate is open.", "The Southern gate is open."),
        ("comparative", "It is at least 3 m.", "It is at most 3 m."),
        ("superlative", "It is the tallest.", "It is the shortest."),
        ("quantifier", "Most guests left.", "Few guests left."),
        ("frequency", "It is always lit.", "It is sometimes lit."),
        ("modal", "You may climb.", "You must climb."),
        ("order_of_events", "They came before noon.", "They came after noon."),
        ("cause_reversed", "It fell because it rained.", "It rained because it fell."),
        ("condition_removed", "Visitors may climb, unless it rains.", "Visitors may climb."),
        ("exclusivity", "It is only open at night.", "It is open at night."),
    ],
)
def test_an_edit_does_what_its_name_says(kind: str, sentence: str, edited: str) -> None:
    found = {EDITS[kind](sentence, PASSAGE, random.Random(seed)) for seed in range(12)}
    assert edited in found


@pytest.mark.parametrize("kind", sorted(EDITS))
def test_an_edit_that_does_not_apply_returns_nothing(kind: str) -> None:
    assert EDITS[kind]("so on and so forth", "", random.Random(0)) is None


def test_what_is_swapped_in_is_the_passages(sources: list[tuple[str, str]]) -> None:
    swaps = ("number_swapped", "year_swapped", "name_swapped", "place_swapped", "attribution_changed")
    for number, (passage, sentence) in enumerate(sources[:200]):
        held = set(re.findall(r"\w+", passage.casefold()))
        for kind in swaps:
            edited = EDITS[kind](sentence, passage, random.Random(number))
            assert held.issuperset(re.findall(r"\w+", (edited or "").casefold())), (kind, edited)


def test_names_are_found_and_openings_of_sentences_are_not() -> None:
    text = "However, Mary of Burgundy saw Ghent. Running water reached it. The Rhine floods."
    assert [text[start:end] for start, end in names(text)] == ["Mary of Burgundy", "Ghent", "Rhine"]


def test_a_year_whose_neighbors_are_all_in_the_passage_is_not_shifted() -> None:
    passage = ", ".join(map(str, range(1880, 1899)))
    assert year_shifted("It was built in 1889.", passage, random.Random(0)) is None


def test_every_paraphrase_applies_to_real_sentences_and_the_words_let_it_pass(
    sources: list[tuple[str, str]], paraphrases: ModuleType
) -> None:
    cover, made, passed = WordCover(0.75), Counter[str](), Counter[str]()
    for passage, sentence in sources:
        for kind, paraphrase in paraphrases.PARAPHRASES.items():
            text = paraphrase(sentence)
            if text is not None and made[kind] < 30:
                assert text != sentence
                made[kind] += 1
                passed[kind] += cover.entails(passage, text)
    assert set(made) == set(paraphrases.PARAPHRASES)
    assert min(made.values()) >= 5, made
    assert all(passed[kind] >= 0.8 * made[kind] for kind in made), (passed, made)


def test_the_examples_of_paraphrases_are_true(paraphrases: ModuleType) -> None:
    assert doctest.testmod(paraphrases)[0] == 0


def test_all_paraphrases_together_still_say_it(paraphrases: ModuleType) -> None:
    said = paraphrases.paraphrased("In 1889, two towers (of iron) were not constructed in Rome and Paris.")
    assert said == "According to the text, 2 towers weren't built in Paris and Rome in 1889."
