"""What a candidate may send, whatever it is, gets a verdict, and passes only with the right answer."""

import contextlib
import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import REPOSITORY

from ibidem.sandbox import messages, values
from ibidem.sandbox.program import Kind

_SPEC = importlib.util.spec_from_file_location("fuzz_protocol", REPOSITORY / "benchmarks" / "fuzz_protocol.py")
fuzz_protocol = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz_protocol)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_frame_breaks_the_referee_or_passes_without_the_right_answer(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "os", messages.os)  # put back what the fuzzer replaces
    found = fuzz_protocol.fuzz(2000, seed)
    assert found["broken_promises"] == []
    assert set(found["verdicts"]) <= set(Kind)
    assert found["verdicts"]["passed"] > 50
    assert min(found["frames_of"].values()) > 50


def test_the_fuzzer_notices_a_referee_that_takes_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "os", messages.os)
    monkeypatch.setattr(values, "loads", lambda *_: ("value", 42, None))
    monkeypatch.setattr(fuzz_protocol.referee.Link, "start", lambda *_: None)
    assert fuzz_protocol.fuzz(500, 1)["broken_promises"]


@given(st.binary(max_size=60) | st.text(alphabet='[]{},:"0123456789eE.-tuplerfNaN', max_size=60).map(str.encode))
def test_any_bytes_are_a_plain_value_or_refused(data: bytes) -> None:
    def find(_: object) -> None:
        raise values.Unsendable("a reference")

    with contextlib.suppress(values.Unsendable):
        values.loads(data, find)
