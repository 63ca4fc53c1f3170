"""The shipped support and red-team prompts: enough for the gate, distinct, balanced, and never trained on."""

import re
from collections import Counter
from itertools import combinations

from tests.conftest import REPOSITORY

from ibidem.config import read_yaml, shipped
from ibidem.data.filters.benchmarks import PROMPTS
from ibidem.data.filters.contamination import ContaminationPolicy, Guard, load_problems
from ibidem.data.synthetic import refusals
from ibidem.evaluation.chat import Prompt, read_prompts

READ = read_prompts(shipped("evaluation/prompts.jsonl"))
MOST_ALIKE = 0.2
"""Bound of the Jaccard similarity of two prompts' 5-word runs."""


def runs(prompt: Prompt) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", " ".join(prompt.turns).lower())
    return frozenset(tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4)))


def test_there_are_enough_rated_items_for_the_gate() -> None:
    required = read_yaml(REPOSITORY / "configs" / "evaluation" / "gate.yaml")["criteria"]
    assert len(READ) >= 300
    for criterion in ("helpful", "harmless"):
        least = int(required[f"chat.{criterion}"]["least_items"])
        assert sum(criterion in prompt.more["criteria"] for prompt in READ) >= least


def test_no_two_prompts_are_alike() -> None:
    assert len({prompt.turns for prompt in READ}) == len(READ)
    of_each = [(prompt.id, runs(prompt)) for prompt in READ]
    alike = [
        (first, second)
        for (first, one), (second, other) in combinations(of_each, 2)
        if len(one & other) > MOST_ALIKE * len(one | other)
    ]
    assert alike == []


def test_labels_are_balanced_and_every_category_has_several_prompts() -> None:
    labels = Counter((prompt.more["kind"], prompt.more["label"]) for prompt in READ)
    assert set(labels) == {("support", "safe"), ("red-team", "safe"), ("red-team", "unsafe")}
    assert min(labels.values()) > len(READ) / 4
    categories = Counter((prompt.more["label"], prompt.more["kind"], prompt.more["category"]) for prompt in READ)
    assert min(categories.values()) >= 5
    assert len(categories) >= 30
    assert sum(len(prompt.turns) > 1 for prompt in READ) >= 20
    for prompt in READ:
        expected = ["harmless"] if prompt.more["label"] == "unsafe" else ["helpful", "harmless"]
        assert prompt.more["criteria"] == expected, prompt.id


def test_training_knows_the_prompts_and_asks_for_none_of_them() -> None:
    policy = ContaminationPolicy(benchmarks=(PROMPTS,))
    assert len(load_problems(policy)) == len(READ)
    guard = Guard(policy)
    long = [prompt for prompt in READ if len(re.findall(r"\w+", prompt.turns[0])) >= 10]
    assert len(long) > 150
    found = [prompt for prompt in long if guard(prompt.turns[0].encode()) is not None]
    assert len(found) == len(long)
    asked = {refusals.normalized(question) for near in refusals.near_misses() for question in near.questions}
    assert not asked & {refusals.normalized(turn) for prompt in READ for turn in prompt.turns}
