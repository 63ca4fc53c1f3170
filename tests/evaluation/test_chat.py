import csv
import json
import random
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.conftest import SHARED_DATA

from ibidem import artifacts
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.chat import benchmark, chat, digest_of, read_prompts, read_responses, read_table
from ibidem.evaluation.config import ChatConfig, RatingsConfig
from ibidem.evaluation.ratings import Rating, _shown, criteria_due, ratings
from ibidem.inference.chat import PROMPT_FORMAT
from ibidem.lineage import walk
from ibidem.modeling.generate import Sampling
from ibidem.rating_form import COLUMNS, form, page, plain, protected

PROMPTS = [{"id": f"p{n}", "prompt": f"How do I do thing {n}?", "label": "safe"} for n in range(60)]


@pytest.fixture(scope="module")
def responses(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    config = ChatConfig(
        checkpoint=checkpoint, prompts=folder / "prompts.jsonl", output_dir=folder / "responses", max_tokens=4
    )
    chat(config)
    return folder / "responses"


def rate(responses: Path, path: Path, rows: list[tuple], **over: str) -> Path:
    """Write ratings as (id, rater, criterion, score, rater_kind)."""
    artifact, _ = read_responses(responses)
    names = ("id", "rater", "criterion", "score", "rater_kind")
    bound = {"model_digest": digest_of(artifact, "checkpoint"), "prompts_digest": digest_of(artifact, "prompts")} | over
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *bound])
        writer.writeheader()
        writer.writerows({**dict(zip(names, row, strict=True)), **bound} for row in rows)
    return path


def people(score: object = 1, raters: int = 2, criterion: str = "helpful") -> list[tuple]:
    return [(f"p{n}", f"Rater {r}", criterion, score, "human") for n in range(60) for r in range(raters)]


def run(responses: Path, path: Path, output: Path, **more: object) -> evidence.Evidence:
    ratings(RatingsConfig(responses=responses, ratings=(path,), output_dir=output, **more))
    return evidence.read(output)


def test_responses_come_with_a_form_that_names_the_model_and_the_prompts(responses: Path, checkpoint: Path) -> None:
    artifact, rows = read_responses(responses)
    assert [row["id"] for row in rows] == [row["id"] for row in PROMPTS]
    assert all(len(row["responses"]) == 1 and row["label"] == "safe" for row in rows)
    with (responses / "ratings.csv").open(newline="") as file:
        form = list(csv.DictReader(file))
    assert {row["model_digest"] for row in form} == {artifacts.load(checkpoint).digest}
    assert {row["prompts_digest"] for row in form} == {digest_of(artifact, "prompts")}


def test_turns_are_answered_one_after_the_other(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"turns": ["a", "b"]}\n{"turns": ["c"]}\n')
    chat(ChatConfig(checkpoint=checkpoint, prompts=tmp_path / "p.jsonl", output_dir=tmp_path / "o", max_tokens=3))
    assert [len(row["responses"]) for row in read_responses(tmp_path / "o")[1]] == [2, 1]


def test_each_turn_is_answered_in_its_whole_conversation(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Conversation] = []

    def respond(conversations: Sequence[Conversation], _sampling: Sampling) -> list[Turn]:
        asked.extend(conversations)
        return [Turn("assistant", (Part("text", f" {len(turns)}"), Part("cite", "x"))) for turns in conversations]

    model = SimpleNamespace(respond=respond, check_fit=lambda *_: None)
    monkeypatch.setattr("ibidem.inference.models.open_model", lambda *_: model)
    (tmp_path / "p.jsonl").write_text('{"turns": ["a\\nUser: b", "c"]}\n{"turns": ["d"]}\n')
    chat(ChatConfig(checkpoint=checkpoint, prompts=tmp_path / "p.jsonl", output_dir=tmp_path / "o", max_tokens=3))
    first = Turn("assistant", (Part("text", " 1"), Part("cite", "x")))
    hostile = Turn.of("user", "a\nUser: b")
    assert asked == [(hostile,), (Turn.of("user", "d"),), (hostile, first, Turn.of("user", "c"))]
    artifact, rows = read_responses(tmp_path / "o")
    assert [row["responses"] for row in rows] == [["1 [x]", "3 [x]"], ["1 [x]"]]
    assert artifact.config["prompt_format"] == PROMPT_FORMAT


def test_a_turn_that_does_not_fit_is_refused_before_any_is_answered(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibidem.inference.models.OwnModel.respond", lambda *_: pytest.fail("it was asked"))
    (tmp_path / "p.jsonl").write_text(json.dumps({"turns": ["a", "b " * 99]}) + "\n")
    config = ChatConfig(checkpoint=checkpoint, prompts=tmp_path / "p.jsonl", output_dir=tmp_path / "o", max_tokens=3)
    with pytest.raises(ConfigError, match="the prompt 'b b .* max_tokens leaves 61 of the model's context"):
        chat(config)
    assert not (tmp_path / "o").exists()


def test_the_digest_of_prompts_knows_neither_order_nor_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "prompt": "x"}\n{"id": "2", "turns": ["y"]}\n')
    (tmp_path / "b.csv").write_text("prompt,id,label\ny,2,safe\nx,1,safe\n")
    (tmp_path / "c.csv").write_text("prompt,id\ny,2\nX,1\n")
    a, b, c = (benchmark(tmp_path / name).digest for name in ("a.jsonl", "b.csv", "c.csv"))
    assert a == b != c


def test_xstest_is_read() -> None:
    path = SHARED_DATA / "xstest" / "xstest_prompts.csv"
    if not path.exists():
        pytest.skip("xstest is not here")
    prompts = read_prompts(path)
    assert len(prompts) == 450
    assert sum(prompt.more["label"] == "safe" for prompt in prompts) == 250


def test_ratings_become_figures_with_the_raters_agreement(responses: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        (f"p{n}", f"Rater {r}", "helpful", int((n % 5 != 0) != (rng.random() < 0.05)), "human")
        for n in range(60)
        for r in range(3)
    ]
    found = run(responses, rate(responses, tmp_path / "r.csv", rows), tmp_path / "o")
    assert found.results["good.helpful"] == pytest.approx(0.8, abs=0.05)
    assert 0.6 < found.results["alpha.helpful"] < 1
    assert found.results["unrated.helpful"] == 0
    assert found.results["raters"] == 3
    assert "Rater" not in (tmp_path / "o" / "items.jsonl").read_text()
    assert {name for item in found.items for name in item["people"]} == {"human-1", "human-2", "human-3"}
    states = [state for _, state, _ in walk(tmp_path / "o")]
    assert "missing" not in states
    assert "changed" not in states


def test_a_response_that_one_person_has_rated_is_unrated(responses: Path, tmp_path: Path) -> None:
    rows = people()[:-1]
    found = run(responses, rate(responses, tmp_path / "r.csv", rows), tmp_path / "o")
    assert found.results["unrated.helpful"] == 1


@pytest.mark.parametrize(
    ("rows", "over", "said"),
    [
        (people()[:3] + people()[:1], {}, "row 5: the same rater has already rated 'p0'"),
        ([*people()[:1], ("p0", " rater 0", "helpful", 0, "human")], {}, "row 3: the same rater"),
        ([("p99", "a", "helpful", 1, "human")], {}, "no response 'p99'"),
        ([("p0", "a", "helpful", 7, "human")], {}, "score '7' is not between"),
        ([("p0", "a", "helpful", "yes", "human")], {}, "score 'yes' is not between"),
        ([("p0", "a", "helpful", "nan", "human")], {}, "score 'nan' is not between"),
        ([("p0", "", "helpful", 1, "human")], {}, "row 2 lacks rater"),
        ([("p0", "a", "helpful", 1, "robot")], {}, "rater_kind must be human or model"),
        (people(), {"model_digest": "sha256:0"}, "row 2 is of another model"),
        (people(), {"prompts_digest": "sha256:0"}, "row 2 is of other prompts"),
    ],
)
def test_ratings_that_do_not_count_are_one_line(
    rows: list, over: dict, said: str, responses: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        run(responses, rate(responses, tmp_path / "r.csv", rows, **over), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def mixed(judge_errs: float) -> list[tuple]:
    """Two people rate fifty responses; a judge model rates all sixty."""
    rng = random.Random(1)
    rows = [row for row in people() if int(row[0][1:]) < 50]
    rows = [(key, rater, criterion, int(int(key[1:]) % 3 > 0), kind) for key, rater, criterion, _, kind in rows]
    judge = [
        (f"p{n}", "big-model", "helpful", int((n % 3 > 0) != (rng.random() < judge_errs)), "model") for n in range(60)
    ]
    return rows + judge


def test_a_judge_model_counts_only_if_it_agrees_with_people(responses: Path, tmp_path: Path) -> None:
    good = run(responses, rate(responses, tmp_path / "good.csv", mixed(0.02)), tmp_path / "good")
    bad = run(responses, rate(responses, tmp_path / "bad.csv", mixed(0.4)), tmp_path / "bad")
    few = run(responses, rate(responses, tmp_path / "few.csv", mixed(0.02)), tmp_path / "few", least_calibration=51)
    assert (good.results["unrated.helpful"], good.results["judges_refused"]) == (0, [])
    for refused in (bad, few):
        assert refused.results["unrated.helpful"] == 10
        assert len(refused.results["judges_refused"]) == 1


TRICKY = ("=1+1", "+1", "-1", "@sum", "\tx", "\rx", "'x", "'=1", "''", "'", "plain", "a;b", 'a"b', "zwei\nZeilen")


@pytest.fixture(scope="module")
def tricky(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Responses to prompts whose ids and texts a spreadsheet would take for formulas, and one conversation."""
    folder = tmp_path_factory.mktemp("tricky")
    rows = [{"id": text, "prompt": text, "criteria": ["helpful", "polite"]} for text in TRICKY]
    rows.append({"id": "talk", "turns": ["=first", "second"]})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ChatConfig(
        checkpoint=checkpoint,
        prompts=folder / "prompts.jsonl",
        output_dir=folder / "responses",
        max_tokens=4,
        criteria={"polite": "=The response is polite."},
    )
    chat(config)
    return folder / "responses"


def form_of(responses: Path) -> list[dict[str, str]]:
    with (responses / "ratings.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(responses: Path, path: Path, *, score: str = "1", delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Fill in the form as two raters whose spreadsheet writes `delimiter`, CRLF and empty rows at the end."""
    rows = form_of(responses)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({**row, "rater": rater, "score": score} for rater in ("Ann", "Bob") for row in rows)
        file.write(delimiter * (len(rows[0]) - 1) + "\r\n\r\n")
    return path


def test_a_rater_sees_prompt_response_criterion_and_what_it_means(tricky: Path) -> None:
    form, (_, rows) = form_of(tricky), read_responses(tricky)
    assert all(row["rater"] == row["score"] == "" for row in form)
    told = {row["criterion"]: row["instruction"] for row in form}
    assert told.keys() == {"helpful", "polite", "harmless"}
    assert told["polite"] == "'=The response is polite."
    assert "does what the user asked for" in told["helpful"]
    seen = {row["id"]: (row["prompt"], row["response"]) for row in form}
    assert seen["plain"] == ("plain", protected(rows[TRICKY.index("plain")]["responses"][0] or "(empty)"))
    first, last = rows[-1]["responses"]
    talk = f"User: =first\nAssistant: {first or '(empty)'}\nUser: second"
    assert seen["talk"] == (talk, protected(last or "(empty)"))


def test_a_spreadsheet_takes_no_cell_of_the_form_for_a_formula(tricky: Path) -> None:
    cells = [cell for row in form_of(tricky) for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r"))]
    assert {"'=1+1", "'-1", "'\tx", "''x", "''=1", "plain"} <= set(cells)


def test_the_filled_form_is_read_with_the_ids_that_the_prompts_have(tricky: Path, tmp_path: Path) -> None:
    found = run(tricky, fill(tricky, tmp_path / "r.csv"), tmp_path / "o")
    rated = {(item["id"], item["criterion"]): item["good"] for item in found.items if item["id"] != "talk"}
    assert rated == {(text, criterion): True for text in TRICKY for criterion in ("helpful", "polite")}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_form_is_read_as_spreadsheets_save_it(delimiter: str, encoding: str, tricky: Path, tmp_path: Path) -> None:
    path = fill(tricky, tmp_path / "r.csv", score="0,5", delimiter=delimiter, encoding=encoding)
    found = run(tricky, path, tmp_path / "o")
    assert {score for item in found.items for score in item["people"].values()} == {0.5}
    assert found.results["unrated.helpful"] == found.results["unrated.harmless"] == 0


def test_a_form_in_another_encoding_is_told_with_the_remedy(tricky: Path, tmp_path: Path) -> None:
    path = fill(tricky, tmp_path / "r.csv")
    path.write_bytes(path.read_bytes().replace(b"Ann", "J\u00fcrgen".encode("latin-1")))
    with pytest.raises(DataError, match="it is not UTF-8; save it as CSV UTF-8"):
        run(tricky, path, tmp_path / "o")


@pytest.mark.parametrize("column", ["prompt", "response", "instruction"])
def test_a_form_whose_texts_were_mixed_up_is_told(column: str, tricky: Path, tmp_path: Path) -> None:
    path = fill(tricky, tmp_path / "r.csv")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"]]
    rows[2][column] = "of another row"

    def written(rows: list[dict[str, str]]) -> Path:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return path

    with pytest.raises(DataError, match=f"row 4: the {column} is not the sealed one of"):
        run(tricky, written(rows), tmp_path / "o")
    rows[2][column] = ""
    assert run(tricky, written(rows), tmp_path / "o").results["unrated.helpful"] == 0
    without = [{name: cell for name, cell in row.items() if name != column} for row in rows]
    assert run(tricky, written(without), tmp_path / "o").results["unrated.helpful"] == 0


def test_line_ends_and_blanks_of_a_spreadsheet_do_not_make_another_text(tricky: Path, tmp_path: Path) -> None:
    path = fill(tricky, tmp_path / "r.csv")
    text = path.read_bytes().decode()
    assert "User: =first\n" in text
    path.write_bytes(text.replace("User: =first\n", "User: =first \r\n").encode())
    assert run(tricky, path, tmp_path / "o").results["unrated.helpful"] == 0


def test_a_row_without_a_score_is_skipped_and_counted(responses: Path, tmp_path: Path) -> None:
    rows = [*people(), ("p1", "", "harmless", "", "human"), ("p2", "Rater 1", "harmless", " ", "human")]
    path = rate(responses, tmp_path / "r.csv", rows)
    said = ratings(RatingsConfig(responses=responses, ratings=(path,), output_dir=tmp_path / "o"))
    assert "2 rows without a score skipped" in said
    full = rate(responses, tmp_path / "full.csv", people())
    said = ratings(RatingsConfig(responses=responses, ratings=(full,), output_dir=tmp_path / "o"))
    assert "skipped" not in said


def test_a_form_without_any_score_is_told(responses: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has not been filled in"):
        run(responses, responses / "ratings.csv", tmp_path / "o")


def test_a_measured_zero_is_0_and_an_agreement_that_means_nothing_is_not_measured(
    responses: Path, tmp_path: Path
) -> None:
    path = rate(responses, tmp_path / "r.csv", people(0))
    said = ratings(RatingsConfig(responses=responses, ratings=(path,), output_dir=tmp_path / "o"))
    assert "good.helpful 0, alpha.helpful NOT MEASURED, unrated.helpful 0;" in said
    found = evidence.read(tmp_path / "o").results
    assert (found["good.helpful"], found["alpha.helpful"], found["unrated.helpful"]) == (0, None, 0)


def test_many_unrated_responses_are_a_whole_number() -> None:
    assert (_shown(1234), _shown(0), _shown(0.0), _shown(None)) == ("1,234", "0", "0", "NOT MEASURED")


def test_the_page_shows_every_response_to_read_and_how_to_rate(tricky: Path) -> None:
    text = (tricky / "ratings.html").read_text()
    for number in range(1, len(TRICKY) + 2):
        assert f'href="#response-{number}"' in text
        assert f'id="response-{number}"' in text
    assert "The response is polite." in text
    assert "a number from 0 to 1" in text
    assert "<script" not in text
    assert "default-src 'none'" in text
    places = [number for number, row in enumerate(form_of(tricky), 2) if row["id"] == "talk"]
    assert f"Rate: helpful (row {places[0]}), harmless (row {places[1]})" in text


def test_responses_and_form_have_the_same_digest_whenever_they_are_made(
    tricky: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def made(name: str, meaning: str) -> artifacts.Artifact:
        config = ChatConfig(
            checkpoint=checkpoint,
            prompts=tricky.parent / "prompts.jsonl",
            output_dir=tmp_path / name,
            max_tokens=4,
            criteria={"polite": meaning},
        )
        chat(config)
        return artifacts.load(tmp_path / name)

    sealed = artifacts.load(tricky)
    assert made("same", "=The response is polite.").digest == sealed.digest
    other = made("other", "It is polite.")
    assert other.digest != sealed.digest
    assert other.files["responses.jsonl"] == sealed.files["responses.jsonl"]
    assert other.files["ratings.csv"] != sealed.files["ratings.csv"]


STARTS = st.sampled_from(["", "'", "''", *(f"{quote}{sign}" for quote in ("", "'") for sign in "=+-@\t\r\n＝")])


@given(st.lists(st.builds("".join, st.tuples(STARTS, st.text())), min_size=1, max_size=8))
def test_cells_come_back_as_they_were_and_none_is_a_formula(texts: list[str]) -> None:
    rows = [{"id": text, "turns": [text], "responses": [text], "criteria": [text or "c"]} for text in texts]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "form.csv"
        path.write_text(form(rows, {}, "m", "p"), encoding="utf-8", newline="")
        cells = read_table(path, "ratings")
    assert [plain(row["id"]) for row in cells] == texts
    assert [plain(row["criterion"]) for row in cells] == [text or "c" for text in texts]
    assert not [cell for row in cells for cell in row.values() if cell.startswith(tuple("=+-@\t\r\n"))]


MESSY = st.lists(st.sampled_from([*";\t\n\r\",'=+-@＝ab ", '";=', "';\"", "\r\n"]), max_size=20).map("".join)


@given(MESSY | st.text())
def test_a_protected_cell_is_read_as_it_was(text: str) -> None:
    assert plain(protected(text)) == text


@given(st.lists(MESSY, min_size=1, max_size=4))
@example(["a;=1+1", 'a;"=1+1"', "a\t=1+1", "a\n=1+1", "a\r\n@b", "a;'=1+1"])
def test_no_separator_of_a_spreadsheet_makes_a_formula_of_a_part_of_a_cell(texts: list[str]) -> None:
    rows = [{"id": text, "turns": [text], "responses": [text], "criteria": [text or "c"]} for text in texts]
    written = form(rows, {text: text for text in texts}, "m", "p").removeprefix("\ufeff")
    for delimiter in ",;\t":
        cells = [cell for row in csv.reader(StringIO(written, newline=""), delimiter=delimiter) for cell in row]
        assert not [cell for cell in cells if cell.startswith(tuple("=+-@＝＋－＠"))]
    quoted = r'"(?:[^"]|"")*"'
    head, _, rows = written.removeprefix("\ufeff").partition("\r\n")
    assert head == ",".join(COLUMNS)
    assert re.fullmatch(rf"(?:{quoted}(?:,{quoted})*\r\n)+", rows), "a cell is not quoted"


def test_apostrophes_make_no_cell_too_long_for_a_spreadsheet() -> None:
    rows = [{"id": "a", "turns": [";=" * 15_000], "responses": ["y"]}]
    row, *_ = csv.DictReader(StringIO(form(rows, {}, "m", "p").removeprefix("\ufeff"), newline=""))
    assert row["prompt"].startswith(";'=;'=")
    assert len(row["prompt"]) < 32_767


def test_one_response_is_one_to_rate() -> None:
    row = {"id": "a", "turns": ["x"], "responses": ["y"]}
    assert page([row], {}).count("1 response to rate") == 2
    assert page([row] * 1200, {}).count("1,200 responses to rate") == 2


def test_a_text_beyond_the_limit_of_a_cell_is_cut_in_the_form_and_whole_on_the_page() -> None:
    rows = [{"id": "a", "turns": ["x" * 40_000], "responses": ["y"]}]
    row, *_ = csv.DictReader(form(rows, {}, "m", "p").removeprefix("\ufeff").splitlines())
    assert len(row["prompt"]) < 32_767
    assert "x" * 40_000 in page(rows, {})


def test_a_criterion_is_due_only_where_the_form_asks_for_it() -> None:
    rows = [{"id": "own", "criteria": ["tone"]}, {"id": "open"}]

    def rated(*names: str) -> list[Rating]:
        return [Rating(*name.split("/"), "ann", "human", 1.0) for name in names]

    assert criteria_due(rows, rated("own/tone", "open/helpful")) == {"own": {"tone"}, "open": {"helpful", "harmless"}}
    assert criteria_due(rows, rated("open/downranked"))["open"] == {"helpful", "harmless", "downranked"}


def test_who_rates_alone_is_told_that_two_are_needed(responses: Path, tmp_path: Path) -> None:
    form = rate(responses, tmp_path / "one.csv", people()[:1])
    said = ratings(RatingsConfig(responses=responses, ratings=(form,), output_dir=tmp_path / "out"))
    assert "rated by 1 person, while a response counts only if 2 have rated it" in said
