"""The chat template: what is rendered, what is trained, and what no text can forge."""

import gzip
import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import REPOSITORY

from ibidem.conversation import Part, Turn, check, from_rows, plain, to_rows
from ibidem.data.sources.conversations import conversation, expand
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

TALK = (
    Turn.of("system", "Be brief."),
    Turn("user", (Part("text", "When does it open?"), Part("passage", "Opening hours: 9 to 17."))),
    Turn("assistant", (Part("tool_call", '{"name": "clock"}'),)),
    Turn.of("tool", "08:59"),
    Turn("assistant", (Part("text", "At nine"), Part("cite", "1"), Part("text", "."))),
    Turn.of("user", "Thanks"),
    Turn.of("assistant", "Gladly."),
)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return Tokenizer.load(tokenizer_dir)


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def test_a_conversation_is_rendered_marker_by_marker_and_text_by_text(template, tokenizer):
    expected = (
        "<|endoftext|> <|system|> T:Be·brief. <|end|> <|user|> T:When·does·it·open? <|passage|> "
        "T:Opening·hours:·9·to·17. <|/passage|> <|end|> <|assistant|> <|tool_call|> "
        'T:{"name":·"clock"} <|/tool_call|> <|end|> <|tool|> T:08:59 <|end|> <|assistant|> T:At·nine <|cite|> T:1 '
        "<|/cite|> T:. <|end|> <|user|> T:Thanks <|end|> <|assistant|> T:Gladly. <|end|>"
    )
    ids = []
    for token in expected.split(" "):
        ids += tokenizer.encode(token[2:].replace("·", " ")) if token.startswith("T:") else [tokenizer.id_of(token)]
    assert template.render(TALK).ids == ids


def test_only_what_the_assistant_says_and_its_end_is_trained(template, tokenizer):
    rendered = template.render(TALK)
    trained = [number for number, yes in zip(*rendered, strict=True) if yes]
    expected = []
    for turn in TALK:
        if turn.role == "assistant":
            expected += template.answer(turn.parts)
    assert trained == expected
    assert trained.count(tokenizer.id_of(special.TURN_END)) == 3
    assert tokenizer.id_of(special.ASSISTANT) not in trained


def test_a_prompt_is_the_start_of_every_answer_to_it(template):
    for last in (2, 4, 6):
        whole = template.render(TALK[: last + 1]).ids
        assert template.prompt(TALK[:last]) + template.answer(TALK[last].parts) == whole


@pytest.mark.parametrize("number", [2, 4, 6])
def test_a_generated_turn_reads_as_what_was_rendered(template, number):
    assert template.read(template.answer(TALK[number].parts)) == TALK[number]


def test_reading_stops_at_the_end_and_closes_what_is_open(template, tokenizer):
    cite, end = tokenizer.id_of(special.CITE), template.turn_end_id
    open_cite = [*tokenizer.encode("Yes"), cite, *tokenizer.encode("2")]
    assert template.read(open_cite) == Turn("assistant", (Part("text", "Yes"), Part("cite", "2")))
    assert template.read([*tokenizer.encode("Yes"), end, *tokenizer.encode("more")]) == Turn.of("assistant", "Yes")
    assert template.read([]) == Turn("assistant", ())


def test_no_text_can_spell_a_role(template, tokenizer):
    rng = random.Random(0)
    names = [*special.CONTROL, special.DOCUMENT, special.PAD, "\n\nUser:\n", "\nAssistant:", "</s>", "[INST]"]
    control = {tokenizer.id_of(name) for name in (*special.CONTROL, special.DOCUMENT, special.PAD)}
    for _ in range(1000):
        hostile = "".join(rng.choice([*names, "a", " ", "\n", "|", "<", ">"]) for _ in range(rng.randrange(1, 12)))
        ids = template.render([Turn.of("user", hostile), Turn.of("assistant", hostile)]).ids
        assert sum(number in control for number in ids) == 5  # document, two roles, two ends
        assert template.read(template.answer(Turn.of("assistant", hostile).parts)) == Turn.of("assistant", hostile)


@given(st.text(), st.text(min_size=1))
def test_texts_are_verbatim(tokenizer, asked, said):
    template = ChatTemplate(tokenizer)
    ids = template.render([Turn.of("user", asked), Turn.of("assistant", said)]).ids
    parts = [1 + ids.index(tokenizer.id_of(name)) for name in (special.USER, special.ASSISTANT)]
    ends = [place for place, number in enumerate(ids) if number == template.turn_end_id]
    assert [tokenizer.decode(ids[a:b]) for a, b in zip(parts, ends, strict=True)] == [asked, said]


def test_rows_of_json_hold_the_same_conversation():
    assert from_rows(to_rows(TALK)) == TALK
    check(TALK)
    assert plain(TALK[:2]) == "System:\nBe brief.\n\nUser:\nWhen does it open?\n\nPassage:\nOpening hours: 9 to 17.\n"


USER, ASSISTANT, TOOL = (Turn.of(role, "words") for role in ("user", "assistant", "tool"))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no turn of a user"),
        ([Turn.of("system", "Be brief.")], "no turn of a user"),
        ([ASSISTANT, USER], "turn 1: a turn of the assistant cannot come first"),
        ([USER, USER], "turns 1 and 2 are both of the user"),
        ([USER, ASSISTANT, ASSISTANT], "turns 2 and 3 are both of the assistant"),
        ([USER, TOOL], "turn 2: a turn of the tool cannot follow a turn of the user"),
        ([USER, ASSISTANT, TOOL, USER], "turn 4: a turn of the user cannot follow a turn of the tool"),
        ([USER, Turn.of("assistant", " \n")], "turn 2, of the assistant, is empty"),
        ([USER, Turn.of("system", "words")], "turn 2: a turn of the system cannot follow a turn of the user"),
        ([Turn("user", (Part("cite", "1"),))], "turn 1: a turn of the user has no cite"),
        ([USER, Turn("assistant", (Part("passage", "1"),))], "turn 2: a turn of the assistant has no passage"),
    ],
)
def test_what_is_no_conversation_is_refused(turns, reason):
    with pytest.raises(ValueError, match=reason):
        check(turns)


DATA = REPOSITORY.parent / "shared" / "data"


def independent(tokenizer, messages):
    """Render role and text pairs with nothing of the template's code."""
    ids, trained = [tokenizer.id_of("<|endoftext|>")], [False]
    for role, text in messages:
        ids.append(tokenizer.id_of(f"<|{role}|>"))
        body = [*tokenizer.encode(text), tokenizer.id_of("<|end|>")]
        ids += body
        trained += [False] + [role == "assistant"] * len(body)
    return ids, trained


def paths_of(node, before=()):
    here = (*before, ("user" if node["role"] == "prompter" else "assistant", node["text"]))
    if not node["replies"]:
        yield here
    for reply in node["replies"]:
        yield from paths_of(reply, here)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
def test_all_paths_of_openassistant_and_all_dialogues_of_hh_render_as_by_an_independent_renderer(template, tokenizer):
    lines = (DATA / "oasst_en100" / "en_100_tree.jsonl").read_text().splitlines()
    trees = [json.loads(line)["prompt"] for line in lines]
    paths = [path for tree in trees for path in paths_of(tree)]
    assert len(paths) == 626
    parsed = [conversation(path).turns for tree in trees for path in expand(tree, "all_paths")]
    assert [[turn.parts[0].text for turn in turns] for turns in parsed] == [
        [text for _, text in path] for path in paths
    ]
    with gzip.open(DATA / "hh_rlhf_harmless_test" / "test.jsonl.gz", "rt") as file:
        dialogues = [json.loads(line)["chosen"] for line in file]
    for dialogue in dialogues:
        parts = re.split(r"\n\n(Human|Assistant):", dialogue)[1:]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        paths.append(tuple(("user" if who == "Human" else "assistant", text.strip()) for who, text in pairs))
    assert len(paths) == 626 + 2312
    for path in paths:
        rendered = template.render([Turn.of(role, text) for role, text in path])
        assert rendered == independent(tokenizer, path)
