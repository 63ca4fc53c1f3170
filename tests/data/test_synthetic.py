"""Traces are made of real functions, and every claim of an answer is drawn from them."""

import ast
import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.conversation import Turn, check
from ibidem.data.synthetic import calls, describe, dialogues, mutants, refusals, self_instruct, tools
from ibidem.data.synthetic.calls import Case
from ibidem.data.synthetic.functions import Function, Parameter, Source, functions
from ibidem.data.synthetic.trace import Trace
from ibidem.data.text.clean import block
from ibidem.data.text.refusal import is_refusal
from ibidem.errors import DataError

SOURCE = Source("ab" * 32, "m.py", "MIT", "owner/name", "m.py")
MODULE = '''"""A module."""

import re
import os
from math import sqrt

LIMIT = 3
WORDS = re.compile(r"[a-z]+")
STATE = []


def slug(title: str, sep: str = "-") -> str:
    """Return a slug of a title. It is lower case.

    Args:
        title: the title of a page.
        sep: what stands between two words.

    Returns:
        words of letters.
    """
    # letters only
    words = WORDS.findall(title.lower())
    return sep.join(words[:LIMIT])


def norm(xs):
    """Compute the Euclidean norm of numbers.

    :param xs: the numbers.
    :returns: a number that is never negative.
    """
    total = 0
    for x in xs:
        if x != 0:
            total += x * x
        else:
            continue
    return sqrt(total)


def undocumented(a):
    b = a + 1
    return b


def impure(path):
    """Return the entries of a folder."""
    names = os.listdir(path)
    return names


def stateful(x):
    """Remember a value for later calls."""
    STATE.append(x)
    return len(STATE)


@decorated
def wrapped(x):
    """Return the value itself."""
    y = x
    return y


def todo(x):
    """Return twice the value. TODO: negative ones."""
    y = 2 * x
    return y


class Box:
    def method(self):
        """Return the box itself."""
        box = self
        return box
'''
SLUG, NORM = functions(MODULE, SOURCE)


def test_functions_are_documented_self_contained_and_small() -> None:
    assert [function.name for function in (SLUG, NORM)] == ["slug", "norm"]
    assert SLUG.setup == ("import re", "LIMIT = 3", "WORDS = re.compile('[a-z]+')")
    assert NORM.setup == ("from math import sqrt",)
    for function in (SLUG, NORM):
        names: dict[str, object] = {}
        exec(function.program, names)
        assert callable(names[function.name])
    assert '"""' not in SLUG.bare
    assert "# letters only" in SLUG.bare
    assert SLUG.summary == "Return a slug of a title."
    assert [each.meaning for each in SLUG.parameters] == ["the title of a page.", "what stands between two words."]
    assert SLUG.parameters[1].default == "'-'"
    assert (SLUG.returns, NORM.returns) == ("words of letters.", "a number that is never negative.")


@pytest.mark.parametrize("text", ["def f(:", "x = 1\n" * 100_000, "\0", "def f():\n" + "  if x:\n" * 200])
def test_what_is_no_python_has_no_functions(text: str) -> None:
    assert list(functions(text, SOURCE)) == []


@pytest.mark.parametrize("function", [SLUG, NORM])
@pytest.mark.parametrize("kind", sorted(dialogues.MAKERS))
def test_every_dialogue_is_a_conversation_with_the_function_and_without_its_answer(
    kind: str, function: Function
) -> None:
    for seed in range(60):
        trace = dialogues.MAKERS[kind](function, random.Random(seed))
        assert trace is not None
        check(trace.turns)
        assert trace.turns[-1].role == "assistant"
        assert (trace.kind, trace.source, trace.function) == (kind, SOURCE, function.name)
        asked = next(turn.text for turn in trace.turns if turn.role == "user")
        if kind in {"explain", "steps", "docstring", "question"}:
            assert '"""' not in asked
        if kind in {"complete", "write"}:
            assert "words[:LIMIT]" not in asked
            assert "sqrt(total)" not in asked
            code = re.search(r"```python\n(.*?)\n```", trace.turns[-1].text, re.DOTALL)
            assert code is not None
            assert ast.dump(ast.parse(code[1])) == ast.dump(ast.parse(function.program))


def test_wordings_vary_and_the_record_says_which_were_used() -> None:
    traces = [dialogues.MAKERS["explain"](SLUG, random.Random(seed)) for seed in range(300)]
    assert all(trace is not None for trace in traces)
    texts: dict[str, set[str]] = {}
    for trace in traces:
        assert trace is not None
        texts.setdefault(trace.record(0), set()).add(str(trace.turns))
    assert len(texts) > 40
    assert all(len(made) == 1 for made in texts.values())
    record = next(iter(texts))
    assert record.startswith("explain:")
    assert record.endswith(f"seed=0 function=slug sha256={SOURCE.sha256}")


def test_the_same_seed_gives_the_same_trace() -> None:
    for kind, maker in dialogues.MAKERS.items():
        assert maker(SLUG, random.Random(f"7{kind}")) == maker(SLUG, random.Random(f"7{kind}"))


def test_steps_follow_the_code() -> None:
    steps = describe.steps(NORM.bare)
    assert steps == [
        "1. Set `total` to `0`.",
        "2. For each `x` in `xs`:",
        "   2.1. If `x != 0` is true:",
        "      2.1.1. Add `x * x` to `total`.",
        "   2.2. Otherwise:",
        "      2.2.1. Go on with the next round.",
        "3. Return `sqrt(total)`.",
    ]
    assert describe.steps("def f():\n    pass") is None
    assert describe.remarks("def f(x):\n    if x:\n        raise ValueError(x)\n    f(x - 1)") == [
        "It can raise `ValueError`.",
        "It calls itself for the parts of its input.",
        "It returns nothing.",
    ]


def test_the_statement_after_an_elif_is_numbered_on() -> None:
    code = "def f(x):\n if x > 1:\n  y = 1\n elif x > 0:\n  y = 2\n else:\n  y = 3\n return y"
    assert describe.steps(code) == [
        "1. If `x > 1` is true:",
        "   1.1. Set `y` to `1`.",
        "2. Otherwise, if `x > 0` is true:",
        "   2.1. Set `y` to `2`.",
        "3. Otherwise:",
        "   3.1. Set `y` to `3`.",
        "4. Return `y`.",
    ]


MUTABLE = """def f(a: int | None, b, xs):
    \"\"\"Return 5 if a < b.\"\"\"
    if a < b and not xs:
        return max(a + 1, b)
    for i in range(len(xs)):
        xs[i] = a * 2
    return xs"""


def test_each_operator_makes_one_fault_and_leaves_docstring_and_annotations_alone() -> None:
    made = mutants.mutants(MUTABLE)
    assert {mutant.operator for mutant in made} == set(mutants.OPERATORS)
    original = ast.unparse(ast.parse(MUTABLE))
    for mutant in made:
        assert mutant.original == original
        assert mutant.code != original
        lines = zip(original.splitlines(), mutant.code.splitlines(), strict=True)
        assert sum(before != after for before, after in lines) == 1, mutant
        assert "Return 5 if a < b." in mutant.code
        assert "int | None" in mutant.code
        assert mutant.after in mutant.code
    assert len({mutant.code for mutant in made}) == len(made)


def test_some_mutants_begin_with_different_operators() -> None:
    some = list(mutants.some(MUTABLE, random.Random(0), 6))
    assert len({mutant.operator for mutant in some}) == 6
    assert some == list(mutants.some(MUTABLE, random.Random(0), 6))
    assert len(list(mutants.some("def f(x):\n    return x", random.Random(0), 9))) == 1


def test_arguments_fit_annotations_defaults_and_names() -> None:
    kinds = [
        *[("a", "bytes", "", "bytes"), ("count", "", "", "int"), ("x", "", "'s'", "str"), ("is_on", "", "", "bool")],
        *[("items", "", "", "list"), ("q", "Sequence[int]", "None", "list"), ("whatever", "", "", "str")],
    ]
    for name, annotation, default, kind in kinds:
        assert calls.kind_of(Parameter(name, annotation, default, "")) == kind, name
    given = calls.arguments(SLUG, random.Random(1), 8)
    assert len(set(given)) == len(given) == 8
    assert all(isinstance(ast.literal_eval(each), str) for each in given)


@pytest.mark.parametrize(
    ("detail", "cases"),
    [
        ("ValueError: ['3', None, \"'a'\"] at raise ValueError(results)", [Case("1", "3"), Case("3", "'a'")]),
        ("ValueError: ['3', None, \"'a'\"", None),
        ("ValueError: ['nan', '<a at 0x1>', 'f()'] at raise ValueError(results)", []),
        ("assert f(1) == 2", None),
    ],
)
def test_only_whole_reports_of_plain_values_are_read(detail: str, cases: list[Case] | None) -> None:
    assert calls.read_probe(detail, ["1", "2", "3"]) == cases


def test_a_bug_is_told_with_the_call_that_shows_it_and_its_fix_is_the_original() -> None:
    mutant = next(each for each in mutants.mutants(NORM.code) if each.operator == "compare")
    case = Case("[3, 4]", "5.0")
    for seed in range(40):
        trace = dialogues.fix(NORM, mutant, case, "0.0", random.Random(seed))
        check(trace.turns)
        asked, answer = (next(turn.text for turn in trace.turns if turn.role == role) for role in ("user", "assistant"))
        assert "norm([3, 4])" in asked
        assert "`5.0`" in asked
        assert block(NORM.after_setup(mutant.code)) in asked
        assert block(NORM.after_setup(mutant.original)) in answer
        assert "`x != 0`" in answer
        assert "mutant=compare" in trace.record(0)


def test_a_looked_up_answer_cites_the_passage_that_holds_it() -> None:
    cited = 0
    for seed in range(80):
        trace = dialogues.search(SLUG, [NORM], random.Random(seed))
        assert trace is not None
        check(trace.turns)
        found, answer = trace.turns[-2], trace.turns[-1]
        assert found.role == "tool"
        cites = [int(part.text) for part in answer.parts if part.kind == "cite"]
        if cites:
            cited += 1
            passage = found.parts[cites[0] - 1].text
            said = answer.parts[0].text.partition(": ")[2] or answer.parts[0].text
            assert passage.startswith("slug(")
            assert said.strip(".") in " ".join(passage.split())
    assert cited > 40


def test_calculations_are_right_and_their_answer_is_the_tools_result() -> None:
    for seed in range(300):
        trace = tools.calculate(random.Random(seed))
        check(trace.turns)
        for called, result, answer in zip(trace.turns[2::4], trace.turns[3::4], trace.turns[4::4], strict=True):
            (part,) = called.parts
            assert part.kind == "tool_call"
            expression = re.search(r'"expression": "([^"]*)"', part.text)
            assert expression is not None
            assert float(result.text) == pytest.approx(eval(expression[1]), abs=1e-6)
            assert result.text in answer.text


def test_refusals_refuse_and_near_misses_are_answered_by_the_words_that_the_evaluation_looks_for() -> None:
    for seed in range(500):
        for make, refused in ((refusals.refuse, True), (refusals.near_miss, False)):
            trace = make(random.Random(seed))
            check(trace.turns)
            assert is_refusal(trace.turns[-1].text) == refused, trace.turns[-1].text


def test_unsafe_requests_are_of_many_kinds_and_say_nothing_of_how() -> None:
    assert len(refusals.harms()) >= 10
    requests = {refusals.refuse(random.Random(seed)).turns[-2].text for seed in range(2000)}
    assert len(requests) > 700
    assert len(refusals.near_misses()) >= 30
    assert max(len(deed.split()) for harm in refusals.harms() for deed in harm.deeds) < 16


WORDS = st.lists(st.sampled_from("abcdef"), max_size=8)


@given(WORDS, WORDS)
def test_rouge_l_is_that_of_a_naive_subsequence(one: list[str], other: list[str]) -> None:
    def longest(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return longest(a[:-1], b[:-1]) + 1
        return max(longest(a[:-1], b), longest(a, b[:-1]))

    expected = 2 * longest(one, other) / (len(one) + len(other)) if one and other else 0.0
    assert self_instruct.rouge_l(one, other) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Do it", "instruct.length"),
        ("word " * 151, "instruct.length"),
        ("Draw a picture of a queue", "instruct.unfit"),
        ("- list the prime numbers", "instruct.unfit"),
        ("print print print print print print it", "instruct.repetition"),
        ("Name one thing that a compiler checks and an interpreter cannot.", None),
        ("What is the difference between a list and a tuple in Python programs?", "instruct.similar"),
    ],
)
def test_an_instruction_is_rejected_with_a_reason(instruction: str, reason: str | None) -> None:
    sieve = self_instruct.Sieve(self_instruct.read_seeds(None))
    assert sieve.passes(instruction) == (reason is None)
    assert sieve.rejected == Counter([reason] if reason else [])


def test_a_second_instruction_like_the_first_is_rejected() -> None:
    sieve = self_instruct.Sieve(self_instruct.read_seeds(None))
    first = "Name one thing that a compiler checks and an interpreter cannot."
    assert sieve.passes(first)
    assert not sieve.passes(first.replace("one thing", "two things"))
    assert sieve.rejected == {"instruct.similar": 1}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "instruct.empty"),
        ("I'm sorry, I can't help with that.", "instruct.refused"),
        ("Types, types. " * 20, "instruct.repetition"),
        ("Name a thing that compilers check!", "instruct.echo"),
        ("Types.", None),
        ("Begin with the reason: Sorry for the delay, the checks of all types took longer than planned.", None),
        ("Error messages say I cannot, where I can't says the same in fewer signs.", None),
    ],
)
def test_an_answer_is_rejected_with_a_reason(answer: str, reason: str | None) -> None:
    sieve = self_instruct.Sieve(self_instruct.read_seeds(None))
    assert sieve.answers("Name a thing that compilers check.", answer) == (reason is None)
    assert sieve.rejected == Counter([reason] if reason else [])


def test_seed_tasks_are_our_own_distinct_and_shown_as_answers() -> None:
    seeds = self_instruct.read_seeds(None)
    assert len(seeds) >= 30
    sieve = self_instruct.Sieve([])
    assert all(sieve.passes(seed.instruction) or sieve.rejected.keys() == {"instruct.unfit"} for seed in seeds)
    asked = self_instruct.ask_for_task(seeds, seeds[:3], random.Random(0))
    check(asked)
    assert asked[-1] == Turn.of("user", self_instruct.ASK)
    assert len(asked) == 2 * (self_instruct.SEEDS + self_instruct.GENERATED) + 1


def test_seed_tasks_of_a_file_are_read_in_both_spellings(tmp_path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"instruction": "Add.", "answer": "2"}\n' * 5)
    with pytest.raises(DataError, match="5 tasks; give at least 6"):
        self_instruct.read_seeds(path)
    with path.open("a") as file:
        file.write('{"instruction": "Add.", "instances": [{"input": "1 + 1", "output": "2"}]}\n')
    assert self_instruct.read_seeds(path)[-1] == ("Add.\n\n1 + 1", "2")
    with path.open("a") as file:
        file.write('{"instruction": "Add."}\n')
    with pytest.raises(DataError, match="row 7 needs instruction and answer"):
        self_instruct.read_seeds(path)


def test_a_trace_of_no_document_has_a_record_too() -> None:
    assert Trace("refuse", (), "1.2").record(3) == "refuse:1.2 seed=3"
