import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import shards
from ibidem.errors import ArtifactError, ConfigError
from ibidem.page import MOST_ROWS, table, tag, ticks
from ibidem.records import DropReason
from ibidem.serving.config import ReportConfig
from ibidem.serving.report import heading, report
from ibidem.serving.report_corpus import corpora, explanations
from ibidem.serving.run_history import History, Run, history_of

EVIL = "<script>alert('1')</script>"
MISSING = "NOT MEASURED"


def dropped_row(reason: str, repo: str, path: str, detail: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(shards.DROPPED_SCHEMA.names)
    return row | {"source": "s", "record": path, "reason": reason, "repo": repo, "path": path, "detail": detail}


DROPPED = [
    dropped_row("license.denied", "chardet", "chardet/a.py", "LGPL-2.0-or-later"),
    dropped_row("license.denied", "chardet", "chardet/b.py", "LGPL-2.0-or-later"),
    dropped_row("license.header", "setuptools", f"vendor/{EVIL}.py", "GNU Lesser General Public License"),
]

PART = "dropped-00000.parquet"


def make_dataset(path: Path, rows: list[dict[str, Any]]) -> artifacts.Artifact:
    source = artifacts.Input("source", "sha256:" + "1" * 64, "somewhere", is_artifact=False)
    with artifacts.create(path, kind="dataset", config={}, inputs=[source]) as draft:
        shards.write_dropped(draft.path / PART, pa.Table.from_pylist(rows, schema=shards.DROPPED_SCHEMA))
        draft.counts |= {
            "read": 12_345,
            "kept": 12_342,
            "dropped": {"license.denied": 2, "license.header": 1} if rows else {},
            "quarantined": 0,
            "bytes": 7_654_321,
            "skipped_files": {"over the cap": 17},
            "license": {"MIT": 12_000, EVIL: 342},
            "language": {f"language {n}": n for n in range(1, 21)},
            "natural_language": {"none": 12_342},
            "category": {"code": 12_342},
            "scrubbed": {"email": 1_717},
            "lengths": {"256": 12_000, "512": 342},
            "clusters": {"clusters": 19, "documents": 77, "largest": 13},
            "source": {"somewhere": 12_342},
        }
    return artifacts.load(path)


def make_tokenizer(path: Path, dataset: artifacts.Artifact) -> artifacts.Artifact:
    inputs = [dataset.as_input("dataset", of=path)]
    with artifacts.create(path, kind="tokenizer", config={}, inputs=inputs) as draft:
        vocabulary = "<unk>\t0\n\u2581return\u2581None\U0010fffc\t-9\n----------------\t-8\n"
        (draft.path / "tokenizer.vocab").write_text(vocabulary, encoding="utf-8")
        draft.counts |= {"vocab_size": 512, "learned": 236, "reserved": 0, "bytes_per_token": 2.5}
    return artifacts.load(path)


def make_run(folder: Path, events: list[dict[str, Any]], *, dropped: list[dict[str, Any]] = DROPPED) -> Path:
    """Leave what preprocess, train-tokenizer and train leave."""
    run, checkpoint = folder / "run", folder / "run" / "checkpoints" / "step-000002"
    dataset = make_dataset(folder / "data", dropped)
    tokenizer = make_tokenizer(folder / "tokenizer", dataset)
    parents = {"dataset": dataset, "tokenizer": tokenizer}
    with artifacts.create(
        run / "tokens",
        kind="tokens",
        config={},
        inputs=[one.as_input(role, of=run / "tokens") for role, one in parents.items()],
    ) as draft:
        (draft.path / "train.bin").write_bytes(bytes(8))
    inputs = [artifacts.load(run / "tokens").as_input("tokens", of=checkpoint)]
    inputs.append(tokenizer.as_input("tokenizer", of=checkpoint))
    settings = {"train": {"optim": {"lr": 0.002}, "context": None}}
    with artifacts.create(checkpoint, kind="checkpoint", config=settings, inputs=inputs) as draft:
        (draft.path / "model.safetensors").write_bytes(bytes(100))
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


def step(number: int, time: float, **figures: Any) -> dict[str, Any]:
    figures = {
        "tokens": number * 1024,
        "loss": 9.0 / number,
        "grad_norm": 1.0,
        "lr": 1e-3,
        "tokens_per_s": 900,
    } | figures
    return {"time": time, "event": "train.step", "step": number, **figures}


def measured(number: int, time: float, bits: float) -> dict[str, Any]:
    return {"time": time, "event": "train.measured", "step": number, "bits_per_byte": bits, "held_out_loss": 1.0}


def sample(number: int, time: float, completion: str) -> dict[str, Any]:
    return {"time": time, "event": "train.sample", "step": number, "prompt": "def f(", "completion": completion}


STARTED = {"time": 100.0, "event": "train.started", "step": 0, "parameters": 6_623_232, "processes": 1}
EVENTS = [
    STARTED,
    sample(0, 101.0, EVIL),
    measured(0, 102.0, 5.0),
    step(1, 103.0),
    step(2, 104.0),
    sample(2, 104.5, "x): \ud800"),
    measured(2, 105.0, 2.0),
]


def page_of(run: Path, **settings: Any) -> str:
    output = run.parent / "out" / "report.html"
    assert str(output) in report(ReportConfig(run=run, output=output, **settings))
    return output.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Notes the tags, what they refer to, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, EVENTS))
    reader = Reader(page)
    assert reader.open == []
    assert all(reference.startswith("#") for reference in reader.references)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not re.search(r"https?:|//|url\(|@import", page)
    assert "default-src 'none'" in page


def test_whatever_comes_from_data_is_escaped(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(
        json.dumps({"task": EVIL, "checkpoint_digest": EVIL, EVIL: EVIL, "items": 1, "note": {EVIL: EVIL}})
    )
    page = page_of(make_run(tmp_path, EVENTS), title=f"T {EVIL}", evaluation=(result,))
    assert EVIL not in page
    # title twice, license, path three times, sample, task, digest, a figure and its value, a note and its value
    assert Reader(page).text.count(EVIL) == 13


def test_an_attribute_cannot_end_its_own_quotes() -> None:
    assert tag("i", title='"><b onclick="') == '<i title="&quot;&gt;&lt;b onclick=&quot;"></i>'


def test_the_figures_are_there(tmp_path: Path) -> None:
    text = Reader(page_of(make_run(tmp_path, EVENTS), title="A run")).text
    for figure in (
        "A run",
        "12,342",
        "of 12,345 read",
        "7,654,321",
        "6,623,232",
        "5.000 → 2.000 40.0 % of the first",
        "2,048 2 steps",
        "others (5)",
        "chardet license.denied chardet/a.py LGPL-2.0-or-later 2",
        f"setuptools vendor/{EVIL}.py GNU Lesser General Public License",
        "none: it is code, or prose too short to tell 12,342",
        "skipped files: over the cap 17",
        "·return·None⏎",
        "step 2: 4.5",
        "x): \\ud800",
        "train.optim.lr 0.002",
        "Training the model 5.0 s",
    ):
        assert figure in text, figure
    assert "----------------" not in text


def test_the_sections_stand_in_their_order(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, EVENTS))
    names = ["Corpus", "Tokenizer", "Training", "Samples", "Evaluation", "Lineage", "Time"]
    assert re.findall(r"<h2>(.*?)</h2>", page) == names
    assert re.findall(r'<section id="(.*?)">', page) == [name.lower() for name in names]


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    assert page_of(run) == page_of(run)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, [STARTED, step(1, 101.0, grad_norm=float("nan"))], dropped=[]))
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, flags=re.DOTALL))
    assert MISSING in sections["samples"]
    assert MISSING in sections["evaluation"]
    assert re.search(rf"Held-out bits per byte <span class=.missing.>{MISSING}", sections["training"])
    assert re.search(rf"Gradient norm <span class=.missing.>{MISSING}", sections["training"])
    assert sections["training"].count("<svg") == 3
    assert "nan" not in sections["training"].lower()


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_dataset_that_is_gone_is_said_and_not_guessed(damage: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    if damage == "changed":
        make_dataset(tmp_path / "data", DROPPED[:1])
    page = page_of(run)
    assert f'<div class="bad">{damage}</div>' in page
    assert "12,342" not in page
    assert MISSING in page


def test_evidence_that_was_changed_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    shards.write_dropped(tmp_path / "data" / PART, shards.DROPPED_SCHEMA.empty_table())
    page = page_of(run)
    assert "chardet" not in page
    assert f"{MISSING}</span> One of dropped-*.parquet is missing, or differs from the manifest" in page


def test_samples_are_those_of_the_first_a_middle_and_the_last_step(tmp_path: Path) -> None:
    samples = [sample(number, 100.0 + number, f"after {number}") for number in range(0, 101, 10)]
    text = Reader(page_of(make_run(tmp_path, [STARTED, *samples, step(100, 300.0)]))).text
    shown = [int(number) for number in re.findall(r"step (\d+) def f\(after \d+", text.replace("( ", "("))]
    assert shown[0] == 0
    assert shown[-1] == 100
    assert 50 in shown or 40 in shown
    assert "6 of 11 completions" in text


def test_a_completion_that_looks_like_nothing_is_named(tmp_path: Path) -> None:
    events = [STARTED, sample(0, 101.0, ""), sample(1, 102.0, " " * 300), sample(2, 103.0, "x" + "\n" * 40)]
    text = Reader(page_of(make_run(tmp_path, events))).text
    for named in ("the end of the document", "300 blanks and newlines", "x 40 blanks and newlines"):
        assert named in text
    one = Reader(page_of(make_run(tmp_path / "one", [STARTED, sample(0, 101.0, "\n")]))).text
    assert "1 blank or newline" in one
    assert "1 blanks" not in one


def test_a_run_without_samples_says_why(tmp_path: Path) -> None:
    why = {"time": 100.5, "event": "train.no_samples", "reason": "the weights are sharded"}
    text = Reader(page_of(make_run(tmp_path, [STARTED, why, step(1, 101.0)]))).text
    assert f"{MISSING} No prompt was completed: the weights are sharded." in text


def test_a_resumed_run_is_told_by_its_later_account() -> None:
    resumed = STARTED | {"time": 1000.0, "step": 1}
    history = history_of([*EVENTS, resumed, step(2, 1003.0, loss=7.0)])
    assert history.curve("train.step", "loss") == [(1, 9.0), (2, 7.0)]
    assert history.curve("train.measured", "bits_per_byte") == [(0, 5.0)]
    assert list(history.completions("def f(")) == [0]
    assert (history.sessions, history.seconds) == (2, 8.0)


def test_a_torn_line_and_a_damaged_newest_checkpoint_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    (run / "checkpoints" / "step-000003").mkdir()
    with (run / "events.jsonl").open("a") as file:
        file.write('{"time": 106.0, "event": "train.st\n')
    page = page_of(run)
    assert "Checkpoint step-000002" in page
    assert "Torn lines of events.jsonl, left out: 1." in page


def test_long_lists_are_cut_and_say_so(tmp_path: Path) -> None:
    many = [dropped_row("license.header", "p", f"file-{n}.py", "GPL") for n in range(MOST_ROWS + 7)]
    text = Reader(
        page_of(make_run(tmp_path, [STARTED, *(step(n, 100.0 + n) for n in range(1, 1001))], dropped=many))
    ).text
    assert "and 7 more" in text
    assert "each point the mean of 3 steps" in text


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (lambda run: (run / "events.jsonl").unlink(), ArtifactError, "events.jsonl: No such file"),
        (lambda run: (run / "events.jsonl").write_text("\n"), ArtifactError, "no event"),
        (lambda run: (run / "checkpoints").rename(run / "gone"), ArtifactError, "no whole checkpoint"),
        (
            lambda run: (run / "checkpoints" / "step-000002" / "manifest.json").write_text("{"),
            ArtifactError,
            "no whole checkpoint",
        ),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(damage: Any, error: type[Exception], named: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    damage(run)
    with pytest.raises(error, match=named) as caught:
        page_of(run)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_or_a_result_that_cannot_be_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    with pytest.raises(ConfigError, match="name a file"):
        report(ReportConfig(run=run, output=tmp_path))
    with pytest.raises(ConfigError, match="would damage"):
        report(ReportConfig(run=run, output=tmp_path / "data" / "report.html"))
    (run / "notes.html").write_text("<!doctype html>\n<p>mine</p>")
    os.mkfifo(run / "fifo")
    for name in ("events.jsonl", "notes.html", "fifo"):
        with pytest.raises(ConfigError, match="is not a report"):
            report(ReportConfig(run=run, output=run / name))
    with pytest.raises(ConfigError, match=r"none\.json: No such file"):
        page_of(run, evaluation=(tmp_path / "none.json",))


def test_every_drop_reason_is_explained() -> None:
    assert set(explanations()) == set(DropReason)
    assert all(explanations().values())


@pytest.mark.parametrize("values", [[0.0], [7.5], [1e-5, 2e-3], [2.9, 3.1], [5e8, 6e8], [-1.0, 1.0]])
def test_ticks_enclose_the_values_and_are_few(values: list[float]) -> None:
    chosen = ticks(values)
    assert chosen[0] <= min(values) <= max(values) <= chosen[-1]
    assert 3 <= len(chosen) <= 8
    assert chosen == sorted(set(chosen))


def test_the_report_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'sentencepiece'}"
    code = f"import sys, ibidem.serving.report; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_blend_is_shown_before_what_it_was_made_of(dataset: Path, tmp_path: Path) -> None:
    flags = ["--datasets.mine.path", str(dataset), "--shares.code", "1", "--output-dir", str(tmp_path / "blend")]
    assert main(["blend", *flags, "--datasets.mine.max-repeats", "2"]) == 0
    page = str(corpora([artifacts.load(tmp_path / "blend"), artifacts.load(dataset)]))
    assert "code 100.0 %; no more code" in page
    assert "241 documents in 482 rows." in page
    assert page.index("Blend") < page.index("documents read")
    assert page.count("documents read") == 1
    blended = artifacts.load(tmp_path / "blend")
    inputs = [blended.as_input("dataset", of=tmp_path / "step-1")]
    with artifacts.create(tmp_path / "step-1", kind="checkpoint", config={}, inputs=inputs) as draft:
        (draft.path / "weights").write_text("w")
    run = Run(tmp_path, artifacts.load(tmp_path / "step-1"), History(), 0)
    text = re.sub("<[^>]+>", " ", str(heading("t", run, [])))
    assert re.search(r"Documents kept\s+241\s+of 242 read", text)
    assert re.search(r"Rows of the blend\s+482\s+repeats included", text)


def test_a_wide_table_names_its_columns_in_every_row_for_narrow_screens() -> None:
    narrow, wide = table(["a"] * 4, [["x"] * 4]), table(["a < b"] * 5, [["x"] * 5])
    assert "data-head" not in narrow
    assert wide.count('<td data-head="a &lt; b">x</td>') == 5
