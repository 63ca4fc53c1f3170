"""Imported tokenizers: the ids of the file, texts that come back, and special tokens that no text spells."""

import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenization import foreign
from tokenizers import Tokenizer as Library

from ibidem import artifacts
from ibidem.conversation import Part, Turn
from ibidem.data import blend
from ibidem.errors import ConfigError, DataError, IbidemError
from ibidem.records import TOKENIZER_JSON
from ibidem.serving.server.detokenizer import Detokenizer
from ibidem.tokenization import json_file, special
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.canonical import bare, canonical
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.import_tokenizer import import_tokenizer, summary
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.unigram_json import Pieces, tokenizer_json
from ibidem.training.tokens import Fim, fill_in_middle

LOSSLESS = ("llama3", "gpt2")
"""Those that change no text at all."""
SPELLED = (
    *("<|im_end|>", "<|endoftext|>", "<|user|>", "<|end|>", "<|system|>", "<s>", "</s>", "<unk>", "<pad>", "[INST]"),
    *(
        "<tool_call>",
        "<think>",
        "<|fim_prefix|>",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|pad|>",
        "<|/cite|>",
        "<|file|>",
    ),
    *("s>", "<", "|", ">", "<0x0A>", " ", "\n", "\u2581", "a", "\U0010ffff", "\U0010fffe", "user|>"),
)
hostile = st.lists(st.sampled_from(SPELLED) | st.text(max_size=3), max_size=12).map("".join)

Made = dict[str, Tokenizer]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("foreign")
    return {
        name: foreign.write(place / name, make(), foreign.CONFIGS.get(name)) for name, make in foreign.KINDS.items()
    }


@pytest.fixture(scope="module")
def made(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("imported")
    return {name: import_tokenizer(folder, place / name) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Library]:
    found = {name: Library.from_file(str(folder / TOKENIZER_JSON)) for name, folder in folders.items()}
    for each in found.values():
        each.no_truncation()
    return found


def tree_of(name: str) -> dict[str, Any]:
    return foreign.KINDS[name]()


# Texts


@pytest.mark.parametrize("name", foreign.KINDS)
@settings(max_examples=40)
@given(text=st.text())
def test_ids_are_those_of_the_file(name: str, made: Made, theirs: dict[str, Library], text: str) -> None:
    assert made[name].encode(text) == theirs[name].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", foreign.KINDS)
def test_source_code_has_the_ids_of_the_file(name: str, made: Made, theirs: dict[str, Library]) -> None:
    expected = [theirs[name].encode(text, add_special_tokens=False).ids for text in foreign.TEXTS[:20]]
    assert made[name].encode_batch(foreign.TEXTS[:20], threads=2) == expected
    assert [made[name].encode(text) for text in foreign.TEXTS[:20]] == expected


@pytest.mark.parametrize("name", LOSSLESS)
@given(text=st.text() | hostile)
def test_texts_come_back(name: str, made: Made, text: str) -> None:
    assert made[name].decode(made[name].encode(text)) == text


@given(text=st.text() | hostile)
def test_what_is_changed_is_what_the_normalizer_changes(made: Made, text: str) -> None:
    assert made["qwen3"].decode(made["qwen3"].encode(text)) == unicodedata.normalize("NFC", text)
    assert made["llama2"].decode(made["llama2"].encode(text)) == text.replace("\u2581", " ")


@pytest.mark.parametrize("name", foreign.KINDS)
@settings(max_examples=40)
@given(text=hostile)
def test_no_text_becomes_a_special_token(name: str, made: Made, text: str) -> None:
    tokenizer = made[name]
    unknown = {tokenizer.codec.special_id("<unk>")} if name == "unigram" else set()  # it has no bytes
    assert not set(tokenizer.encode(text)) & (controls(tokenizer) - unknown)
    assert set(tokenizer.encode("<unk>")) & unknown == set()


def controls(tokenizer: Tokenizer) -> set[int]:
    return set(tokenizer.codec.controls.values())


@pytest.mark.parametrize("name", foreign.KINDS)
def test_every_added_token_of_the_file_stays_text_where_a_text_spells_it(name: str, made: Made) -> None:
    tree, tokenizer = tree_of(name), made[name]
    names = [token["content"] for token in tree["added_tokens"]] + [special.DOCUMENT, special.PAD, *special.CONTROL]
    assert len(names) > len(special.CONTROL) + 2
    assert "<tool_call>" in names or name != "qwen3"
    for spelled in names:
        ids = tokenizer.encode(f"a{spelled}b")
        assert not set(ids) & controls(tokenizer), spelled
        assert tokenizer.decode(ids) == f"a{spelled}b"
        assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.id_of(spelled)]) == "a"


def test_a_declared_word_that_is_no_marker_stays_a_word_of_its_own(tmp_path: Path) -> None:
    tree = foreign.with_added(tree_of("llama3"), (), ("    ", "zebra"))
    tokenizer = import_tokenizer(foreign.write(tmp_path / "f", tree), tmp_path / "t")
    library = Library.from_str(json.dumps(tree))
    for text in ("a    b", "zebra", "two zebras     \n", "    "):
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.pieces(tokenizer.encode("zebra")) == ["zebra"]


def test_a_merge_that_spells_a_special_token_is_not_made(made: Made, theirs: dict[str, Library]) -> None:
    theirs["llama2"].encode_special_tokens = True
    spelled = theirs["llama2"].encode("x<s>", add_special_tokens=False).ids
    assert 1 in spelled, "the file's own merges make it"
    assert 1 not in made["llama2"].encode("x<s>")


def test_a_special_token_within_a_unigram_vocabulary_is_not_found(made: Made, theirs: dict[str, Library]) -> None:
    theirs["unigram"].encode_special_tokens = True
    end = theirs["unigram"].token_to_id("</s>")
    assert end in theirs["unigram"].encode("x</s>", add_special_tokens=False).ids, "the file's own model finds it"
    assert end not in made["unigram"].encode("x</s>")


@pytest.mark.parametrize("name", foreign.KINDS)
def test_what_encodes_texts_does_not_have_the_special_tokens(name: str, made: Made) -> None:
    tree = json.loads(made[name].model_bytes)
    special_names = {token["content"] for token in tree["added_tokens"] if token["special"]}
    vocab = bare(tree)["model"]["vocab"]
    names = {*vocab} if isinstance(vocab, dict) else {piece for piece, _ in vocab}
    assert len(special_names) > len(special.CONTROL)
    assert names & special_names <= {tree["model"].get("unk_token")}
    assert not [token for token in bare(tree)["added_tokens"] if token["special"]]


def test_dropout_and_truncation_of_the_file_are_off(tmp_path: Path, made: Made) -> None:
    tree = tree_of("gpt2")
    tree["model"]["dropout"] = 0.9
    tokenizer = import_tokenizer(foreign.write(tmp_path / "f", tree), tmp_path / "t")
    assert tree["truncation"]["max_length"] == 5
    for text in foreign.TEXTS[:5]:
        assert tokenizer.encode(text) == made["gpt2"].encode(text)


# Pieces


@pytest.mark.parametrize("name", foreign.KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_stream_is_what_is_decoded(name: str, made: Made, data: st.DataObject) -> None:
    tokenizer = made[name]
    pieces = [number for number in range(tokenizer.vocab_size) if tokenizer.is_byte(number)]
    anything = st.integers(0, tokenizer.vocab_size + 5)
    ids = data.draw(st.lists(st.sampled_from(pieces) | anything if pieces else anything, max_size=12))
    for firsts, expected in ((tokenizer.first_texts, tokenizer.decode(ids)), ({}, tokenizer.continued(ids))):
        text = Detokenizer(tokenizer.texts_of_V, (), firsts)
        assert "".join([*map(text.add, ids), text.end()]) == expected


@pytest.mark.parametrize("name", foreign.KINDS)
@settings(max_examples=40)
@given(text=st.text())
def test_each_id_knows_how_many_bytes_it_adds(name: str, made: Made, text: str) -> None:
    tokenizer = made[name]
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    before = np.array([tokenizer.document_id, *ids], dtype=np.int64)[:-1]
    assert int(tokenizer.bytes_of(ids, before).sum()) == len(tokenizer.decode(ids.tolist()).encode())


def test_a_piece_that_is_a_part_of_a_character_is_bytes(made: Made) -> None:
    for name in ("qwen3", "llama3", "gpt2"):
        tokenizer = made[name]
        ids = tokenizer.encode("\U0001f680")
        assert len(ids) > 1
        assert all(map(tokenizer.is_byte, ids))
        assert b"".join(tokenizer.texts_of_V[number] for number in ids) == "\U0001f680".encode()
        assert tokenizer.pieces(ids)[0].startswith("<0xF0>")
        assert not tokenizer.is_byte(tokenizer.encode("a")[0])
        assert tokenizer.bytes_of_V[sorted(controls(tokenizer))].sum() == 0


def test_several_raw_bytes_may_be_one_piece(made: Made) -> None:
    for name in ("qwen3", "llama3", "gpt2"):
        pieces = [piece for piece in made[name].texts_of_V if isinstance(piece, bytes)]
        assert b"\xf0\x9f\x98" in pieces, "all faces begin with it"
        assert made[name].decode(made[name].encode("\U0001f601\U0001f602")) == "\U0001f601\U0001f602"


@pytest.mark.parametrize("name", foreign.KINDS)
@settings(max_examples=40)
@given(text=st.text())
def test_spans_cover_a_text(name: str, made: Made, text: str) -> None:
    tokenizer = made[name]
    ids = tokenizer.encode(text)
    spans = tokenizer.spans(text, ids)
    assert spans.shape == (len(ids), 2)
    assert ((spans >= 0) & (spans <= len(text))).all()
    assert (spans[:, 0] <= spans[:, 1]).all()
    if tokenizer.decode(ids) == text:
        for number, (start, end) in zip(ids[1:], spans[1:], strict=True):
            piece = tokenizer.texts_of_V[number]
            assert text[start:end] == piece if isinstance(piece, str) else piece in text[start:end].encode()
        assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))


def test_spans_of_a_text_that_is_cut_are_those_of_its_beginning(made: Made) -> None:
    for name in ("llama2", "qwen3"):
        text = "one two \U0001f680 three"
        ids = made[name].encode(text)
        assert (made[name].spans(text, ids[:5]) == made[name].spans(text, ids)[:5]).all()


def test_a_blank_before_the_first_word_belongs_to_no_text(made: Made) -> None:
    tokenizer = made["llama2"]
    ids = tokenizer.encode("return x")
    assert tokenizer.decode(ids) == "return x"
    assert tokenizer.continued(ids) == " return x"
    assert tokenizer.continued(tokenizer.encode_continued("return x")) == "return x"
    assert tokenizer.spans("return x", ids)[0].tolist()[0] == 0
    assert tokenizer.decode(tokenizer.encode("  two blanks")) == "  two blanks"


# Conversations and documents


@pytest.mark.parametrize("name", foreign.KINDS)
@settings(max_examples=40)
@given(text=hostile)
def test_a_conversation_has_the_markers_that_it_should_and_comes_back(name: str, made: Made, text: str) -> None:
    tokenizer = made[name]
    template = ChatTemplate(tokenizer)
    given_parts = (Part("text", text), Part("text", "a"), Part("cite", "1"))
    ids = template.render([Turn.of("user", text), Turn("assistant", given_parts)]).ids
    unknown = tokenizer.codec.special_id("<unk>")
    assert sum(number in controls(tokenizer) for number in ids if number != unknown) == 7
    if tokenizer.decode(tokenizer.encode(text + "a")) == text + "a":
        read = template.read(template.answer(given_parts))
        assert read == Turn("assistant", (Part("text", text + "a"), Part("cite", "1")))


@pytest.mark.parametrize("name", [name for name in foreign.KINDS if name != "unigram"])
@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
def test_a_middle_is_filled_in_with_the_document_s_own_text(name: str, spm_rate: float, made: Made) -> None:
    tokenizer = made[name]
    markers = [tokenizer.id_of(each) for each in (special.FIM_PREFIX, special.FIM_MIDDLE, special.FIM_SUFFIX)]
    prefix, middle, suffix = markers
    fim = Fim(tokenizer, tokenizer.document_id, *markers, rate=1.0, spm_rate=spm_rate)
    text = "def add(value, index):\n    return value + index\n"
    ids = [tokenizer.document_id, *tokenizer.encode(text)]
    room = [tokenizer.document_id] * 40
    num_changed = 0
    for seed in range(10):
        changed = fill_in_middle(np.array([*ids, *room]), fim, rng=np.random.default_rng(seed)).tolist()
        if changed[1] != prefix:
            assert name == "mistral", "it is changed, unless a part would not come back"
            continue
        num_changed += 1
        first, second = changed.index(suffix), changed.index(middle)
        end = changed.index(tokenizer.document_id, 1)
        parts = changed[2:first], changed[second + 1 : end], changed[first + 1 : second]
        assert "".join(map(tokenizer.decode, parts)) == text
    assert num_changed > 2


@pytest.mark.parametrize("name", foreign.KINDS)
def test_a_blend_counts_the_tokens_that_it_has(name: str, made: Made) -> None:
    folder = made[name].path
    assert folder is not None
    texts = [*foreign.TEXTS[:5], "<|im_end|><|user|><s>"]
    assert blend._counter(folder)(texts) == [len(made[name].encode(text)) for text in texts]


# The artifact


def test_markers_are_added_behind_the_last_id_and_those_there_are_used(made: Made) -> None:
    tree = tree_of("qwen3")
    known = {token["content"]: token["id"] for token in tree["added_tokens"]}
    own = max(known.values()) + 1
    tokenizer = made["qwen3"]
    assert tokenizer.document_id == known["<|endoftext|>"]
    for name in ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|im_end|>"):
        assert tokenizer.id_of(name) == known[name]
    missing = [name for name in (special.PAD, *special.CONTROL) if name not in known]
    assert [tokenizer.id_of(name) for name in missing] == list(range(own, own + len(missing)))
    assert tokenizer.vocab_size == own + len(missing)
    config = artifacts.load(tokenizer.path).config
    assert config["markers_added"] == missing


def test_a_text_ends_as_the_model_has_learned_it_too(tmp_path: Path) -> None:
    tree = foreign.llama3()
    ids = {token["content"]: token["id"] for token in tree["added_tokens"]}
    folder = foreign.write(tmp_path / "f", tree, {"eos_token": {"content": "<|eot_id|>"}})
    listed = [ids["<|end_of_text|>"], tree["model"]["vocab"]["e"], 1 << 20]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": None}))
    tokenizer = import_tokenizer(folder, tmp_path / "t")
    own = {tokenizer.document_id, tokenizer.turn_end_id}
    assert tokenizer.end_ids == own | {ids["<|eot_id|>"], ids["<|end_of_text|>"]}, "a letter ends nothing"
    assert Tokenizer.load(tmp_path / "t").end_ids == ChatTemplate(tokenizer).end_ids == tokenizer.end_ids


def test_only_ids_end_a_text(tmp_path: Path) -> None:
    folder = foreign.write(tmp_path / "f", foreign.llama3())
    (folder / "generation_config.json").write_text('{"eos_token_id": [true]}')
    with pytest.raises(DataError, match=r"generation_config.json: eos_token_id is no id, and no list of ids"):
        import_tokenizer(folder, tmp_path / "t")


def test_a_document_begins_as_the_model_has_learned_it(made: Made) -> None:
    assert made["llama3"].pieces([made["llama3"].document_id]) == ["<|begin_of_text|>"]
    assert made["llama2"].pieces([made["llama2"].document_id]) == ["<s>"]
    assert made["mistral"].pieces([made["mistral"].document_id]) == ["<s>"], "from the post-processor"
    assert made["gpt2"].pieces([made["gpt2"].document_id]) == ["<|endoftext|>"]
    assert made["unigram"].pieces([made["unigram"].document_id]) == ["<|endoftext|>"]
    assert all(tokenizer.encode("a")[0] != tokenizer.document_id for tokenizer in made.values())


def test_what_comes_back_changed_is_counted_and_said(made: Made) -> None:
    found = {name: artifacts.load(tokenizer.path) for name, tokenizer in made.items()}
    assert found["llama3"].config["texts_changed"] == {}
    assert "trial texts come back byte for byte" in summary(found["llama3"])
    assert found["qwen3"].config["texts_changed"]["unnormalized Unicode"] == 5
    assert found["qwen3"].counts["texts_changed"] == sum(found["qwen3"].config["texts_changed"].values())
    assert "come back changed (unnormalized Unicode 5" in summary(found["qwen3"])
    assert set(found["llama2"].config["texts_changed"]) == {"U+2581"}
    assert {"blanks", "U+2581"} == set(found["mistral"].config["texts_changed"])
    assert "any characters" in found["unigram"].config["texts_changed"]


@pytest.mark.parametrize("change", ["lowercase", "strip"])
def test_a_normalizer_that_changes_texts_is_found(change: str, tmp_path: Path) -> None:
    steps = {"lowercase": {"type": "Lowercase"}, "strip": {"type": "Strip", "strip_left": True, "strip_right": True}}
    tree = tree_of("llama3") | {"normalizer": steps[change]}
    tokenizer = import_tokenizer(foreign.write(tmp_path / "f", tree), tmp_path / "t")
    changed = artifacts.load(tokenizer.path).config["texts_changed"]
    assert changed["capitals" if change == "lowercase" else "blanks"] > 5
    assert tokenizer.decode(tokenizer.encode(" Ab")) == (" ab" if change == "lowercase" else "Ab")


@pytest.mark.parametrize("name", foreign.KINDS)
def test_importing_again_gives_the_same_bytes(name: str, made: Made, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[name], tmp_path / "copy")
    again = import_tokenizer(tmp_path / "copy", tmp_path / "t")
    assert again.digest == made[name].digest
    assert (again.path / TOKENIZER_JSON).read_bytes() == (made[name].path / TOKENIZER_JSON).read_bytes()
    inputs = artifacts.load(again.path).inputs
    names = ["tokenizer.json", *(["tokenizer_config.json"] if name in foreign.CONFIGS else [])]
    assert [(each.role, each.name, each.is_artifact) for each in inputs] == [("outside", each, False) for each in names]


@pytest.mark.parametrize("name", foreign.KINDS)
def test_what_was_imported_is_imported_as_it_is(name: str, made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    shutil.copy(made[name].path / TOKENIZER_JSON, folder)
    again = import_tokenizer(folder, tmp_path / "t")
    assert (again.path / TOKENIZER_JSON).read_bytes() == (folder / TOKENIZER_JSON).read_bytes()
    assert artifacts.load(again.path).config["markers_added"] == []
    assert (again.document_id, again.turn_end_id, again.pad_id) == (
        made[name].document_id, made[name].turn_end_id, made[name].pad_id,
    )  # fmt: skip


def test_an_export_of_our_own_comes_back_as_the_model_that_it_was(tokenizer_dir: Path, tmp_path: Path) -> None:
    own = Tokenizer.load(tokenizer_dir)
    pieces = Pieces.of(own.model_bytes)
    text = tokenizer_json(pieces, Alphabet.outside(pieces.texts))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / TOKENIZER_JSON).write_text(text, encoding="utf-8", newline="")
    again = import_tokenizer(tmp_path / "f", tmp_path / "t")
    back = Pieces.of(again.model_bytes)
    assert back == pieces
    assert tokenizer_json(back, Alphabet.outside(back.texts)) == text
    assert "all of" in summary(artifacts.load(again.path))
    assert again.vocab_size == own.vocab_size
    for each in [*foreign.TEXTS, *SPELLED, "".join(SPELLED), " " * 34]:
        assert again.encode(each) == own.encode(each)
        assert again.decode(own.encode(each)) == each
    names = [special.DOCUMENT, special.PAD, *special.CONTROL]
    assert [again.id_of(name) for name in names] == [own.id_of(name) for name in names]


def test_an_export_of_our_own_that_was_changed_is_not_taken_for_one(tokenizer_dir: Path, tmp_path: Path) -> None:
    pieces = Pieces.of(Tokenizer.load(tokenizer_dir).model_bytes)
    tree = json.loads(tokenizer_json(pieces, Alphabet.outside(pieces.texts)))
    tree["added_tokens"].pop()
    with pytest.raises(DataError, match="decoder Replace"):
        import_tokenizer(foreign.write(tmp_path / "f", tree), tmp_path / "t")


# What is refused


def altered(change: Callable[[dict[str, Any]], Any], name: str = "qwen3") -> str:
    tree = tree_of(name)
    change(tree)
    return json.dumps(tree)


WORD_PIECES = {"type": "WordPiece", "prefix": "##", "cleanup": True}
REFUSED = {
    "not JSON": ("{", "not JSON"),
    "not an object": ("[1]", "not an object"),
    "nested too deeply": ("[" * 100_000, "not JSON"),
    "no model": ("{}", "it has no model"),
    "another kind of model": (altered(lambda t: t["model"].update(type="WordPiece")), "a model of type WordPiece"),
    "an unknown kind of model": (altered(lambda t: t["model"].update(type="Future")), "a model of type Future"),
    "a gap": (altered(lambda t: t["added_tokens"][-1].update(id=9000)), "no name has the id"),
    "an id twice": (altered(lambda t: t["added_tokens"][-1].update(id=3)), "id 3 has two names"),
    "a name with two ids": (altered(lambda t: t["added_tokens"][-1].update(content="a", id=9000)), "'a' has two ids"),
    "a negative id": (altered(lambda t: t["model"]["vocab"].update(a=-1)), "no table of pieces and ids"),
    "an invalid expression": (
        altered(lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a"})),
        "tokenizers cannot read it: Oniguruma error",
    ),
    "an unknown pre-tokenizer": (altered(lambda t: t["pre_tokenizer"].update(type="Future")), "tokenizers cannot read"),
    "a merge without a piece": (altered(lambda t: t["model"]["merges"].append(["q", "\u1234"])), "out of vocabulary"),
    "a merge of one": (altered(lambda t: t["model"]["merges"].append(["q"])), "a merge that is not one of two pieces"),
    "no name": (altered(lambda t: t["model"].update(unk_token=["a"])), "unk_token) is no text"),
    "a marker without a name": (
        altered(lambda t: t["post_processor"]["processors"][1]["single"][0].update(SpecialToken={}), "llama3"),
        "its post-processor is no list of special tokens and texts",
    ),
    "a template of nothing": (
        altered(lambda t: t["post_processor"]["processors"][1].update(single={"a": 1}), "llama3"),
        "its post-processor is no list of special tokens and texts",
    ),
    "no decoder": (altered(lambda t: t.update(decoder=None)), "it has no decoder"),
    "a decoder that forgets": (altered(lambda t: t.update(decoder=WORD_PIECES)), "its decoder WordPiece"),
    "a damaged table": (
        altered(lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
        "its table of characters",
    ),
    "a table that is too short": (
        altered(lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        "its table of characters",
    ),
    "a table of nothing": (
        altered(lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAP/////////"})),
        "its table of characters",
    ),
    "a table that points nowhere": (
        altered(lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="})),
        "tokenizers cannot read it",
    ),
    "no unknown id": (altered(lambda t: t["model"].update(unk_id=None), "unigram"), "unk_id"),
    "half a surrogate": (altered(lambda t: t["added_tokens"][-1].update(content="\ud800")), "cannot read it"),
    "an added token without a name": (altered(lambda t: t["added_tokens"][-1].pop("content")), "without id or content"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_tokenizer_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, said = REFUSED[case]
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DataError) as caught:
        import_tokenizer(tmp_path, tmp_path / "t")
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_missing_file_and_one_that_is_too_large_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: missing; give the folder of a Hugging Face model"):
        import_tokenizer(tmp_path, tmp_path / "t")
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(ConfigError, match="104,857,600 bytes; a tokenizer has at most"):
        import_tokenizer(tmp_path, tmp_path / "t")


def test_a_damaged_configuration_beside_it_is_refused(tmp_path: Path) -> None:
    foreign.write(tmp_path, tree_of("llama3"))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not JSON"):
        import_tokenizer(tmp_path, tmp_path / "t")


def test_a_folder_of_something_else_is_left_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with pytest.raises(IbidemError, match="exists and is not a tokenizer"):
        import_tokenizer(folders["qwen3"], tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "text"


def test_a_tokenizer_file_that_we_did_not_write_is_not_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    with artifacts.create(tmp_path / "t", kind="tokenizer", config={}) as draft:
        shutil.copy(folders["llama3"] / TOKENIZER_JSON, draft.path)
    with pytest.raises(IbidemError, match="not written by ibidem"):
        Tokenizer.load(tmp_path / "t")


def test_the_library_is_asked_for_only_where_it_is_needed(
    tokenizer_dir: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys; from ibidem.tokenization.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.load(sys.argv[1]); assert tokenizer.decode(tokenizer.encode('a')) == 'a'\n"
        "assert 'tokenizers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tokenizer_dir)], check=True)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'ibidem\[huggingface\]'"):
        Tokenizer.load(made["llama3"].path)


def test_our_form_of_our_form_is_itself() -> None:
    for name in foreign.KINDS:
        tree = json_file.checked(tree_of(name), Path("t"))
        once = canonical(tree, Path("t"), begins=None)
        twice = canonical(json_file.checked(json.loads(once.text), Path("t")), Path("t"), begins=None)
        assert twice.markers == ()
        assert twice.text == once.text
