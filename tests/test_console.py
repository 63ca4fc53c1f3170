"""Events reach a person as bars and lines, and a program as JSON lines."""

import io
import json

import pytest

from ibidem import console, log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars() -> None:
    stream = Terminal()
    with console.console(stream=stream), log.progress("some.work", 2, "items") as bar:
        bar.advance()
        log.event("note", text="[bold]kept as it is[/bold]", counts={"nested": 1})
        log.event("train.step", step=1)
        bar.advance()
    shown = stream.getvalue()
    assert "some work" in shown
    assert "note: text [bold]kept as it is[/bold]" in shown
    assert "{" not in shown
    assert "train step" not in shown


def test_a_line_has_no_nested_values_and_no_newline() -> None:
    with console.console(stream=(stream := io.StringIO())):
        log.event(
            "train.sample",
            step=1200,
            loss=2.30512,
            ok=True,
            none=None,
            names=["a", "b"],
            long=list(range(9)),
            counts={"a": 1},
            digest="sha256:" + "a" * 64,
            text="one\ntwo " + "x" * 200,
            tokens_per_s=12345,
            reason="why",
        )
    (line,) = stream.getvalue().splitlines()
    said = "train sample: step 1,200, loss 2.305, ok yes, names a b, digest sha256:aaaaaaaaaaaa, text one\\ntwo xxx"
    assert line[9:].startswith(said)
    assert line.endswith("x..., tokens/s 12,345; why")


def test_what_a_stage_said_is_shown_as_it_is() -> None:
    with console.console(stream=(stream := io.StringIO())):
        log.event("demo", said="data: 3 documents")
        log.event("demo", said=None)
    assert [line[9:] for line in stream.getvalue().splitlines()] == ["data: 3 documents"]


@pytest.mark.parametrize(("form", "every_s"), list(console.INTERVAL_S.items()))
def test_the_same_progress_is_told_now_and_then(
    form: console.Form, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with console.console(form, stream := io.StringIO()), log.progress("work", 1000, "steps") as bar:
        for _ in range(1000):
            now += 0.0625
            bar.advance(loss=1.5)
    lines = stream.getvalue().splitlines()
    begun = form == "json"
    assert len(lines) == pytest.approx(62.5 / every_s + begun, abs=1)
    last = json.loads(lines[-1]) if form == "json" else lines[-1][9:]
    if form == "json":
        assert (last["state"], last["done"], last["seconds"]) == ("finished", 1000.0, 62.5)
    else:
        assert last == "work: 1,000 steps in 1 min 02 s, loss 1.5"
        assert lines[0][9:] == "work: 160 of 1,000 steps (16 %), 16 steps/s, 52.5 s left, loss 1.5"


def test_work_that_stops_is_told() -> None:
    with console.console(stream=(stream := io.StringIO())), pytest.raises(KeyError), log.progress("work", 4) as bar:
        bar.advance()
        raise KeyError
    with console.console(stream=(other := io.StringIO())), log.progress("work", 1, "shards") as bar:
        bar.advance()
    assert other.getvalue().endswith("work: 1 shard in 0.0 s\n")
    assert "work: 1 of 4 items (25 %) in 0.0 s, stopped" in stream.getvalue()


def test_a_reason_is_one_line_without_commands_to_the_terminal() -> None:
    with console.console(stream=(stream := io.StringIO())):
        log.event("refused", reason="one\ntwo\x1b[2J")
    assert stream.getvalue()[9:] == "refused: one\\ntwo\\x1b[2J\n"


def test_more_than_everything_leaves_no_time() -> None:
    records: list[log.Record] = []
    with log.showing(records.append), log.progress("work", 2) as bar:
        bar.advance(3)
    assert records[-1]["eta_s"] == 0
