"""The report shows what a figure is worth: its interval, what it was counted over, and the model it is of."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.serving.test_report import EVENTS, MISSING, make_run, page_of

from ibidem import artifacts
from ibidem.errors import DataError
from ibidem.evaluation import evidence
from ibidem.page import Html
from ibidem.serving.report_evaluation import evaluation, losses_by_language, read_result
from ibidem.statistics import lower_bound, mean_bounds, upper_bound

MINE, OTHER = "sha256:1", "sha256:2"
NAMES = {MINE: "step-000040 of run"}
Row = dict[str, Any]


def text_of(page: Html) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page)).strip()


def result(**more: Any) -> Row:
    return {"task": "human-eval", "checkpoint_digest": MINE, "pass@1": 0.0, "items": 164, "problems": 164} | more


def figures(**more: Any) -> Row:
    measured = {"documents": 20, "tokens": 400, "bytes": 900, "perplexity": 12.5, "bits_per_byte": 2.5}
    return measured | {"bits_per_byte_error": 0.1} | more


def dashboard_row(aspect: str, value: str, digest: str = MINE, **more: Any) -> Row:
    about = {"key": "k", "checkpoint": "step-1", "checkpoint_digest": digest, "data": "d", "step": 1}
    return about | figures(aspect=aspect, value=value) | more


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_no_pass_among_164_is_zero_with_its_bound() -> None:
    assert "pass@1 0.0 % 0.0 to 1.8 % 0 of 164" in text_of(evaluation([result()], NAMES))


def test_the_interval_is_the_one_that_the_evaluation_itself_states(tmp_path: Path) -> None:
    scores = [1.0] * 3 + [0.5] * 4 + [0.0] * 13
    items = [{"id": number, "score": score} for number, score in enumerate(scores)]
    evidence.write(
        tmp_path / "e",
        "doc-qa",
        config={},
        inputs=[],
        items=items,
        metrics={"f1": sum(scores) / 20, "cited": None},
        notes={},
        trials=lambda rows, metric: {row["id"]: row["score"] for row in rows} if metric == "f1" else None,
    )
    read = read_result(tmp_path / "e")
    assert read["trials"] == {"f1": 20}
    lower, upper = mean_bounds(scores)
    text = text_of(evaluation([read], NAMES))
    assert f"f1 25.0 % {100 * lower:.1f} to {100 * upper:.1f} % 5 of 20" in text
    assert f"cited {MISSING}" in text


def test_chance_is_stated_beside_multiple_choice_figures() -> None:
    mmlu = {"task": "mmlu", "checkpoint_digest": MINE, "accuracy": 0.26, "accuracy.law": 0.5, "items": 100}
    text = text_of(evaluation([mmlu | {"chance": 0.25, "trials": {"accuracy": 100, "accuracy.law": 4}}], NAMES))
    bounds = f"{100 * lower_bound(26, 100):.1f} to {100 * upper_bound(26, 100):.1f} %"
    assert f"accuracy 26.0 % guessing: 25 % {bounds} 26 of 100" in text
    assert "accuracy.law 50.0 % guessing: 25 %" in text


def test_a_figure_that_is_no_share_has_no_interval() -> None:
    rated = {"task": "ratings", "checkpoint_digest": MINE, "alpha.helpful": -0.1, "unrated.helpful": 0, "items": 9}
    text = text_of(evaluation([rated], NAMES))
    assert "alpha.helpful -0.1 unrated.helpful 0" in text
    assert MISSING not in text


def test_whether_the_training_data_contains_the_problems_is_a_figure_too() -> None:
    searched = {"documents": 9, "problems": 0, "found": {}, "unchecked": []}
    row = "problems that occur in the training data"
    assert f"{row} 0" in text_of(evaluation([result(contamination=searched)], NAMES))
    text = text_of(evaluation([result(contamination=None, calibration=None, limit=None)], NAMES))
    for said in (f"{row} {MISSING}", f"contamination {MISSING}", f"calibration {MISSING}", "limit none"):
        assert said in text


def test_a_loss_has_its_margin_over_the_documents() -> None:
    measured = {"task": "perplexity", "checkpoint_digest": MINE, **figures()}
    few = {"task": "perplexity", "checkpoint_digest": MINE, **figures(documents=3, bits_per_byte_error=None)}
    earlier = {"task": "perplexity", "checkpoint_digest": MINE, **figures()}
    del earlier["bits_per_byte_error"]
    for each, margin in ((measured, "± 0.196"), (few, "too few"), (earlier, f"± {MISSING}")):
        assert f"all 2.5 {margin} {each['documents']} 12.5" in text_of(evaluation([each], NAMES))


def test_the_loss_by_language_is_that_of_this_checkpoint() -> None:
    rows = [
        dashboard_row("all", "all"),
        dashboard_row("language", "C", documents=2, bits_per_byte_error=None),
        dashboard_row("language", "Python", documents=18),
        dashboard_row("language", "Rust", digest=OTHER),
    ]
    text = text_of(losses_by_language([{"task": "dashboard", "rows": rows}], NAMES))
    assert "Python 2.5 ± 0.196 18 12.5 C 2.5 too few 2 12.5" in text
    assert "Rust" not in text
    assert MISSING in text_of(losses_by_language([result()], NAMES))


def test_the_losses_on_two_texts_are_told_apart() -> None:
    rows = [dashboard_row("language", "C", data=f"data/{name}", documents=n) for name, n in (("one", 30), ("two", 20))]
    text = text_of(losses_by_language([{"task": "dashboard", "rows": rows}], NAMES))
    assert "C one 2.5 ± 0.196 30 12.5 C two 2.5 ± 0.196 20 12.5" in text


def test_an_evaluation_of_another_checkpoint_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS)
    digest = artifacts.load(run / "checkpoints" / "step-000002").digest
    results = [result(task=name, checkpoint_digest=of) for name, of in (("a", digest), ("b", OTHER), ("c", None))]
    paths = [written(tmp_path / f"{each['task']}.json", each) for each in results]
    paths.append(written(tmp_path / "dashboard.json", [dashboard_row("all", "all", digest=OTHER)]))
    text = text_of(Html(page_of(run, evaluation=tuple(paths))))
    answers = re.findall(r"(\w+) Measured on this checkpoint: (yes|no, on another|NOT MEASURED)", text)
    assert answers == [("a", "yes"), ("b", "no, on another"), ("c", MISSING), ("dashboard", "no, on another")]


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "text",
        {"decision": "BLOCK"},
        {"task": "human-eval", "pass@1": 1.0},
        {"task": "human-eval", "checkpoint_digest": MINE, "pass@1": 1.0},
        {"task": "human-eval", "checkpoint_digest": MINE, "pass@1": 1.0, "items": "164"},
        {"task": "perplexity", "checkpoint_digest": MINE, "perplexity": 12.5},
        [{"checkpoint": "step-1", "bits_per_byte": 2.5}],
        [dashboard_row("all", "all"), 7],
        [dashboard_row("all", "all", documents="20")],
    ],
)
def test_what_ibidem_evaluate_did_not_write_is_refused_in_one_line(value: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a result of ibidem evaluate") as caught:
        read_result(written(tmp_path / "result.json", value))
    assert "\n" not in str(caught.value)


def test_every_kind_of_result_is_read(tmp_path: Path) -> None:
    perplexity = {"task": "perplexity", "checkpoint_digest": MINE, **figures()}
    assert read_result(written(tmp_path / "perplexity.json", perplexity)) == perplexity
    assert read_result(written(tmp_path / "results.json", result())) == result()
    rows = [dashboard_row("all", "all")]
    (tmp_path / "dashboard").mkdir()
    written(tmp_path / "dashboard" / "dashboard.json", rows)
    assert read_result(tmp_path / "dashboard")["rows"] == rows


def test_an_edited_result_is_refused(tmp_path: Path) -> None:
    evidence.write(tmp_path / "e", "t", config={}, inputs=[], items=[{}], metrics={"pass@1": 0.0}, notes={})
    assert read_result(tmp_path / "e")["pass@1"] == 0
    written(tmp_path / "e" / "results.json", result(**{"pass@1": 1.0}))
    with pytest.raises(DataError, match="differs from the manifest"):
        read_result(tmp_path / "e")


def test_programs_are_shown_with_their_verdicts(tmp_path: Path) -> None:
    verdicts = [(n, n < 5, "passed" if n < 5 else "syntax") for n in range(10)]
    items = [
        {"task_id": f"P/{n}", "passed": passed, "kind": kind, "detail": f"why {n}", "completion": f"return <{n}>"}
        for n, passed, kind in verdicts
    ]
    write = {"config": {}, "inputs": [], "metrics": {"pass@1": 0.5}, "notes": {"problems": 10}}
    evidence.write(tmp_path / "e", "human-eval", items=items, **write)
    page = evaluation([read_result(tmp_path / "e")], NAMES)
    assert [n for n in range(10) if f"return &lt;{n}&gt;" in page] == [0, 1, 2, 5, 6, 7]
    assert text_of(page).count("syntax why") == 3
    assert "examples" not in page


def test_a_figure_of_the_checkpoint_that_this_one_was_trained_from_names_it() -> None:
    base = {"task": "perplexity", "checkpoint_digest": OTHER, **figures()}
    text = text_of(evaluation([base], {**NAMES, OTHER: "step-000600 of pretrain"}))
    assert "no, on step-000600 of pretrain, from which it was trained" in text
    assert "no, on another" in text_of(evaluation([base], NAMES))


def test_the_completions_that_repeat_most_words_are_shown_with_their_documents(tmp_path: Path) -> None:
    source = {"repo": "owner/tools", "path": "<merge>.py", "license": "MIT", "swhid": "swh:1:cnt:0", "is_removed": True}
    ruler = {"start": 0, "end": 60, "text": "-" * 60, "sources": [source | {"path": "ruler.py"}]}
    words = {"start": 0, "end": 9, "text": "def merge(a, b): return a", "sources": [source]}
    items = [
        {"id": f"p{number}", "temperature": 0.8, "tokens": 60, "verbatim": 60, "completion": "r", "spans": [span]}
        for number, span in enumerate([ruler, ruler, ruler, words])
    ]
    evidence.write(
        tmp_path / "e",
        "verbatim",
        config={},
        inputs=[],
        items=items,
        metrics={"verbatim.0.8": 1.0},
        notes={},
    )
    page = evaluation([read_result(tmp_path / "e")], NAMES)
    assert "<merge>" not in page
    said = text_of(page)
    assert "The 3 completions that repeat most words of training documents" in said
    assert "p3, temperature 0.8 9 tokens: owner/tools &lt;merge&gt;.py, MIT, swh:1:cnt:0, removed since" in said
