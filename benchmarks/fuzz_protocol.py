"""Fuzz what a candidate may send to the referee: no frame breaks it, and none passes a test without the right answer.

    python benchmarks/fuzz_protocol.py benchmarks/results/fuzz_protocol.json [--frames 1000000] [--seed 20260101]

Each frame comes as the answer to a call; the referee reads it from a buffer in place of the socket. Tests demand a
number, a text, a list, a dictionary, an exception or a tuple, and compare it in several ways. Two promises are checked:

* every frame gets a verdict: `referee.judge` raises nothing;
* `passed` comes only with a frame that carries the right answer: an independent reader finds the expected value in it.

The frames are random bytes, valid frames with a few bytes changed, typed JSON of wrong shapes, lengths that are huge or
too short, references, numbers that are none, deep nesting, and frames cut off.
"""

import argparse
import collections
import hashlib
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ibidem.sandbox import messages, referee, values

SEED, FRAMES = 20260101, 1_000_000
MEMORY_BYTES = 4 << 30
STARTED = b'{"tuple":["done",null,null]}'
TAGS = [*values._OF_ITEMS, *values._OF_PAIRS, *values._OF_WORDS, "ref", "unknown"]
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 41, 43, 1 << 70, 0.5, -0.0, 1e308, "", "a", "42", "nan", "inf", "0x2a", "f" * 40,
    "\ud800", "\0", "AAAA", "<i8", "O", "int", "value", "raised", "StopIteration", "AssertionError", "SystemExit",
    "1e999999", "sNaN", "2024-01-01", "tests", "f", "EXPECTED", "__class__",
)  # fmt: skip
QUESTIONS: tuple[tuple[str, Any], ...] = (
    ("assert f(21) == EXPECTED", 42),
    ("r = f(21)\nassert not r != EXPECTED", 42),
    ("assert f('a') == EXPECTED", "answer"),
    ("assert [f(1)] == [EXPECTED]", [3, 1, 2]),
    ("assert len(f(1)) == 3 and list(f(2)) == EXPECTED", [3, 1, 2]),
    ("assert f({}) == EXPECTED and EXPECTED == f({})", {"a": [1, 2]}),
    ("r = f(1)\nassert type(r) is tuple and r == EXPECTED", (7, "x")),
    ("a = [3, 1, 2]\nf(a)\nassert a == EXPECTED", [1, 2, 3]),
    ("try:\n    f(1)\nexcept ZeroDivisionError:\n    raised = True\nelse:\n    raised = False\nassert raised", None),
    ("import copy\nassert copy.deepcopy(f(1)) == EXPECTED", [[42]]),
    ("assert sorted(f(1)) == EXPECTED", [5, 6]),
    ("assert abs(f(1) - EXPECTED) < 1e-6", 2.5),
    ("try:\n    assert f(1) == EXPECTED\nexcept Exception:\n    assert f(2) == EXPECTED", 42),
)  # fmt: skip


class Buffer:
    """Stands for the socket: what is sent is dropped, and what is read are the frames."""

    def __init__(self) -> None:
        self.data, self.at = b"", 0

    def read(self, _descriptor: int, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        self.at += len(part)
        return part


def framed(data: bytes, length: int | None = None) -> bytes:
    """Return a frame, of a false length if one is given."""
    return (len(data) if length is None else length).to_bytes(4, "little") + data


def tree(rng: random.Random, depth: int) -> Any:
    """Return JSON that looks typed: a known tag over any payload."""
    if depth == 0 or rng.random() < 0.35:
        return rng.choice(SCALARS)
    items = [tree(rng, depth - 1) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    pick = rng.random()
    if pick < 0.25:
        return items
    if pick < 0.3:
        return {str(rng.choice(TAGS)): item for item in items}
    payload = items if rng.random() < 0.7 else rng.choice([*SCALARS, [[item, item] for item in items]])
    return {rng.choice(TAGS): payload}


def random_bytes(rng: random.Random, _answer: bytes) -> bytes:
    return framed(rng.randbytes(rng.randrange(200)))


def raw_bytes(rng: random.Random, _answer: bytes) -> bytes:
    return rng.randbytes(rng.randrange(40))


def mutated(rng: random.Random, answer: bytes) -> bytes:
    data = bytearray(answer)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(2)] = rng.choice((b"", b"[", b"]", b"{", b'"', b",", b"9", b"\xff", b"e", b"\\"))
        data = data or bytearray(b"0")
    return framed(bytes(data))


def of_wrong_shape(rng: random.Random, _answer: bytes) -> bytes:
    return framed(json.dumps(tree(rng, 4)).encode())


def answer_of_any_value(rng: random.Random, _answer: bytes) -> bytes:
    words = [rng.choice(("value", "value", "value", "raised", "done")), tree(rng, 3), tree(rng, 2)]
    return framed(json.dumps({"tuple": words}).encode())


def raised(rng: random.Random, _answer: bytes) -> bytes:
    kinds = ("ValueError", "AssertionError", "StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit",
             "ExceptionGroup", "UnicodeDecodeError", "MemoryError", "print", "object", "Fault", "")  # fmt: skip
    return framed(json.dumps({"tuple": ["raised", rng.choice(kinds), rng.choice(("", "Unsendable: x", "x"))]}).encode())


def of_false_length(rng: random.Random, answer: bytes) -> bytes:
    length = rng.choice((0, 1, len(answer) - 1, len(answer) + 1, 1 << 20, 1 << 24, (1 << 32) - 1))
    return framed(answer, length)


def cut_off(rng: random.Random, answer: bytes) -> bytes:
    return framed(answer)[: rng.randrange(len(answer) + 4)]


def reference(rng: random.Random, _answer: bytes) -> bytes:
    to = rng.choice((0, 7, -1, 1 << 80, "f", "EXPECTED", "tests", "__class__", 1.5, None, [1]))
    value = rng.choice(({"ref": to}, [{"ref": to}], {"set": [{"ref": to}]}, {"dict": [[{"ref": to}, 1]]}))
    return framed(json.dumps({"tuple": ["value", value, None]}).encode())


def no_number(rng: random.Random, _answer: bytes) -> bytes:
    word = rng.choice((b"NaN", b"Infinity", b'{"float":"nan"}', b'{"decimal":"NaN"}', b'{"complex":["nan","0"]}',
                       b'{"decimal":"sNaN"}', b'{"set":[{"decimal":"sNaN"}]}', b"1e999", b"9" * 5000))  # fmt: skip
    return framed(b'{"tuple":["value",' + rng.choice((word, b"[" + word + b"]")) + b",null]}")


def nested(rng: random.Random, _answer: bytes) -> bytes:
    depth = rng.choice((50, 99, 101, 500, 3000))
    left, right = rng.choice(((b"[", b"]"), (b'{"tuple":[', b"]}"), (b'{"iterator":[', b"]}"), (b'{"a":', b"}")))
    return framed(b'{"tuple":["value",' + left * depth + b"1" + right * rng.choice((depth, 0)) + b",null]}")


def right(_rng: random.Random, answer: bytes) -> bytes:
    return framed(answer)


MAKERS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    random_bytes, raw_bytes, mutated, mutated, mutated, of_wrong_shape, answer_of_any_value, answer_of_any_value,
    raised, of_false_length, cut_off, reference, no_number, nested, right,
)  # fmt: skip


def answer_to(tests: str, expected: Any) -> bytes:
    """Return the right answer to a question, as an honest candidate writes it."""
    words: tuple[Any, ...] = ("value", expected, None)
    if "raised" in tests:
        words = ("raised", "ZeroDivisionError", "ZeroDivisionError: x")
    elif "f(a)" in tests:
        words = ("value", None, (expected,))
    return values.dumps(words, lambda _: 0)


def carries(tests: str, expected: Any, frames: list[bytes]) -> bool:
    """Return whether one of the frames holds the right answer, as plain `json` reads it."""
    for frame in frames:
        try:
            words = json.loads(frame[4 : 4 + int.from_bytes(frame[:4], "little")])["tuple"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if type(words) is not list or len(words) != 3:
            continue
        if "raised" in tests:
            if words[:2] == ["raised", "ZeroDivisionError"]:
                return True
            continue
        try:
            told = words[2]["tuple"][0] if "f(a)" in tests else words[1]
            if _plain(told, tests) == _plain(json.loads(values.dumps(expected, lambda _: 0)), tests):
                return True
        except (ValueError, KeyError, TypeError, IndexError):
            continue
    return False


def _plain(told: Any, tests: str) -> Any:
    """Return typed JSON as what `==` compares: mappings and numbers of any kind alike, sorted where tests sort."""
    if isinstance(told, dict) and len(told) == 1:
        ((tag, payload),) = told.items()
        if tag in {"dict", "ordered", "defaultdict", "counter"} and isinstance(payload, list):
            return {json.dumps(key): _plain(item, tests) for key, item in payload}
        if tag in {"int", "float", "decimal", "complex", "fraction"}:
            return _number(tag, payload)
        is_items = "sorted" in tests or "list(f" in tests
        told = payload if is_items and isinstance(payload, list) else told
    if isinstance(told, list):
        items = [_plain(item, tests) for item in told]
        return sorted(items, key=repr) if "sorted" in tests else items
    return told


def _number(tag: str, payload: Any) -> Any:
    try:
        if tag in {"complex", "fraction"}:
            first, second = payload
            return complex(float(first), float(second)) if tag == "complex" else int(first, 16) / int(second, 16)
        return int(payload, 16) if tag == "int" else float(payload)
    except (ValueError, TypeError, ArithmeticError):
        return payload


def fuzz(frames: int, seed: int) -> dict[str, Any]:
    """Judge that many frames; return the counts, with the frames that broke a promise."""
    rng, buffer = random.Random(seed), Buffer()
    messages.os = type("Os", (), {"read": buffer.read, "write": lambda _d, data: len(data)})  # type: ignore[attr-defined]
    answers = [answer_to(*question) for question in QUESTIONS]
    kinds, makers, broken = collections.Counter[str](), collections.Counter[str](), []
    digest, start, count = hashlib.sha256(), time.process_time(), 0
    while count < frames:
        number = rng.randrange(len(QUESTIONS))
        tests, expected = QUESTIONS[number]
        maker = rng.choice(MAKERS)
        sent = [maker(rng, answers[number]) for _ in range(2 if tests.count("f(") > 1 else 1)]
        buffer.data, buffer.at = framed(STARTED) + b"".join(sent), 0
        job = {"sources": [""], "preamble": f"EXPECTED = {expected!r}", "names": ["f"], "tests": tests}
        try:
            kind = str(referee.judge(job, 0)["kind"])
        except BaseException as error:  # noqa: BLE001 - any is a broken promise
            kind = f"raised {type(error).__name__}"
        is_broken = kind.startswith("raised ") or (kind == "passed" and not carries(tests, expected, sent))
        if is_broken and len(broken) < 20:
            broken.append({"kind": kind, "tests": tests, "frames": [frame[:500].decode("latin-1") for frame in sent]})
        digest.update(f"{kind}\n".encode())
        kinds[kind] += 1
        makers[maker.__name__] += len(sent)
        count += len(sent)
    return {
        "frames": count,
        "verdicts": dict(sorted(kinds.items())),
        "frames_of": dict(sorted(makers.items())),
        "broken_promises": broken,
        "digest_of_verdicts": digest.hexdigest(),
        "cpu_s": round(time.process_time() - start, 1),
    }


def main() -> None:
    """Fuzz, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    command = f"python benchmarks/fuzz_protocol.py {options.output} --frames {options.frames} --seed {options.seed}"
    result = {"command": command, "seed": options.seed, **fuzz(options.frames, options.seed)}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(result["broken_promises"]))


if __name__ == "__main__":
    main()
