import json
import re
from pathlib import Path

import pytest

from ibidem.data.corpus import Corpus
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import dashboard as dashboards
from ibidem.evaluation.config import DashboardConfig
from ibidem.evaluation.dashboard import dashboard, sections
from ibidem.evaluation.perplexity import measure
from ibidem.inference.models import open_model


def run(output: Path, **more: object) -> list[dict]:
    dashboard(DashboardConfig(output_dir=output, max_documents=12, max_chars=300, **more))
    return json.loads((output / "dashboard.json").read_text())


def test_figures_are_told_by_category_and_language_and_equal_the_measure(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    rows = run(tmp_path / "o", checkpoint=(checkpoint,), data=(dataset,), held_out_share=1)
    found = {(row["aspect"], row["value"]): row for row in rows}
    assert {("all", "all"), ("category", "code"), ("language", "Python")} <= set(found)
    texts = [text[:300] for _, text in Corpus.open(dataset, "text").documents()][:12]
    model = open_model(checkpoint)
    direct = measure(model, texts, window=model.context, stride=model.context // 2)
    assert found["all", "all"]["bits_per_byte"] == pytest.approx(direct["bits_per_byte"])
    assert found["all", "all"]["documents"] == 12
    assert sum(row["tokens"] for row in rows if row["aspect"] == "language") == direct["tokens"]
    page = (tmp_path / "o" / "dashboard.html").read_text()
    assert "step-000010" in page
    assert f"± {1.96 * found['all', 'all']['bits_per_byte_error']:.3f}" in page
    assert "language Python" in page


def test_what_is_known_is_not_measured_again(
    checkpoint: Path, hf_model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "o", checkpoint=(checkpoint,), data=(dataset,))
    opened = []
    monkeypatch.setattr(dashboards.models, "open_model", lambda path: opened.append(path) or open_model(path))
    (tmp_path / "a.txt").write_text("def f(x):\n    return x\n")
    both = run(tmp_path / "o", checkpoint=(checkpoint, hf_model), data=(dataset,))
    assert opened == [hf_model]
    assert both[: len(first)] == first
    assert len({row["checkpoint_digest"] for row in both}) == 2


def test_a_run_gives_all_its_checkpoints(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    rows = run(tmp_path / "o", run=checkpoint.parents[1], data=(dataset,), held_out_share=0.1)
    assert {row["step"] for row in rows} == {10}


def test_mistakes_are_one_line(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a --checkpoint"):
        run(tmp_path / "o", data=(dataset,))
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "dashboard.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a dashboard"):
        run(tmp_path / "o", checkpoint=(checkpoint,), data=(dataset,))
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "dashboard.html").write_text("mine")
    with pytest.raises(ConfigError, match="without a dashboard.json"):
        run(tmp_path / "page", checkpoint=(checkpoint,), data=(dataset,))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no text to measure"):
        run(tmp_path / "new", checkpoint=(checkpoint,), data=(tmp_path / "empty.txt",))


def row(value: str, step: int, bits: float, **more: object) -> dict:
    about = {"checkpoint": f"step-{step}", "checkpoint_digest": f"sha256:{step}", "data": "d", "step": step}
    figures = {"documents": 12, "bytes": 900, "perplexity": 9.5, "bits_per_byte": bits, "bits_per_byte_error": 0.01}
    return about | {"aspect": "language", "value": value} | figures | more


def test_every_figure_states_its_margin_or_the_documents_behind_it() -> None:
    rows = [row("C", step, 2.5, documents=1, bits_per_byte_error=None) for step in (10, 20)]
    rows += [row("Python", step, 0.0) for step in (10, 20)]
    page = "".join(sections(rows))
    assert ">1 document<" in page
    assert ">12 documents<" in page
    cells = [re.sub("<[^>]+>", " ", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    assert cells[:4] == ["step-10 language C ", "2.5 too few ", "1 900 bytes ", "9.5"]
    assert cells[8:12] == ["step-10 language Python ", "0 ± 0.020 ", "12 900 bytes ", "9.5"]
    assert "NOT MEASURED" not in page


def test_a_figure_of_an_earlier_version_has_no_margin_and_says_so() -> None:
    earlier = row("C", 10, 2.5)
    del earlier["bits_per_byte_error"]
    assert "".join(sections([earlier])).count("NOT MEASURED") == 1


def test_by_default_the_documents_that_the_training_held_out_are_measured(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    by_default = run(tmp_path / "a", checkpoint=(checkpoint,), data=(dataset,))
    asked = run(tmp_path / "b", checkpoint=(checkpoint,), data=(dataset,), held_out_share=0.1)
    assert by_default == asked
    assert {row["held_out_share"] for row in by_default} == {0.1}
