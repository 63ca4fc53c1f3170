from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import ArtifactError, ConfigError, DataError
from ibidem.tokenization import special
from ibidem.tokenization import train_tokenizer as train_tokenizer_module
from ibidem.tokenization.sentencepiece_codec import BLANK, NEWLINE
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.train_tokenizer import (
    SCORE_STEP,
    TrainTokenizerConfig,
    has_exact_sums,
    train_tokenizer,
)

HOSTILE = [
    *("", "\n", "\n\n\n", " ", "    x", "\tall:\n\t\techo", "a\r\nb\rc", "1234567890", "x" * 5000),
    *("a\u2581b \u2581", f"{NEWLINE}{BLANK}", f"x{BLANK}\n{NEWLINE}y", "\0", "\ufeffx", "<|endoftext|><unk><0x0A>"),
    *("\U0001f600 é e\u0301 漢字 \u200b\u202e", "\x0b\x0c\x1c\x85\u2028"),
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_byte_for_byte(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    for threads in (1, 2):
        assert tokenizer.encode_batch([text, "x"], threads=threads)[0] == tokenizer.encode(text)
        assert tokenizer.encode_arrays(["x", text], threads=threads)[1].tolist() == tokenizer.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.bytes_of_V[ids].sum()) == len(text.encode())


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(["\n", " ", "\t", "a", "(", NEWLINE, BLANK, "\u2581", "é"]), max_size=40))
def test_any_mixture_of_what_the_model_uses_itself_comes_back(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_text_encodes_to_a_special_token(tokenizer: Tokenizer) -> None:
    names = [special.DOCUMENT, special.PAD, special.UNKNOWN, *special.CONTROL]
    reserved = {tokenizer.id_of(name) for name in names}
    assert not reserved & set(tokenizer.encode(" ".join(names) + "".join(names)))
    assert tokenizer.bytes_of_V[sorted(reserved)].sum() == 0


def test_newlines_are_learned_and_not_spelled_in_bytes(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.pieces(tokenizer.encode("for x in y:\n    return x\n\n\n"))
    assert "<0x0A>" not in pieces
    assert any("\n" in piece for piece in pieces)


def train(input_path: Path, output: Path, **changes: object) -> artifacts.Artifact:
    train_tokenizer(TrainTokenizerConfig(input=input_path, output_dir=output, **changes))
    return artifacts.verify(output, kind="tokenizer")


def test_the_same_corpus_gives_the_same_tokenizer(dataset: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    again = train(dataset, tmp_path / "t", vocab_size=512, held_out_share=0.1)
    assert again.digest == artifacts.load(tokenizer_dir).digest
    assert again.counts["round_trips"] == again.counts["held_out"] > 0
    assert {"tokenizer.model", "tokenizer.vocab"} == set(again.files)


def test_scores_are_rounded_so_that_float32_and_float64_add_them_alike(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_tokenizer_module, "_round_scores", lambda _: None)
    train(dataset, tmp_path / "t", vocab_size=512, held_out_share=0.1)
    raw, rounded = (pieces_of(folder) for folder in (tmp_path / "t", tokenizer_dir))
    assert [text for text, _ in raw] == [text for text, _ in rounded]
    assert max(abs(one - other) for (_, one), (_, other) in zip(raw, rounded, strict=True)) <= SCORE_STEP / 2
    assert not has_exact_sums(score for _, score in raw)
    scores = [score for _, score in rounded]
    assert has_exact_sums(scores)
    sums = np.random.default_rng(0).choice(np.array(scores), 100_000)
    whole = np.cumsum(sums, dtype=np.float32)
    assert abs(float(whole[-1])) < 2**24 * SCORE_STEP
    assert (whole.astype(np.float64) == np.cumsum(sums, dtype=np.float64)).all()


def pieces_of(folder: Path) -> list[tuple[str, float]]:
    proto = model_pb2.ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    return [(piece.piece, piece.score) for piece in proto.pieces]


def test_ids_that_the_corpus_cannot_fill_are_reserved(dataset: Path, tmp_path: Path) -> None:
    counts = train(dataset, tmp_path / "t", vocab_size=20_000).counts
    tokenizer = Tokenizer.load(tmp_path / "t")
    assert tokenizer.vocab_size == counts["vocab_size"] == 20_000
    assert counts["reserved"] > 10_000
    assert tokenizer.bytes_of_V[tokenizer.id_of(special.reserved(0))] == 0
    assert tokenizer.decode(tokenizer.encode("x = 1\n")) == "x = 1\n"


@pytest.mark.parametrize(
    ("name", "text"), [("a.txt", "hello world\n" * 50), ("a.jsonl", '{"text": "hello world"}\n' * 9)]
)
def test_plain_files_are_read_too(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    counts = train(tmp_path / name, tmp_path / "t", vocab_size=400, held_out_share=0.0).counts
    assert counts["trained_bytes"] > 0
    assert Tokenizer.load(tmp_path / "t").decode(Tokenizer.load(tmp_path / "t").encode("low\n")) == "low\n"


def test_long_lines_are_learned_from(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh" * 100_000)
    train(tmp_path / "a.txt", tmp_path / "t", vocab_size=400, held_out_share=0.0)
    assert len(Tokenizer.load(tmp_path / "t").encode("abcdefgh" * 100)) <= 100


def test_mistakes_are_refused_before_anything_is_written(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("")
    with pytest.raises(ConfigError, match="no such file"):
        train(tmp_path / "missing", tmp_path / "t")
    with pytest.raises(DataError, match="no document"):
        train(tmp_path / "empty", tmp_path / "t")
    with pytest.raises(DataError, match="no text"):
        train(tmp_path / "blank.txt", tmp_path / "t")
    with pytest.raises(ConfigError, match="--vocab-size 300"):
        train(dataset, tmp_path / "t", vocab_size=300)
    assert not (tmp_path / "t").exists()


def test_a_damaged_tokenizer_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tokenizer_dir, tmp_path / "t")
    model = tmp_path / "t" / "tokenizer.model"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"tokenizer\.model"):
        Tokenizer.load(tmp_path / "t")


def test_bytes_of_each_id_are_exact(tokenizer: Tokenizer) -> None:
    for number in np.random.default_rng(0).integers(300, tokenizer.vocab_size, 50):
        if tokenizer.bytes_of_V[number]:
            assert len(tokenizer.decode([int(number)]).encode()) == tokenizer.bytes_of_V[number]


@pytest.mark.parametrize(
    ("vocab_size", "coverage", "text", "said"),
    [
        (
            300,
            0.9999,
            "x = 1\n",
            "--vocab-size 300: the letters, digits, punctuation, bytes and special tokens alone need 374",
        ),
        (
            512,
            1.0,
            "".join(map(chr, range(0x4E00, 0x5200))),
            "needs 1,397 ids; give --vocab-size 1397 or more, or a lower",
        ),
    ],
)
def test_a_vocabulary_too_small_for_the_characters_says_what_to_do(
    vocab_size: int, coverage: float, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(text)
    config = TrainTokenizerConfig(
        input=tmp_path / "text.txt",
        output_dir=tmp_path / "tokenizer",
        vocab_size=vocab_size,
        character_coverage=coverage,
        held_out_share=0,
    )
    with pytest.raises(ConfigError) as caught:
        train_tokenizer(config)
    assert said in str(caught.value)
    assert "required_chars" not in str(caught.value)
    assert not (tmp_path / "tokenizer").exists()


def test_the_trainer_takes_every_coverage_that_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x = 1\n")
    place = {"input": tmp_path / "text.txt", "output_dir": tmp_path / "tokenizer", "vocab_size": 512}
    with pytest.raises(ConfigError, match="character_coverage: input should be greater than or equal to 0.98"):
        build(TrainTokenizerConfig, {**place, "character_coverage": 0.97})
    train_tokenizer(build(TrainTokenizerConfig, {**place, "character_coverage": 0.98, "held_out_share": 0}))


def test_without_held_out_documents_nothing_is_said_of_bytes_per_token(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x = 1\n")
    config = TrainTokenizerConfig(
        input=tmp_path / "text.txt", output_dir=tmp_path / "tokenizer", vocab_size=512, held_out_share=0
    )
    assert "bytes per token NOT MEASURED: no document was held out" in train_tokenizer(config)
