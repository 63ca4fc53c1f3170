"""An export of a checkpoint with an imported tokenizer: AutoTokenizer gives the same ids, texts and chats."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.test_export import export, ids_of, make_checkpoint
from tests.tokenization import foreign
from tests.tokenization.test_import_tokenizer import controls, hostile

from ibidem.conversation import Part, Turn
from ibidem.modeling.config import ModelConfig
from ibidem.serving.export import self_test
from ibidem.serving.export.hf_tokenizer import form_of
from ibidem.serving.export.hostile import conversations, messages
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.import_tokenizer import import_tokenizer
from ibidem.tokenization.tokenizer import Tokenizer

KINDS = [*foreign.KINDS]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Path]]:
    place = tmp_path_factory.mktemp("exported")
    return {name: make(name, place / name) for name in KINDS}


@pytest.fixture(scope="module")
def theirs(exported: dict[str, tuple[Tokenizer, Path]]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(folder) for name, (_, folder) in exported.items()}


def make(name: str, place: Path) -> tuple[Tokenizer, Path]:
    folder = foreign.write(place / "foreign", foreign.KINDS[name](), foreign.CONFIGS.get(name))
    tokenizer = import_tokenizer(folder, place / "tokenizer")
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, ffn_hidden=32, context=64)
    checkpoint = make_checkpoint(place / "step-000000", place / "tokenizer", shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_test, "TEXTS", 300)
        patch.setattr(self_test, "CONVERSATIONS", 40)
        assert export(checkpoint, place / "export") == 0
    return tokenizer, place / "export"


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=40)
@given(text=st.text() | hostile)
def test_any_text_has_the_same_ids(
    name: str, exported: dict[str, tuple[Tokenizer, Path]], theirs: dict[str, Any], text: str
) -> None:
    ours, library = exported[name][0], theirs[name]
    if any(sequence in text for sequence in ("\U0010ffff\U0010fffe", "\U0010ffff|", "\U0010ffffs>", "\U0010ffff/s>")):
        return  # what the card says
    expected = ours.encode(text)
    assert ids_of(library, text) == expected
    assert library(text)["input_ids"] == [ours.document_id, *expected]
    assert library.decode(expected, skip_special_tokens=True) == ours.decode(expected)
    assert not set(expected) & (controls(ours) - {ours.codec.unknown_id})


@pytest.mark.parametrize("name", KINDS)
def test_the_chat_template_has_our_ids_on_hostile_conversations(
    name: str, exported: dict[str, tuple[Tokenizer, Path]], theirs: dict[str, Any]
) -> None:
    ours = exported[name][0]
    form, template = form_of(ours), ChatTemplate(ours)
    lead, escape = form.alphabet
    texts = (f"{lead}|user|>", f"{lead}{escape}|end|>", lead, escape, f"{lead}{lead}[INST]", f"{lead}s>", "<s>")
    talks = [(Turn.of("user", text), Turn("assistant", (Part("text", text), Part("text", text)))) for text in texts]
    for turns in [*talks, *conversations(form.pieces, form.alphabet, 60, seed=9)]:
        found = theirs[name].apply_chat_template(messages(turns), add_generation_prompt=True, return_dict=False)
        assert found == template.prompt(turns)


@pytest.mark.parametrize("name", KINDS)
def test_an_export_that_is_imported_and_exported_again_is_the_same(
    name: str, exported: dict[str, tuple[Tokenizer, Path]], tmp_path: Path
) -> None:
    ours, folder = exported[name]
    again = import_tokenizer(folder, tmp_path / "t")
    assert form_of(again).text == (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert (again.document_id, again.vocab_size) == (ours.document_id, ours.vocab_size)
    for text in foreign.TEXTS[:5]:
        assert again.encode(text) == ours.encode(text)


def test_the_card_names_the_token_that_begins_a_document(exported: dict[str, tuple[Tokenizer, Path]]) -> None:
    card = (exported["llama3"][1] / "README.md").read_text()
    assert "A document begins with `<|begin_of_text|>`" in card
    assert "The tokenizer was imported" in card


def test_an_unprotected_text_of_an_imported_tokenizer_does_not_appear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibidem.serving.export import export as wiring

    folder = foreign.write(tmp_path / "foreign", foreign.qwen3(), foreign.CONFIGS["qwen3"])
    tokenizer = import_tokenizer(folder, tmp_path / "tokenizer")
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, ffn_hidden=32, context=64)
    checkpoint = make_checkpoint(tmp_path / "step-000000", tmp_path / "tokenizer", shape)
    right = wiring.chat_template
    lead, escape = form_of(tokenizer).alphabet
    monkeypatch.setattr(
        wiring,
        "chat_template",
        lambda alphabet, **more: right(alphabet, **more).replace(f"'{lead}{escape}'", f"'{lead}'"),
    )
    monkeypatch.setattr(self_test, "TEXTS", 20)
    monkeypatch.setattr(self_test, "CONVERSATIONS", 100)
    assert export(checkpoint, tmp_path / "export") == 2
    assert "the export differs from the checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_the_settings_of_an_imported_tokenizer_name_its_special_tokens(
    exported: dict[str, tuple[Tokenizer, Path]], theirs: dict[str, Any]
) -> None:
    for name, (ours, folder) in exported.items():
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["split_special_tokens"] is False
        assert theirs[name].bos_token_id == theirs[name].eos_token_id == ours.document_id
        assert theirs[name].pad_token_id == ours.pad_id
        assert len(theirs[name]) == ours.vocab_size
