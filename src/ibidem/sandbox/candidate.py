"""The jail of the candidate: runs untrusted code, and answers calls of its functions.

It receives the program, its setup and, call by call, the arguments. It never sees a test or an expected value.

    ("run", sources)                   -> ("done", None, None)
    ("call", name, arguments, named)   -> ("value", value, the arguments where the call has changed them)
    ("get", object, attribute)         -> ("value", value, None)
    any of them raises                 -> ("raised", builtin kind, kind and message)
"""

import os
import sys
import types
from typing import Any, NoReturn

from ibidem.sandbox import messages, values

MODULE = "program"
LONGEST_MESSAGE = 500
MUTABLE = (list, dict, set, bytearray)

Answer = tuple[str, Any, Any]


class Jail:
    """The program's names, and the objects that the other side refers to by number."""

    def __init__(self) -> None:
        self._module = types.ModuleType(MODULE)
        self._objects: list[object] = []

    def answer(self, request: bytes) -> bytes:
        """Execute a request and return the answer."""
        try:
            words = values.loads(request, self._find)
            match words[0]:
                case "run":
                    done = self._run(words[1])
                case "call":
                    done = self._call(*words[1:])
                case _:
                    done = ("value", getattr(words[1], words[2]), None)
            return values.dumps(done, self._keep)
        except BaseException as error:  # noqa: BLE001 - whatever the program raises is its answer
            return values.dumps(("raised", *_explain(error)), self._keep)

    def _run(self, sources: list[str]) -> Answer:
        sys.modules[MODULE] = self._module
        for source in sources:
            exec(compile(source, MODULE, "exec", dont_inherit=True), self._module.__dict__)  # noqa: S102 - its purpose
        return ("done", None, None)

    def _call(self, target: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Answer:
        may_change = any(type(argument) in MUTABLE for argument in arguments)
        before = values.dumps(arguments, self._keep) if may_change else b""
        value = target(*arguments, **named)
        changed = may_change and values.dumps(arguments, self._keep) != before
        return ("value", value, arguments if changed else None)

    def _keep(self, value: object) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def _find(self, reference: int | str) -> object:
        if isinstance(reference, int):
            return self._objects[reference]
        if reference not in self._module.__dict__:
            raise NameError(f"name {reference!r} is not defined")
        return self._module.__dict__[reference]


def serve(channel: int) -> NoReturn:
    """Run the program in the first message, then answer calls until the other side closes."""
    jail, reader = Jail(), messages.Reader(channel)
    while True:
        try:
            request = reader.receive()
        except EOFError:
            os._exit(0)
        messages.send(channel, jail.answer(request))


def rehearse() -> None:
    """Run a program of our own, so that Python specializes the code."""
    jail = Jail()
    requests: tuple[Any, ...] = (("run", ["def answer(x):\n    return x\n"]), ("call", jail, ([1, 2.5, "a"],), {}))
    for request in requests:
        jail.answer(values.dumps(request, lambda _: "answer"))
    del sys.modules[MODULE]


def _explain(error: BaseException) -> tuple[str, str]:
    """Return the nearest builtin kind of an exception, and its own name with its message."""
    builtin = next(kind.__name__ for kind in type.mro(type(error)) if kind.__module__ == "builtins")
    try:
        message = str(error)[:LONGEST_MESSAGE]
    except BaseException:  # noqa: BLE001 - a program may define any `__str__`
        message = ""
    return str(builtin), f"{type(error).__name__}: {message}"
