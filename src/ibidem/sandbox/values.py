"""What may cross the wall of a jail: plain values, as typed JSON, limited in size and depth.

    [1, "a", None]        itself
    (1, 2)                {"tuple": [1, 2]}
    {"a": {1}}            {"dict": [["a", {"set": [1]}]]}
    an object             {"ref": 7}, which only the jail that holds the object can resolve

A value is read back as an exact builtin type, never as a class that the other side defines, so none of its `__eq__`
methods runs here. A subclass of a builtin crosses as the value that the builtin's own methods see in it.
"""

import array
import base64
import collections
import datetime as dt
import decimal
import fractions
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

MAX_BYTES = 16_000_000
"""The answers that HumanEval+ expects have up to 11.5 MB."""
MAX_DEPTH = 100
MAX_ITEMS = 200_000
"""Maximum number of items taken from an iterator; with more it counts as endless."""
PLAIN_INT_BITS = 2048  # a larger one is written in hexadecimal, which takes linear time
NUMPY_KINDS = "biufc"
_DTYPE = re.compile(r"[<>|=][biufc]\d{1,2}")

Keep = Callable[[object], int | str]
Find = Callable[[int | str], object]


class Unsendable(ValueError):  # noqa: N818 - it names the value
    """A value cannot cross: too large, too deep, endless, or of no plain type."""


def dumps(value: object, keep: Keep) -> bytes:
    """Serialize a value; `keep` returns the number of an object that stays on this side.

    Raises:
        Unsendable: it is too large, too deep or endless.
    """
    try:
        data = _WRITE(_encode(value, keep, MAX_DEPTH)).encode()
    except RecursionError:
        raise Unsendable("nested too deeply") from None
    if len(data) > MAX_BYTES:
        raise Unsendable(f"{len(data):,} bytes, more than {MAX_BYTES:,}")
    return data


def loads(data: bytes, find: Find) -> Any:
    """Deserialize a value; `find` returns the object of a reference.

    >>> loads(dumps((1, {2.5: {"x"}}), id), id)
    (1, {2.5: {'x'}})

    Raises:
        Unsendable: the data is not what `dumps` writes.
    """
    try:
        return _decode(_READ(data.decode()), find, MAX_DEPTH)
    except Unsendable:
        raise
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError, ArithmeticError) as error:
        raise Unsendable(f"not a plain value: {type(error).__name__}") from None


class Match:
    """A copy of an `re.Match` of the other side: always true, with its groups and their positions."""

    __slots__ = ("_groups", "regs")

    def __init__(self, groups: list[Any], regs: list[list[int]]) -> None:
        self._groups, self.regs = groups, tuple((int(start), int(end)) for start, end in regs)

    def __getitem__(self, index: int) -> Any:
        return self._groups[index]

    def group(self, *indices: int) -> Any:
        texts = tuple(self._groups[index] for index in indices or (0,))
        return texts if len(texts) > 1 else texts[0]

    def groups(self) -> tuple[Any, ...]:
        return tuple(self._groups[1:])

    def span(self, index: int = 0) -> tuple[int, int]:
        return self.regs[index]

    def start(self, index: int = 0) -> int:
        return self.regs[index][0]

    def end(self, index: int = 0) -> int:
        return self.regs[index][1]


class Tagged(tuple[str, Any]):
    """A JSON object with one key."""

    __slots__ = ()


def _one_pair(pairs: list[tuple[str, Any]]) -> Tagged:
    if len(pairs) != 1:
        raise Unsendable("an object of several keys")
    return Tagged(pairs[0])


def _refuse_constant(word: str) -> float:
    raise Unsendable(f"the word {word}")


_WRITE = json.JSONEncoder(allow_nan=False, separators=(",", ":"), check_circular=False).encode
_READ = json.JSONDecoder(object_pairs_hook=_one_pair, parse_constant=_refuse_constant).decode


def _encode(value: Any, keep: Keep, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return _short_enough(value)
    if kind is int:
        return value if value.bit_length() <= PLAIN_INT_BITS else {"int": hex(value)}
    if kind is float:
        return value if value - value == 0 else {"float": repr(value)}
    if depth == 0:
        raise Unsendable("nested too deeply")
    if kind is list:
        return [_encode(item, keep, depth - 1) for item in value]
    encode = _ENCODERS.get(kind)
    return encode(value, keep, depth) if encode is not None else _encode_other(value, kind, keep, depth)


def _encode_other(value: Any, kind: type, keep: Keep, depth: int) -> Any:
    """Encode an instance of a subclass, an array, an iterator, or a reference to an object."""
    for base in _BASES:
        if issubclass(kind, base):
            return _encode(_as_base(base, value), keep, depth)
    if (numpy := sys.modules.get("numpy")) and issubclass(kind, numpy.ndarray | numpy.generic):
        return _encode_numpy(value)
    if issubclass(kind, Iterator):
        return {"iterator": [_encode(item, keep, depth - 1) for item in _items(value)]}
    return {"ref": keep(value)}


def _items(values: Any) -> list[Any]:
    items = list(itertools.islice(values, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise Unsendable(f"more than {MAX_ITEMS:,} items")
    return items


def _sequence(name: str) -> Callable[[Any, Keep, int], Any]:
    return lambda value, keep, depth: {name: [_encode(item, keep, depth - 1) for item in value]}


def _mapping(name: str) -> Callable[[Any, Keep, int], Any]:
    return lambda value, keep, depth: {
        name: [[_encode(key, keep, depth - 1), _encode(item, keep, depth - 1)] for key, item in value.items()]
    }


def _text(name: str, write: Callable[[Any], str]) -> Callable[[Any, Keep, int], Any]:
    return lambda value, _keep, _depth: {name: write(value)}


def _short_enough(value: Any) -> Any:
    """Refuse what is too large before the slow work of encoding it."""
    if len(value) > MAX_BYTES:
        raise Unsendable(f"{len(value):,} characters, more than {MAX_BYTES:,}")
    return value


def _base64(value: Any) -> str:
    return base64.b64encode(bytes(_short_enough(value))).decode()


_ENCODERS: dict[type, Callable[[Any, Keep, int], Any]] = {
    tuple: _sequence("tuple"),
    set: _sequence("set"),
    frozenset: _sequence("frozenset"),
    collections.deque: _sequence("deque"),
    type({}.keys()): _sequence("keys"),
    type({}.values()): _sequence("iterator"),
    type({}.items()): lambda value, keep, depth: {"items": _mapping("dict")(dict(value), keep, depth)["dict"]},
    dict: _mapping("dict"),
    collections.OrderedDict: _mapping("ordered"),
    collections.defaultdict: _mapping("defaultdict"),
    collections.Counter: _mapping("counter"),
    range: lambda value, _keep, _depth: {"range": [hex(value.start), hex(value.stop), hex(value.step)]},
    complex: lambda value, _keep, _depth: {"complex": [repr(value.real), repr(value.imag)]},
    bytes: _text("bytes", _base64),
    bytearray: _text("bytearray", _base64),
    decimal.Decimal: _text("decimal", str),
    fractions.Fraction: lambda value, _keep, _depth: {"fraction": [hex(value.numerator), hex(value.denominator)]},
    dt.date: _text("date", dt.date.isoformat),
    dt.datetime: _text("datetime", dt.datetime.isoformat),
    dt.time: _text("time", dt.time.isoformat),
    dt.timedelta: lambda value, _keep, _depth: {"timedelta": [value.days, value.seconds, value.microseconds]},
    type: lambda value, keep, _depth: {"type": value.__name__} if value in _TYPES.values() else {"ref": keep(value)},
    re.Match: lambda value, keep, depth: {"match": [_encode([value[0], *value.groups()], keep, depth), value.regs]},
    array.array: lambda value, keep, depth: {"array": [value.typecode, _encode(value.tolist(), keep, depth)]},
}
_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        int,
        float,
        complex,
        bool,
        str,
        bytes,
        bytearray,
        list,
        tuple,
        dict,
        set,
        frozenset,
        range,
        object,
        type,
    )
}
_BASES = (
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
    dict,
    list,
    tuple,
    set,
    frozenset,
    collections.deque,
)


def _as_base(base: type, value: Any) -> Any:
    """Return what the builtin's own methods see in an instance of a subclass."""
    if issubclass(base, dict):
        plain = {key: dict.__getitem__(value, key) for key in dict.__iter__(value)}
        return collections.defaultdict(None, plain) if base is collections.defaultdict else base(plain)
    if base in {list, tuple, set, frozenset, collections.deque}:
        return base(base.__iter__(value))
    plain_of: dict[type, Callable[[Any], Any]] = {
        int: lambda item: int.__add__(item, 0),
        float: lambda item: float.__add__(item, 0.0),
        complex: lambda item: complex.__add__(item, 0),
        str: str.__str__,
        bytes: lambda item: bytes(bytes.__iter__(item)),
        bytearray: lambda item: bytearray(bytearray.__iter__(item)),
    }
    return plain_of[base](value)


def _encode_numpy(value: Any) -> Any:
    if value.dtype.kind not in NUMPY_KINDS:
        raise Unsendable(f"an array of {value.dtype}")
    if value.nbytes > MAX_BYTES:
        raise Unsendable(f"an array of {value.nbytes:,} bytes")
    numpy = sys.modules["numpy"]
    data = _base64(numpy.ascontiguousarray(value).tobytes())
    return {"numpy": [value.dtype.str, list(value.shape), data, isinstance(value, numpy.generic)]}


def _decode(tree: Any, find: Find, depth: int) -> Any:
    kind = type(tree)
    if tree is None or kind is bool or kind is str or kind is int or kind is float:
        return tree
    if depth == 0:
        raise Unsendable("nested too deeply")
    if kind is list:
        return [_decode(item, find, depth - 1) for item in tree]
    name, payload = tree
    if name == "ref" and type(payload) in {int, str}:
        return find(payload)
    if name in _OF_ITEMS:
        return _OF_ITEMS[name]([_decode(item, find, depth - 1) for item in _list(payload)])
    if name in _OF_PAIRS:
        pairs = ((_decode(key, find, depth - 1), _decode(item, find, depth - 1)) for key, item in _list(payload))
        return _OF_PAIRS[name](dict(pairs))
    return _OF_WORDS[name](payload)


def _list(payload: Any) -> list[Any]:
    if type(payload) is not list:
        raise Unsendable("not a list")
    return payload


def _exactly(number: int, parts: list[Any]) -> list[Any]:
    if len(parts) != number:
        raise Unsendable(f"{len(parts)} parts instead of {number}")
    return parts


def _refuse_reference(_: int | str) -> object:
    raise Unsendable("a reference inside a plain value")


def _decode_numpy(payload: Any) -> Any:
    import numpy as np

    kind, shape, data, is_scalar = payload
    if not (type(kind) is str and _DTYPE.fullmatch(kind)):
        raise Unsendable("an array of no plain numbers")
    dtype = np.dtype(kind)
    array_ = np.frombuffer(base64.b64decode(data, validate=True), dtype).reshape(shape).copy()
    return array_[()] if is_scalar is True else array_


def _decode_array(payload: Any) -> Any:
    code, items = payload
    return array.array(code, "".join(items) if code == "u" else items)


_OF_ITEMS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "iterator": iter,
    "keys": lambda items: dict.fromkeys(items).keys(),
}
_OF_PAIRS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": dict,
    "ordered": collections.OrderedDict,
    "defaultdict": lambda pairs: collections.defaultdict(None, pairs),
    "counter": collections.Counter,
    "items": lambda pairs: pairs.items(),
}
_OF_WORDS: dict[str, Callable[[Any], Any]] = {
    "int": lambda word: int(word, 16),
    "float": float,
    "range": lambda words: range(*_exactly(3, [int(word, 16) for word in words])),
    "complex": lambda words: complex(*_exactly(2, [float(word) for word in words])),
    "bytes": lambda word: base64.b64decode(word, validate=True),
    "bytearray": lambda word: bytearray(base64.b64decode(word, validate=True)),
    "decimal": lambda word: decimal.Decimal(str(word)),
    "fraction": lambda words: fractions.Fraction(*_exactly(2, [int(word, 16) for word in words])),
    "date": dt.date.fromisoformat,
    "datetime": dt.datetime.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda parts: dt.timedelta(*_exactly(3, parts)),
    "type": lambda name: _TYPES[name],
    "match": lambda parts: Match(_decode(parts[0], _refuse_reference, MAX_DEPTH), parts[1]),
    "array": _decode_array,
    "numpy": _decode_numpy,
}
