"""Vectors are those of the model, have length 1, and depend on their text alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ibidem.errors import CheckpointError, ConfigError
from ibidem.grounding.encoder import open_encoder

TEXTS = ["the cat sat", "a", "the dog and the cat and the bird sat on a mat " * 3, "the cat sat", ""]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, as sentence-transformers saves one."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert") / "bert"
    folder.mkdir()
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat a dog and bird on mat"
    (folder / "vocab.txt").write_text("\n".join(words.split()) + "\n")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=14, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def pooled(folder: Path, **modes: bool) -> None:
    """Write the files of sentence-transformers: a transformer, the pooling, a normalization."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))


def states(folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return last hidden states and attention mask of one padded batch."""
    import torch
    from transformers import BertModel, BertTokenizerFast

    batch = BertTokenizerFast.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=40, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden_NTD = BertModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    return hidden_NTD.numpy(), batch["attention_mask"].numpy()


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def test_a_hugging_face_encoder_takes_the_masked_mean_of_the_last_states(bert: Path) -> None:
    vectors_ND = open_encoder(bert).encode(TEXTS)
    hidden_NTD, mask_NT = states(bert, TEXTS)
    expected_ND = (hidden_NTD * mask_NT[..., None]).sum(1) / mask_NT.sum(1, keepdims=True)
    assert np.allclose(vectors_ND, unit(expected_ND), atol=1e-5)
    assert vectors_ND.dtype == np.float32
    assert vectors_ND.shape == (5, 32)
    assert np.allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-6)


def test_the_pooling_of_sentence_transformers_is_respected(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "first")
    pooled(tmp_path / "first", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    shutil.copytree(bert, tmp_path / "mean")
    pooled(tmp_path / "mean", pooling_mode_cls_token=False, pooling_mode_mean_tokens=True)
    hidden_NTD, _ = states(bert, TEXTS)
    first, mean = open_encoder(tmp_path / "first"), open_encoder(tmp_path / "mean")
    assert np.allclose(first.encode(TEXTS), unit(hidden_NTD[:, 0]), atol=1e-5)
    assert np.array_equal(mean.encode(TEXTS), open_encoder(bert).encode(TEXTS))
    assert len({first.digest, mean.digest, open_encoder(bert).digest}) == 3
    (tmp_path / "first" / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    short = open_encoder(tmp_path / "first")
    assert np.array_equal(short.encode(["the cat sat"]), short.encode(["the cat sat on a mat"]))
    assert not np.array_equal(first.encode(["the cat sat"]), first.encode(["the cat sat on a mat"]))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [{"path": "", "type": "x.Transformer"}, {"path": "2_Dense", "type": "x.Dense"}],
            "the module Dense is not supported",
        ),
        ([{"path": "../other", "type": "x.Transformer"}], "outside the folder"),
        ([{"path": "1_Pooling", "type": "x.Pooling"}], "only the mean and the first token are supported"),
    ],
)
def test_what_would_give_other_vectors_is_refused(
    modules: list[dict[str, str]], message: str, bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(bert, tmp_path / "bert")
    pooled(tmp_path / "bert", pooling_mode_max_tokens=True)
    (tmp_path / "bert" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=message):
        open_encoder(tmp_path / "bert")


def test_a_folder_without_a_model_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a checkpoint nor the folder"):
        open_encoder(tmp_path)
    shutil.copytree(bert, tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="bert: cannot be loaded") as error:
        open_encoder(tmp_path / "bert")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["bert", "checkpoint"])
def test_a_vector_depends_on_its_text_alone(kind: str, request: pytest.FixtureRequest) -> None:
    encoder = open_encoder(request.getfixturevalue(kind))
    together = encoder.encode(TEXTS)
    for number, text in enumerate(TEXTS):
        assert np.array_equal(encoder.encode([text])[0], together[number])
    assert np.array_equal(together[0], together[3])
    assert not np.array_equal(together[0], together[1])
    assert encoder.encode([]).shape == (0, encoder.width)


def test_a_checkpoint_takes_the_mean_of_its_last_hidden_states(checkpoint: Path) -> None:
    import torch

    from ibidem.modeling.checkpoint import load_model
    from ibidem.tokenization.tokenizer import Tokenizer

    model, _ = load_model(checkpoint)
    tokenizer = Tokenizer.load(checkpoint / "tokenizer")
    encoder = open_encoder(checkpoint)
    for text in ("def value(index):", "x " * 500):
        ids = [tokenizer.document_id, *tokenizer.encode(text)][: model.config.context]
        with torch.inference_mode():
            hidden_TD = model.hidden(torch.tensor([ids], device=model.device))[0][0, 1:].cpu()
        assert np.allclose(encoder.encode([text]), unit(hidden_TD.numpy().mean(0)[None]), atol=1e-5)
    assert not encoder.encode([""]).any()


def test_a_damaged_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        open_encoder(tmp_path / "damaged")


@pytest.mark.parametrize("kind", ["bert", "checkpoint"])
def test_every_token_of_a_long_text_has_a_state_and_its_characters(kind: str, request: pytest.FixtureRequest) -> None:
    encoder = open_encoder(request.getfixturevalue(kind))
    text = "the cat sat and a dog sat on the mat. " * 30
    found = encoder.states(text)
    starts, ends = found.spans_T2.T
    assert found.states_TD.shape == (len(starts), encoder.width)
    assert (np.diff(starts) >= 0).all()
    assert (starts < ends).all()
    covered = np.zeros(len(text), bool)
    for start, end in found.spans_T2:
        covered[start:end] = True
    assert all(text[place].isspace() or not text[place].isalpha() for place in np.flatnonzero(~covered))
    assert len(encoder.states("").states_TD) == 0


@pytest.mark.parametrize("kind", ["bert", "checkpoint"])
def test_the_vector_of_a_text_is_not_changed_by_reading_its_states(kind: str, request: pytest.FixtureRequest) -> None:
    encoder, fresh = (open_encoder(request.getfixturevalue(kind)) for _ in range(2))
    encoder.states("the cat sat on the mat")
    assert np.array_equal(encoder.encode(TEXTS), fresh.encode(TEXTS))
    assert encoder.digest == fresh.digest


def test_windows_are_joined_in_the_middle_of_their_overlap(bert: Path) -> None:
    encoder, text = open_encoder(bert), "the cat sat and a dog sat on the mat " * 6
    found, first = encoder.states(text), next(iter(encoder._windows(text)))
    assert len(found.spans_T2) == len(text.split())
    overlap = len(first.spans_T2) - 10  # the second window begins within the first
    assert overlap > 0
    assert np.array_equal(found.states_TD[:10].numpy(), first.states_TD[:10].detach().numpy())
