import json
from pathlib import Path

import pytest

from ibidem.errors import ConfigError, DataError
from ibidem.serving.report_documents import documents, read_answer

ROW = {"number": 1, "chunk": "0" * 32, "path": "a.md", "title": ["Guide", "<b>Start</b>"], "span": [0, 9],
       "quote": "It is so.", "supported": True}  # fmt: skip
ANSWER = {"question": "How is it?", "principal": "ada", "answer": "It is so. [1]", "citations": [ROW], "removed": 0,
          "unsupported": []}  # fmt: skip


def written(path: Path, answer: object) -> Path:
    path.write_text(json.dumps(answer))
    return path


def test_a_question_is_shown_once_with_what_each_principal_is_shown(tmp_path: Path) -> None:
    denied = {**ANSWER, "principal": "guest", "answer": "No passage that you may read answers this.", "citations": []}
    html = documents([read_answer(written(tmp_path / "a", each)) for each in (ANSWER, denied)])
    assert html.count("How is it?") == 1
    ada, guest = html.split("Shown to guest")
    assert "a.md" in ada
    assert "It is so." in ada
    assert "Guide &gt; &lt;b&gt;Start" in ada
    assert "It is so" not in guest
    assert "No passage that you may read" in guest


def test_what_was_removed_or_is_not_supported_is_said() -> None:
    row = {**ROW, "supported": False, "quote": None}
    html = documents([{**ANSWER, "citations": [row], "removed": 2, "unsupported": ["It is so."]}])
    assert "2 citations of passages that do not exist removed; 1 claim unsupported" in html
    assert "not supported" in html
    assert "no verbatim quote" in html


def test_what_a_head_says_of_claims_is_shown(tmp_path: Path) -> None:
    claims = [{"claim": "It is <so>.", "score": 0.25}, {"claim": "It is new.", "score": None}]
    html = documents([read_answer(written(tmp_path / "a", {**ANSWER, "claims": claims}))])
    assert "It is &lt;so&gt;." in html
    assert "0.25" in html
    assert "It is new." not in html


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {**ANSWER, "answer": 1},
        {**ANSWER, "citations": [{}]},
        {**ANSWER, "removed": True},
        {**ANSWER, "unsupported": None},
        {**ANSWER, "claims": [{"claim": "It is so.", "score": "1"}]},
    ],
)
def test_what_is_no_answer_is_refused(answer: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not what ibidem ground ask --json prints"):
        read_answer(written(tmp_path / "a", answer))
    with pytest.raises(ConfigError):
        read_answer(tmp_path / "nothing")
