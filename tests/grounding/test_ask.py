import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.grounding.corpus import ACL, CANARIES, DOCUMENTS, make_index

from ibidem.cli import main
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import AccessDenied, AuditError, ConfigError
from ibidem.grounding import quotes
from ibidem.grounding.ask import NO_ANSWER, Answerer, as_json, as_text, prompt, quoted, reply, reply_to
from ibidem.grounding.audit.log import FILE, AuditLog
from ibidem.grounding.config import GroundAskConfig, IndexChoice
from ibidem.grounding.opening import opened
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import WordCover
from ibidem.modeling.generate import Sampling


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path)


def events(index: Path) -> list[dict]:
    with sqlite3.connect(f"{index}.audit/{FILE}") as database:
        return [json.loads(row) for (row,) in database.execute("SELECT event FROM events ORDER BY number")]


class Model:
    """A model that says what it is told, and remembers what it was asked."""

    context = 1000

    def __init__(self, *parts: Part, room: int = 10**6) -> None:
        self._turn, self._room = Turn("assistant", parts), room
        self.asked: list[Conversation] = []

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
        self.asked += conversations
        return [self._turn] * len(conversations)

    def check_fit(self, conversations: Sequence[Conversation], max_tokens: int) -> None:
        if any(len(turns[-1].text) > self._room for turns in conversations):
            raise ConfigError("too long")


def text(said: str) -> Part:
    return Part("text", said)


def ask(index: Path, model: Model, question: str, *, is_ours: bool = False, principal: str = "ada", k: int = 6):
    answerer = Answerer(WordCover(0.75), k, 64, model, is_ours, "sha256:1")
    with opened(IndexChoice(index=index)) as retriever:
        return reply(retriever, answerer, question, principal)


def test_without_a_model_the_answer_is_the_best_quote_with_its_span(index: Path) -> None:
    config = GroundAskConfig(index=index, principal="ada", question="How long is the notice period during probation?")
    found = reply_to(config)
    row = found.rows()[0]
    assert "During probation it is two weeks." in found.checked.text
    start, end = row["span"]
    assert DOCUMENTS[row["path"]][start:end] == row["quote"]
    assert row["title"] == ["Notice"]
    assert row["supported"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many days of paid leave does an employee have?", "30 days"),
        ("When does leave lapse?", "31 March"),
        ("Who approves flights?", "head of department"),
        ("How much special leave is there for a wedding?", "two days"),
        ("Which class are trains booked in?", "second class"),
    ],
)
def test_questions_are_answered_by_the_sentence_that_says_it(index: Path, question: str, expected: str) -> None:
    found = reply_to(GroundAskConfig(index=index, principal="ada", question=question))
    assert expected in found.checked.text
    assert len(found.checked.text) < 200


@pytest.mark.parametrize(
    "question",
    ["What is the quokka allowance of the marsupial team?", "Who won the world cup in 1954?", "???", "how is it"],
)
def test_what_no_permitted_passage_answers_is_an_abstention(index: Path, question: str) -> None:
    found = reply_to(GroundAskConfig(index=index, principal="ada", question=question))
    assert (found.checked.text, found.checked.citations) == (NO_ANSWER, ())


def test_both_records_name_what_was_shown_and_hold_no_text(index: Path) -> None:
    found = reply_to(GroundAskConfig(index=index, principal="hr", question="How much is the quokka allowance?"))
    assert "9137" in found.checked.text
    query, answer = events(index)[-2:]
    assert (query["kind"], answer["kind"]) == ("query", "answer")
    assert query["chunks"] == [chunk.id for chunk in found.passages]
    with AuditLog(Path(f"{index}.audit"), __import__("ibidem.signatures").signatures.secret_key(None)) as log:
        assert answer["answer"] == log.keyed(found.checked.text)
    assert not any(word in json.dumps(events(index)) for word in CANARIES)


def test_without_the_record_of_the_answer_nothing_is_printed(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = AuditLog.record

    def record(self: AuditLog, kind: str, principal: str | None = None, **fields: object) -> int:
        if kind == "answer":
            raise AuditError("no space left")
        return whole(self, kind, principal, **fields)

    monkeypatch.setattr(AuditLog, "record", record)
    words = [
        "ground",
        "ask",
        "--index",
        str(index),
        "--principal",
        "ada",
        "--question",
        "How long is the notice period?",
    ]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no space left" in err


def test_a_foreign_model_reads_numbered_passages_whose_brackets_are_escaped(index: Path) -> None:
    model = Model(text("Use `sys.argv\\[1\\]` of the travel script for the destination [1]."))
    found = ask(index, model, "How does the travel script know the destination?")
    shown = model.asked[0][0].parts[0].text
    assert shown.startswith("[1] Travel\n\n")
    assert "sys.argv\\[1\\]" in shown
    assert "\\[see the wiki\\]" in shown
    row = found.rows()[0]
    assert row["quote"] == "Use `sys.argv[1]` of the travel script for the destination"
    assert (row["supported"], found.checked.removed) == (True, 0)
    assert found.checked.text == "Use `sys.argv\\[1\\]` of the travel script for the destination [1]."


def test_a_model_of_ours_reads_documents_verbatim_and_cites_with_parts(index: Path) -> None:
    model = Model(text("Use `sys.argv[1]` of the travel script for the destination"), Part("cite", "1"), text("."))
    found = ask(index, model, "How does the travel script know the destination?", is_ours=True)
    assert "sys.argv[1]` of the travel script for the destination [see the wiki]" in model.asked[0][0].parts[0].text
    assert [each.number for each in found.checked.citations] == [1]
    assert found.checked.citations[0].supported


def test_invented_citations_and_unsupported_claims_of_a_model_are_shown_as_such(index: Path) -> None:
    model = Model(
        text("The notice period is six weeks to the end of a quarter [1]. It is nine years [1]. It is so [12].")
    )
    found = ask(index, model, "How long is the notice period?")
    about = json.loads(as_json(GroundAskConfig(index=index, principal="ada", question="?"), found))
    assert about["removed"] == 1
    assert about["unsupported"] == ["It is nine years.", "It is so."]
    assert [row["supported"] for row in about["citations"]] == [True, False]
    shown = as_text(found)
    assert "It is nine years [1] (unsupported)." in shown
    assert "1 citation of passages that do not exist removed; 2 claims unsupported" in shown


def test_an_abstention_of_a_model_says_that_nothing_answers(index: Path) -> None:
    found = ask(index, Model(text("I don't know.")), "How long is the notice period?")
    assert (found.checked.text, found.checked.said) == (NO_ANSWER, "")


def test_passages_that_do_not_fit_are_left_out_from_the_end_and_that_is_said(index: Path) -> None:
    question = "How many days of leave, and how long is the notice period?"
    whole = ask(index, Model(text("Yes [1].")), question)
    first = len(prompt(question, whole.passages[:1], is_ours=False)[-1].text)
    model = Model(text("Yes [1]."), room=first)
    short = ask(index, model, question)
    assert short.passages == whole.passages[:1]
    assert short.left_out == len(whole.passages) - 1
    assert f"{short.left_out} passages left out" in as_text(short)
    assert events(index)[-2]["chunks"] == [short.passages[0].id]
    with pytest.raises(ConfigError, match="not even one passage fits"):
        ask(index, Model(text("Yes [1]."), room=10), question)


def test_a_question_whose_passages_do_not_fit_is_recorded(index: Path) -> None:
    with pytest.raises(ConfigError, match="not even one passage fits"):
        ask(index, Model(text("Yes [1]."), room=10), "How long is the notice period?")
    assert events(index)[-1]["kind"] == "query"
    assert events(index)[-1]["chunks"] == []


def test_passages_that_say_the_same_are_not_left_out_for_want_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DOCUMENTS, "handbook/copy.md", DOCUMENTS["handbook/notice.md"])
    index, question = make_index(tmp_path), "How long is the notice period in probation?"
    found = reply_to(GroundAskConfig(index=index, principal="ada", question=question))
    assert len({chunk.text for chunk in found.passages}) == len(found.passages) > 1
    assert found.left_out == ask(index, Model(text("Two weeks [1].")), question).left_out == 0


@pytest.mark.parametrize("change", [("read: [hr]", "read: [board]"), ("deny: [contractor-1]", "deny: [hr]")])
def test_rights_that_are_lost_while_the_model_writes_are_lost_in_this_answer(
    index: Path, change: tuple[str, str]
) -> None:
    class Slow(Model):
        def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
            (index.parent / "acl.yaml").write_text(ACL.replace(*change))
            return super().respond(conversations, sampling)

    with pytest.raises(AccessDenied, match="changed"):
        ask(index, Slow(text("It is 9137 shillings [1].")), "How much is the quokka allowance?", principal="hr")
    assert events(index)[-1]["kind"] == "denied"
    assert not any(event["kind"] == "answer" for event in events(index))


def test_other_rights_may_change_while_the_model_writes(index: Path) -> None:
    class Slow(Model):
        def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
            (index.parent / "acl.yaml").write_text(ACL.replace("dev-2", "dev-3"))
            return super().respond(conversations, sampling)

    found = ask(index, Slow(text("It is 9137 shillings [1].")), "How much is the quokka allowance?", principal="hr")
    assert "9137" in found.checked.text


def test_a_model_is_not_asked_if_there_is_no_passage(index: Path) -> None:
    model = Model(text("The allowance is 9137 shillings."))
    found = ask(index, model, "marsupial", principal="contractor-1")
    assert model.asked == []
    assert found.checked.text == NO_ANSWER


def chunk(body: str, *title: str, path: str = "a.md") -> Chunk:
    return Chunk(body, path, title, 0, len(body), body)


def best(question: str, *chunks: Chunk) -> list[str]:
    found = quotes.quotes(question, chunks, chunks)
    return [chunks[each.place].text[each.start : each.end] for each in found]


def test_a_question_is_no_answer_to_itself() -> None:
    page = chunk("How do I sort a list?\n\nCall its method sort, which works in place.", "How do I sort a list?")
    assert best("How do I sort a list?", page) == ["Call its method sort, which works in place."]


@pytest.mark.parametrize("note", [" [1]", " [^1]", " [12]", ' ("fact")'])
def test_a_footnote_does_not_hide_the_sentence_that_answers(note: str) -> None:
    page = chunk(
        f"# Animals\n\n## Quoll\n\nThe quoll eats 5 kg a day{note}.\n\n## Bilby\n\nThe bilby eats 7 kg a day.",
        "Animals",
    )
    assert best("How much does the quoll eat?", page)[0].endswith(f"The quoll eats 5 kg a day{note}.")
    apart = (
        chunk(f"The quoll eats 5 kg a day{note}.", "Quoll"),
        chunk("The bilby eats 7 kg a day.", "Bilby", path="b.md"),
    )
    assert best("How much does the quoll eat?", *apart) == [f"The quoll eats 5 kg a day{note}."]


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("Q: Where is the printer?\nA: On the second floor.", "FAQ"),
        ("**Where is the printer?**\n\nOn the second floor.", "FAQ"),
        ("## Where is the printer?\n\nOn the second floor.\n\n## Where is the tea?\n\nIn the kitchen.", "FAQ"),
        ("On the second floor.", "Where is the printer?"),
    ],
)
def test_the_answer_to_a_question_is_what_follows_it(body: str, title: str) -> None:
    (found,) = best("Where is the printer?", chunk(body, title), chunk("Meals are free.", "Meals", path="b.md"))
    assert found.endswith("On the second floor.")


@pytest.mark.parametrize(
    "street",
    ["Berlin | Torstr. 5", "The Berlin office is at Torstr. 5 in Mitte.", "The Berlin office is in Bldg. 4 of 7."],
)
def test_an_address_is_one_unit(street: str) -> None:
    assert best("Where is the Berlin office?", chunk(f"{street}\n\nMeals are free.", "Offices")) == [street]


def test_a_unit_of_measure_may_end_a_sentence_before_a_number() -> None:
    text = "The Berlin office moves 5 kg. 30 parcels come."
    assert [text[slice(*span)] for span in quotes.unit_spans(text)] == [
        "The Berlin office moves 5 kg.",
        "30 parcels come.",
    ]


def test_a_document_cannot_spell_the_mark_of_a_claim() -> None:
    page = chunk("The rule for travel is strict (unsupported).", "Rules")
    found = quoted(quotes.quotes("How strict is the travel rule?", [page], [page]), [page])
    assert found.text == r"The rule for travel is strict \(unsupported\). [1]"


def test_a_heading_within_a_chunk_is_none_of_what_precedes_it() -> None:
    page = chunk(
        "# FAQ\n\nQ: Where is the printer?\nA: On the second floor.\n\n## Where is the scanner?\n\nOn the third floor.",
        "FAQ",
        "Where is the scanner?",
    )
    (found,) = best("Where is the scanner?", page, chunk("Meals are free.", "Meals", path="b.md"))
    assert found.endswith("On the third floor.")
    assert "second" not in found


TABLES = (
    "| City | Hotel limit |\n|---|---|\n| London | 200 |\n| Rome | 90 |\n| Berlin | 120 EUR |",
    "City | Hotel limit\nLondon | 200\nRome | 90\nBerlin | 120 EUR",
)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("city", "limit"), [("London", "200"), ("Rome", "90"), ("Berlin", "120 EUR")])
def test_a_row_of_a_table_answers_with_its_header(table: str, city: str, limit: str) -> None:
    page = chunk(f"Limits for nights away.\n\n{table}\n\nAsk before.", "Travel")
    (found,) = best(f"What is the hotel limit in {city}?", page, chunk("Meals are free.", "Meals", path="b.md"))
    assert found.strip("| ") == f"{city} | {limit}"


def test_a_table_does_not_answer_for_what_it_lacks() -> None:
    page = chunk(f"Limits for nights away.\n\n{TABLES[0]}", "Travel")
    assert best("What is the salary of the release manager in London?", page) == []


def test_a_function_answers_what_it_returns() -> None:
    code = chunk(
        'def first_token(text):\n    """Return the first token of a text."""\n    return text.split()[0]', path="a.py"
    )
    (found,) = best("What does first_token return?", code)
    assert "Return the first token of a text." in found


@pytest.mark.parametrize(
    ("question", "answer", "other"),
    [
        (
            "Wie lange ist die Kündigungsfrist?",
            "Die Kündigungsfrist beträgt sechs Wochen.",
            "Die Probezeit ist vier Monate lang, und wie es danach ist, steht hier.",
        ),
        (
            "¿Cuánto dura el periodo de prueba?",
            "El periodo de prueba es de seis meses.",
            "La oficina se cierra a las seis de la tarde.",
        ),
        ("有給休暇は何日ですか？", "有給休暇は年20日です。", "会議室は二階です。"),
    ],
)
def test_questions_in_other_languages_are_answered(question: str, answer: str, other: str) -> None:
    pages = chunk(other, path="a.md"), chunk(answer, path="b.md"), chunk("The office closes at six.", path="c.md")
    assert best(question, *pages) == [answer]
    assert best(question, pages[0], pages[2]) == []


def test_what_a_quote_introduces_comes_with_it() -> None:
    page = chunk("To make a virtual environment, run:\n\n    python -m venv here\n\nThen activate it.", "venv")
    assert best("How do I make a virtual environment?", page) == [
        "To make a virtual environment, run:\n\n    python -m venv here"
    ]


def test_a_definition_answers_what_its_word_is() -> None:
    glossary = chunk(
        "flange\n\nA rim around a pipe for bolting it to another.\n\n"
        "gasket\n\nA ring that seals a joint.\n\nSee also flange.",
        "Glossary",
    )
    manual = chunk("A gasket must be dry. Tighten the gasket, then wait until the gasket is warm.", path="b.md")
    assert best("What is a gasket?", manual, glossary)[0] == "gasket\n\nA ring that seals a joint."
    assert best("What is a flange?", manual, glossary)[0].startswith("flange\n\nA rim")


def test_a_quote_that_says_the_same_twice_is_shown_once() -> None:
    one, two = (chunk("A rollback takes four minutes here.", path=path) for path in ("a.md", "b.md"))
    assert len(best("How long does a rollback take?", one, two)) == 1


def test_long_lines_are_cut_and_nothing_is_lost() -> None:
    body = "word " * 1000
    spans = quotes.unit_spans(body)
    assert max(end - start for start, end in spans) <= quotes.LONGEST_QUOTE
    assert " ".join(body[start:end] for start, end in spans).split() == body.split()
