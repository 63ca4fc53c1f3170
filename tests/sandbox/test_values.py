import array
import collections
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.sandbox import values
from ibidem.sandbox.values import Unsendable, dumps, loads


def keep(value: object) -> int:
    raise AssertionError(value)


def there_and_back(value: object) -> object:
    return loads(dumps(value, keep), keep)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()) | st.binary()
    | st.complex_numbers(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False) | st.dates() | st.timedeltas()
)  # fmt: skip
hashable = st.recursive(scalars, lambda inner: st.tuples(inner) | st.frozensets(inner, max_size=3), max_leaves=6)
plain = st.recursive(
    hashable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(plain)
def test_a_plain_value_comes_back_as_it_was(value: object) -> None:
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        collections.Counter("abca"), collections.OrderedDict(b=1, a=2), collections.deque([1, 2]), range(3, 99, 2), int,
        {1, (2, "x")}, bytearray(b"\0"), 10**1000, -(1 << 5000), "\ud800", float("inf"), dt.datetime(2024, 1, 2, 3),
        fractions.Fraction(1, 3), decimal.Decimal("1.10"), {"a": 1}.keys(), {"a": 1}.items(), [[]] * 3, 1 + 2j,
        array.array("i", [1, -2]), array.array("d", [0.5]),
    ],
)  # fmt: skip
def test_values_beyond_json_come_back(value: object) -> None:
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)


def test_an_integer_of_any_size_comes_back() -> None:
    large = 1 << 20_000  # of more digits than Python writes
    assert there_and_back([large, -large]) == [large, -large]


def test_the_plainest_values_stand_for_themselves() -> None:
    assert dumps([1, "a", None, True, 2.5, -(1 << 1000)], keep) == b'[1,"a",null,true,2.5,%d]' % -(1 << 1000)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(there_and_back(float("nan")))


def test_arrays_come_back_with_their_type_and_shape() -> None:
    for value in (np.arange(6).reshape(2, 3), np.float32(1.5), np.bool_(True), np.array(3), np.zeros((0, 2))):
        found = there_and_back(value)
        assert type(found) is type(value)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert np.array_equal(found, value)
    with pytest.raises(Unsendable, match="array of object"):
        there_and_back(np.array([object()]))


def test_iterators_and_matches_come_back_as_what_they_hold() -> None:
    assert list(there_and_back(iter([1, 2]))) == [1, 2]
    assert list(there_and_back(x * 2 for x in range(3))) == [0, 2, 4]
    found = there_and_back(re.match(r"(a)(b)?", "ac"))
    assert found
    assert (found.group(), found.groups(), found.span(1)) == ("a", ("a", None), (0, 1))
    found = there_and_back(re.search(r"(b+)(c)", "abbcd"))
    assert (found[0], found[2], found.group(1), found.group(1, 2)) == ("bbc", "c", "bb", ("bb", "c"))
    assert [(found.start(n), found.end(n), found.span(n)) for n in range(3)] == [
        (1, 4, (1, 4)), (1, 3, (1, 3)), (3, 4, (3, 4)),
    ]  # fmt: skip
    assert (found.start(), found.end(), found.span()) == (1, 4, (1, 4))


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Color(enum.IntEnum):
    RED = 3


Point = collections.namedtuple("Point", "x y")


def liar(base: type, *arguments: object) -> object:
    """Make an instance of a subclass that says what it likes of itself."""
    lies = {"__eq__": lambda *_: True, "__iter__": lambda _: iter("lies"), "__str__": lambda _: "lies"}
    lies |= {"__add__": lambda *_: base(), "__len__": lambda _: 0, "items": lambda _: [("lies", 1)]}
    return type("Liar", (base,), lies | {"__hash__": object.__hash__, "keys": lambda _: ["lies"]})(*arguments)


BUILTINS = [
    2.5, 3 + 4j, "text", b"bytes", bytearray(b"array"), [1, [2]], (1, 2), {1, 2}, frozenset({3}), {"a": 1}, -7,
    collections.deque([1, 2]), collections.Counter("aab"), collections.OrderedDict(b=1, a=2),
]  # fmt: skip


def test_a_subclass_crosses_as_what_the_builtin_sees() -> None:
    lies = [(liar(type(value), value), value) for value in BUILTINS]
    for value, seen in (*lies, (Liar(4), 4), (Color.RED, 3), (Point(1, 2), (1, 2))):
        found = there_and_back(value)
        assert found == seen
        assert type(found) is type(seen)


def test_an_object_stays_where_it_is() -> None:
    held: list[object] = []

    def hold(value: object) -> int:
        held.append(value)
        return len(held) - 1

    thing = object()
    assert loads(dumps([thing, 1], hold), held.__getitem__) == [thing, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[", b"NaN", b"Infinity", b'{"a": 1, "b": 2}', b"{}", b'{"unknown": 1}', b'{"set": [[1]]}',
        b'{"tuple": 5}', b'{"tuple": "ab"}', b'{"dict": "ab"}', b'{"dict": {"set": []}}',
        b'{"dict": [[1]]}', b'{"dict": [[[1], 2]]}', b'{"int": "zz"}', b'{"float": []}', b'{"bytes": "!"}', b"\xff",
        b'{"numpy": ["O", [1], "AAAA", false]}', b'{"numpy": ["<i8", [9], "AAAA", false]}', b'{"type": "eval"}',
        b'{"range": ["1", "2", "0"]}', b'{"fraction": ["1", "0"]}', b'{"date": 5}', b'{"match": [{"ref": 1}, []]}',
        b'{"complex": ["42"]}', b'{"range": ["2a"]}', b'{"fraction": ["2a"]}', b'{"timedelta": [1]}',
        b"9" * 5000, b"[" * 100000, b'{"array": ["i", ["x"]]}', b'{"ref": 1.5}', b'{"ref": [1]}',
    ],
)  # fmt: skip
def test_what_is_no_plain_value_is_refused(data: bytes) -> None:
    with pytest.raises(Unsendable):
        loads(data, keep)


def test_a_value_that_no_stack_is_left_for_is_nested_too_deeply() -> None:
    def at_the_bottom() -> None:
        try:
            at_the_bottom()
        except RecursionError:
            dumps([[[[[1]]]]], keep)

    with pytest.raises(Unsendable, match="deeply"):
        at_the_bottom()


def test_limits_hold() -> None:
    deep: list[object] = []
    for _ in range(values.MAX_DEPTH + 1):
        deep = [deep]
    for value in (deep, "x" * values.MAX_BYTES, iter(range(10**9))):
        with pytest.raises(Unsendable):
            dumps(value, keep)
    with pytest.raises(Unsendable, match="deeply"):
        loads(json.dumps(deep).encode(), keep)
