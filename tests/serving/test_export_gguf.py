"""A GGUF file is the checkpoint, or there is none: llama.cpp itself has its ids, texts and logits."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import python_file
from tests.serving.test_export import SHAPES, export, make_checkpoint, refused

from ibidem.errors import ArtifactError, ConfigError
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder
from ibidem.serving.export import gguf_check, gguf_vocabulary, hostile
from ibidem.serving.export.gguf_check import ask, check_gguf
from ibidem.serving.export.gguf_model import gguf_weights, interleaved, llama3_factors, write_gguf
from ibidem.serving.export.gguf_vocabulary import CONTROL, NORMAL, UNUSED, Vocabulary, vocabulary_of
from ibidem.serving.export.hf_model import hf_config, hf_weights
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.sentencepiece_codec import BLANK
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.unigram_json import Pieces

LLAMA3, QWEN2 = (next(pattern for pattern, name in gguf_vocabulary.PRE_TOKENIZERS.items() if name == wanted)
                 for wanted in ("llama-bpe", "qwen2"))  # fmt: skip
MARKERS = ("<|endoftext|>", "<|pad|>", "<|end|>", "<|user|>")
ROWS = 560


class Bytes:
    """A tokenizer of byte-level BPE, as an imported one is: what `check_gguf` and `hf_config` ask of a tokenizer."""

    def __init__(self, pattern: str) -> None:
        from tokenizers import Regex
        from tokenizers import Tokenizer as Fast
        from tokenizers.decoders import ByteLevel as Bytes
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
        from tokenizers.trainers import BpeTrainer

        self.fast = Fast(BPE(ignore_merges=pattern == LLAMA3))
        split = Split(Regex(pattern), "isolated")
        self.fast.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
        self.fast.decoder = Bytes()
        trainer = BpeTrainer(vocab_size=540, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
        self.fast.train_from_iterator([python_file(seed) for seed in range(20)], trainer)
        self.fast.add_special_tokens(list(MARKERS))
        self.tree = json.loads(self.fast.to_str())
        self.fast.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        return list(self.fast.encode(text, add_special_tokens=False).ids)

    def id_of(self, name: str) -> int:
        return int(self.fast.token_to_id(name))

    @property
    def vocabulary(self) -> Vocabulary:
        ids = dict(zip(("document_id", "pad_id", "turn_end_id"), map(self.id_of, MARKERS), strict=False))
        return vocabulary_of(self.tree, where=Path("t"), rows=ROWS, **ids)


@pytest.fixture(scope="module", params=[LLAMA3, QWEN2], ids=["llama3", "qwen2"])
def tokenizer(request: pytest.FixtureRequest) -> Bytes:
    return Bytes(request.param)


def decoder_of(shape: ModelConfig) -> Decoder:
    decoder = Decoder(replace(shape, vocab_size=ROWS))
    generator = torch.Generator().manual_seed(7)
    for parameter in decoder.parameters():
        mean, scale = (1.0, 0.1) if parameter.dim() == 1 else (0.0, 0.2)
        parameter.data = mean + scale * torch.randn(parameter.shape, generator=generator)
    return decoder.eval()


def config_of(decoder: Decoder, tokenizer_dir: Path) -> dict[str, Any]:
    return dict(json.loads(hf_config(decoder.config, Tokenizer.load(tokenizer_dir), torch.float32)))


def write(
    path: Path, decoder: Decoder, config: dict[str, Any], vocabulary: Vocabulary, dtype: torch.dtype = torch.float32
) -> Path:
    weights = hf_weights(decoder.state_dict(), decoder.config)
    write_gguf(path, name="x", config=config, weights=weights, dtype=dtype, vocabulary=vocabulary, chat_template="{}")
    return path


def fields(path: Path) -> dict[str, Any]:
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# The file


@pytest.mark.parametrize("name", SHAPES)
def test_the_file_has_the_shape_and_every_weight(name: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    import gguf

    decoder = decoder_of(SHAPES[name])
    config = config_of(decoder, tokenizer_dir)
    path = write(tmp_path / "m.gguf", decoder, config, Bytes(LLAMA3).vocabulary)
    said, shape = fields(path), decoder.config
    architecture = "qwen3" if shape.qk_norm else "llama"
    assert said["general.architecture"] == architecture
    assert said[f"{architecture}.attention.head_count_kv"] == shape.num_kv_heads
    assert said[f"{architecture}.rope.freq_base"] == shape.rope_theta
    assert said[f"{architecture}.attention.key_length"] == shape.head_width
    assert said[f"{architecture}.attention.layer_norm_rms_epsilon"] == pytest.approx(shape.norm_eps)
    tensors = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    assert sum(array.size for array in tensors.values()) == decoder.num_parameters
    expected = gguf_weights(hf_weights(decoder.state_dict(), shape), config)
    assert tensors.keys() == expected.keys()
    assert all((tensors[each] == expected[each].detach().numpy()).all() for each in tensors)
    assert ("output.weight" in tensors) is not shape.tied


def test_rows_of_a_llama_are_interleaved_and_those_of_a_qwen3_are_not() -> None:
    rows = torch.arange(12).reshape(12, 1)
    assert interleaved(rows, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    weights = {"model.layers.3.self_attn.q_proj.weight": rows, "model.layers.3.self_attn.v_proj.weight": rows}
    for architecture, is_llama in (("LlamaForCausalLM", True), ("Qwen3ForCausalLM", False)):
        config = {"architectures": [architecture], "num_attention_heads": 2, "num_key_value_heads": 2}
        found = gguf_weights(weights, config | {"rope_parameters": {"rope_type": "default"}})
        assert torch.equal(found["blk.3.attn_v.weight"], rows)
        assert torch.equal(found["blk.3.attn_q.weight"], rows) is not is_llama


def test_the_scaling_of_llama3_is_that_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512, "rope_theta": 5000.0}  # fmt: skip
    config = LlamaConfig(hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters=rope)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5000.0 ** (-torch.arange(0, 64, 2) / 64)
    factors = torch.tensor([*llama3_factors(rope, 64)])
    assert torch.allclose(plain / factors, theirs, rtol=1e-5)
    assert len(set(factors.tolist())) > 2, "no pair is between the limits"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_model_gives_the_same_bytes(dtype: torch.dtype, tokenizer_dir: Path, tmp_path: Path) -> None:
    decoder, vocabulary = decoder_of(SHAPES["Qwen3, tied"]), Bytes(QWEN2).vocabulary
    config = config_of(decoder, tokenizer_dir)
    one, other = (write(tmp_path / name, decoder, config, vocabulary, dtype).read_bytes() for name in "ab")
    assert one == other


def test_the_vocabulary_has_every_row_of_the_model_and_its_markers(
    tokenizer: Bytes, tokenizer_dir: Path, tmp_path: Path
) -> None:
    decoder = decoder_of(SHAPES["Qwen3, tied"])
    vocabulary = tokenizer.vocabulary
    said = fields(write(tmp_path / "m.gguf", decoder, config_of(decoder, tokenizer_dir), vocabulary))
    tokens, types = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == len(set(tokens)) == ROWS
    assert {tokens[number] for number in range(ROWS) if types[number] == CONTROL} == set(MARKERS)
    assert types.count(UNUSED) == ROWS - tokenizer.fast.get_vocab_size()
    assert said["tokenizer.ggml.bos_token_id"] == tokenizer.id_of("<|endoftext|>")
    assert said["tokenizer.ggml.eot_token_id"] == tokenizer.id_of("<|end|>")
    assert len(said["tokenizer.ggml.merges"]) == len(tokenizer.tree["model"]["merges"])
    assert " def" in vocabulary.pieces.texts or "def" in vocabulary.pieces.texts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"type": "WordPiece"}}, "no tokenizer for its model"),
        ({"model": {"type": "Unigram"}}, "has no tokenizer with the ids of a unigram"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre-tokenizer is none of those"),
        ({"pre_tokenizer": None}, "its pre-tokenizer is none of those"),
    ],
)
def test_tokenizers_that_llama_cpp_does_not_have_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        vocabulary_of(Bytes(LLAMA3).tree | change, where=Path("t"), rows=ROWS, document_id=1, turn_end_id=2, pad_id=3)


def test_a_tokenizer_that_was_trained_here_is_refused_with_the_reason(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "c", tokenizer_dir, SHAPES["Qwen3, tied"])
    said = refused(capsys, tmp_path / "export", export(checkpoint, tmp_path / "export", "--format", "gguf"))
    assert "llama.cpp has no tokenizer with the ids of a unigram" in said
    assert "export with --format hf" in said


def test_without_llama_cpp_one_line_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"pip install llama-cpp-py-sync.*--llama-cpp"):
        gguf_check.python_of(python)
    with pytest.raises(ConfigError, match="cannot be run: No such file"):
        gguf_check.python_of(tmp_path / "missing")


# llama.cpp


def test_a_program_that_reads_it_as_we_do_passes_and_another_one_does_not(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, decoder = Bytes(LLAMA3), decoder_of(SHAPES["Llama, grouped, tied"])
    path = write(tmp_path / "m.gguf", decoder, config_of(decoder, tokenizer_dir), tokenizer.vocabulary)
    shift = 0

    def answer(_: Path, __: Path, texts: Sequence[str], ids_BT: torch.Tensor) -> gguf_check.Answer:
        ids = [[number + shift for number in tokenizer.encode(text)] for text in texts]
        return gguf_check.Answer("b1", ids, [text.encode() for text in texts], decoder.logits(ids_BT).detach())

    def check() -> dict[str, Any]:
        pieces = tokenizer.vocabulary.pieces
        return check_gguf(path, Path("python"), decoder, tokenizer, pieces, dtype=torch.float32)  # type: ignore[arg-type]

    monkeypatch.setattr(gguf_check, "ask", answer)
    monkeypatch.setattr(gguf_check, "TEXTS", 60)
    assert check()["texts"] == 60
    shift = 1
    with pytest.raises(ArtifactError, match="from token 0 on ours has"):
        check()


@pytest.fixture(scope="module")
def python() -> Path:
    """PEERS_PYTHON names a Python that has it: `pip install llama-cpp-py-sync==0.11739`."""
    python = Path(os.environ.get("PEERS_PYTHON", sys.executable))
    if subprocess.run([python, "-c", "import llama_cpp_py_sync"], capture_output=True, check=False).returncode:
        pytest.skip("llama_cpp_py_sync is not installed; name a Python that has it in PEERS_PYTHON")
    return python


@pytest.mark.peer
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_llama_cpp_has_the_ids_texts_and_logits(
    name: str, dtype: torch.dtype, python: Path, tokenizer: Bytes, tokenizer_dir: Path, tmp_path: Path
) -> None:
    decoder = decoder_of(SHAPES[name])
    for parameter in decoder.parameters():
        parameter.data = parameter.data.to(dtype).float()
    path = write(tmp_path / "m.gguf", decoder, config_of(decoder, tokenizer_dir), tokenizer.vocabulary, dtype)
    found = check_gguf(path, python, decoder, tokenizer, tokenizer.vocabulary.pieces, dtype=dtype)  # type: ignore[arg-type]
    assert found["texts"] == 1_000


@pytest.mark.peer
def test_what_differs_is_refused(python: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    tokenizer = Bytes(LLAMA3)
    decoder = decoder_of(SHAPES["Llama, grouped, tied"])
    config, vocabulary = config_of(decoder, tokenizer_dir), tokenizer.vocabulary

    def check(config: dict[str, Any], vocabulary: Vocabulary) -> None:
        path = write(tmp_path / "m.gguf", decoder, config, vocabulary)
        check_gguf(path, python, decoder, tokenizer, vocabulary.pieces, dtype=torch.float32)  # type: ignore[arg-type]

    with pytest.raises(ArtifactError, match=r"as llama\.cpp b\d+ reads it: logits differ by"):
        check(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}, vocabulary)
    with pytest.raises(ArtifactError, match=r"as llama\.cpp b\d+ reads it: text .*: from token \d+ on ours has"):
        check(config, vocabulary._replace(pre="qwen2"))
    with pytest.raises(ArtifactError, match="llama.cpp does not read the export"):
        check(config, vocabulary._replace(pre="nobody's"))


@pytest.mark.peer
@pytest.mark.parametrize("model", ["t5", "plamo2"])
def test_no_tokenizer_of_llama_cpp_has_the_ids_of_a_unigram(
    model: str, python: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The evidence for the refusal: both take our pieces and scores, and differ where the module's docstring says."""
    ours = Tokenizer.load(tokenizer_dir)
    pieces = Pieces.of(ours.model_bytes)
    decoder = Decoder(replace(SHAPES["Qwen3, tied"], vocab_size=512))
    path = write(tmp_path / "m.gguf", decoder, config_of(decoder, tokenizer_dir), unigram(model, pieces, ours))
    runs = [" " * number for number in range(2, 120)]
    texts = ["def add(value, index):\n    return value", "漢字", "\ufeffx", *runs]
    texts += hostile.texts(pieces, Alphabet.outside(pieces.texts), 300)
    answer = ask(python, path, texts, torch.tensor([[1, 2]]))
    same = [ours.encode(text) == list(ids) for text, ids in zip(texts, answer.ids, strict=True)]
    assert same[0], "it does not even read the file as a unigram"
    assert same[1] is (model == "plamo2"), "characters without a piece"
    assert all(same[3 : 3 + len(runs)]) is (model == "t5"), "equal scores"
    assert model == "t5" or not same[2], "U+FEFF before a text"


def unigram(model: str, pieces: Pieces, ours: Tokenizer) -> Vocabulary:
    """Return a unigram as llama.cpp reads it, with scores."""

    class WithScores(Vocabulary):
        def add_to(self, writer: Any, chat_template: str) -> None:
            super().add_to(writer, chat_template)
            scores = [
                score if kind == NORMAL else -3000.0 for score, kind in zip(pieces.scores, pieces.types, strict=True)
            ]
            writer.add_token_scores(scores)
            writer.add_unk_token_id(0)
            writer.add_remove_extra_whitespaces(False)

    carried = {ord("\u2581"): BLANK, ord(" "): "\u2581"} if model == "t5" else {}
    tokens = [text.translate(carried) for text in pieces.texts]
    return WithScores(model, "default", tokens, pieces.types, [], ours.document_id, ours.turn_end_id, ours.pad_id)
