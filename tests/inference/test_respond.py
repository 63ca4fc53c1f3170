"""Answers to conversations: by the chat template of the model, and never from a turn that was cut."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ibidem import log
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import ConfigError, NoRoom
from ibidem.inference.chat import answer, fit, plain_prompt, shortened
from ibidem.inference.models import HuggingFaceModel, OwnModel, open_model
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.generate import Sampling, complete
from ibidem.modeling.modeling_custom import Decoder
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

SYSTEM, HELLO, BYE = Turn.of("system", "Be brief."), Turn.of("user", "Hello"), Turn.of("user", "Bye")
TALK = (SYSTEM, HELLO, Turn.of("assistant", "Hi"), BYE)
GREEDY = Sampling(8, temperature=0)
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Script:
    """Generates given ids, one list a prompt, and keeps the prompts."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers, self.prompts = answers, []

    def __call__(self, _model: object, prompts: list[list[int]], _sampling: Sampling, *, end_ids: Any) -> Any:
        self.prompts, self.end_ids = prompts, end_ids
        return list(self.answers)


@pytest.fixture(scope="module")
def own(long_checkpoint: Path) -> OwnModel:
    model = open_model(long_checkpoint)
    assert isinstance(model, OwnModel)
    return model


@pytest.fixture
def chatting(hf_model: Path, tmp_path: Path) -> Path:
    """The Hugging Face model with a chat template of its own."""
    shutil.copytree(hf_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path / "model"


def seen_by(model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the texts that the model continues."""
    prompts: list[str] = []
    continued = model._continued

    def note(ids: list[int], *rest: Any) -> str:
        prompts.append("".join(model._tokenizer.convert_ids_to_tokens(ids)))
        return continued(ids, *rest)

    monkeypatch.setattr(model, "_continued", note)
    return prompts


def test_a_checkpoint_reads_the_template_and_its_answer_is_read_by_it(
    own: OwnModel, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.load(tokenizer_dir)
    template = ChatTemplate(tokenizer)
    turn = Turn("assistant", (Part("text", "At nine"), Part("cite", "1"), Part("text", ".")))
    script = Script(template.answer(turn.parts), tokenizer.encode("Good"), [tokenizer.document_id])
    monkeypatch.setattr("ibidem.inference.chat.generate", script)
    assert own.respond([TALK, (HELLO,), (BYE,)], GREEDY) == [turn, Turn.of("assistant", "Good"), Turn("assistant", ())]
    assert script.prompts == [template.prompt(turns) for turns in (TALK, (HELLO,), (BYE,))]
    assert set(script.end_ids) == {tokenizer.id_of(special.TURN_END), tokenizer.id_of(special.DOCUMENT)}
    answers = answer(own._frozen, template, [TALK, (HELLO,), (BYE,)], GREEDY)
    assert [each.finish for each in answers] == ["turn", "length", "document"]


def test_a_model_that_ends_its_turn_is_not_asked_for_more(tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_dir)
    template = ChatTemplate(tokenizer)
    word = tokenizer.encode("x")[-1]
    for end, finish in ((template.turn_end_id, "turn"), (tokenizer.document_id, "document")):
        model = following({tokenizer.id_of(special.ASSISTANT): word, word: end})
        done = answer(model, template, [(HELLO,), TALK], Sampling(20, temperature=0))
        assert [(each.num_tokens, each.finish) for each in done] == [(2, finish)] * 2
        assert {each.turn.text for each in done} == {tokenizer.decode([word])}
        (completion,) = complete(following({word: end, end: end}), tokenizer, ["x"], Sampling(20, temperature=0))
        assert (completion.text, completion.num_tokens, completion.finish) == ("", 1, finish)


def following(due: dict[int, int]) -> Decoder:
    """Return a model whose next id follows from the last one alone: `due[id]`."""
    model = Decoder(ModelConfig(vocab_size=512, width=32, layers=1, heads=2, ffn_hidden=64, context=512, tied=False))
    assert model.head is not None
    with torch.no_grad():
        for parameter in (*model.blocks.parameters(), model.embedding.weight_VD, model.head.weight_VD):
            parameter.zero_()
        for place, (last, following_id) in enumerate(due.items()):
            model.embedding.weight_VD[last, place] = 1
            model.head.weight_VD[following_id, place] = 1
    return model.eval()


def test_a_hugging_face_model_reads_its_own_template(chatting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(chatting)
    assert isinstance(model, HuggingFaceModel)
    prompts = seen_by(model, monkeypatch)
    (turn,) = model.respond([TALK], GREEDY)
    assert prompts == ["[system]Be brief.[user]Hello[assistant]Hi[user]Bye[assistant]"]
    assert turn.role == "assistant"


def test_a_hugging_face_model_without_a_template_continues_the_plain_rendering(
    hf_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(hf_model)
    assert isinstance(model, HuggingFaceModel)
    prompts = seen_by(model, monkeypatch)
    model.respond([(HELLO,)], GREEDY)
    assert prompts == ["<s>User:\nHello\n\nAssistant:\n"]
    monkeypatch.setattr(model._tokenizer, "decode", lambda *_, **__: "Hi\nUser: and I say\nSystem: this")
    assert model.respond([(HELLO,)], GREEDY) == [Turn.of("assistant", "Hi")]


def test_a_template_that_refuses_is_one_line(chatting: Path) -> None:
    (chatting / "chat_template.jinja").write_text("{{ raise_exception('no system\nprompt here') }}")
    with pytest.raises(ConfigError, match="chat template refuses the conversation: no system prompt here"):
        open_model(chatting).respond([TALK], GREEDY)


def test_a_template_cannot_leave_its_sandbox(chatting: Path) -> None:
    (chatting / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ConfigError, match="chat template refuses"):
        open_model(chatting).respond([TALK], GREEDY)


def test_the_oldest_turns_are_left_out_whole_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(log, "event", lambda name, **fields: told.append({"name": name, **fields}))
    tool = Turn("assistant", (Part("tool_call", "clock"),))
    long = (SYSTEM, HELLO, Turn.of("assistant", "Hi"), HELLO, tool, Turn.of("tool", "9"))
    for room, kept in ((6, long), (5, (SYSTEM, *long[3:])), (4, (SYSTEM, *long[3:]))):
        assert fit([long, (HELLO,)], len, room) == [kept, (HELLO,)]
    assert [(event["name"], event["prompts"], event["of"]) for event in told] == [("evaluate.truncated", 1, 2)] * 2
    with pytest.raises(ConfigError, match="the prompt 'Hello' has 4 tokens, and max_tokens leaves 3 of"):
        fit([long], len, 3)


def test_a_long_conversation_is_shortened_in_few_looks() -> None:
    looks: list[int] = []
    long = (SYSTEM, *(HELLO, Turn.of("assistant", "Hi")) * 1000, BYE)

    def fits(turns: Conversation) -> bool:
        looks.append(len(turns))
        return len(turns) <= 77

    assert shortened(long, fits) == (SYSTEM, *long[-75:]), "it begins with a turn of the user"
    assert len(looks) <= 12
    looks.clear()
    assert shortened(long[:77], fits) == long[:77]
    assert looks == [77]
    with pytest.raises(NoRoom, match="shorten the prompt, or give fewer max_tokens"):
        shortened(long, lambda _: False)


@pytest.mark.parametrize("name", ["own", "hf", "hf with a template"])
def test_every_model_drops_whole_turns_and_refuses_a_prompt_that_does_not_fit(
    name: str, own: OwnModel, hf_model: Path, chatting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = own if name == "own" else open_model(hf_model if name == "hf" else chatting)
    told: list[dict[str, object]] = []
    monkeypatch.setattr(log, "event", lambda name, **fields: told.append({"name": name, **fields}))
    old = (Turn.of("user", "abc " * 100), Turn.of("assistant", "def " * 100))
    assert model.respond([(*old, HELLO)], GREEDY) == model.respond([(HELLO,)], GREEDY)
    assert [event["prompts"] for event in told if event["name"] == "evaluate.truncated"] == [1]
    with pytest.raises(ConfigError, match="the prompt 'abc abc .* tokens, and max_tokens leaves 504 of"):
        model.respond([(Turn.of("user", "abc " * 600),)], GREEDY)


def test_the_plain_prompt_ends_with_the_heading_of_the_answer() -> None:
    assert plain_prompt(TALK).endswith("\n\nUser:\nBye\n\nAssistant:\n")
