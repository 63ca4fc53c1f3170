import json
import math
from pathlib import Path

import pytest
import torch
from tests.conftest import REPOSITORY

from ibidem.cli import main
from ibidem.errors import CheckpointError, ConfigError, DataError
from ibidem.evaluation.config import PerplexityConfig
from ibidem.evaluation.perplexity import measure, perplexity, windows


def run(checkpoint: Path, data: Path, output: Path, **changes: object) -> dict:
    perplexity(PerplexityConfig(checkpoint=checkpoint, data=data, output=output, **changes))
    return json.loads(output.read_text())


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(1, 4, 2), (2, 4, 2), (5, 4, 2), (6, 4, 2), (50, 8, 3), (50, 8, 8)]
)
def test_each_token_is_scored_once_with_as_much_context_as_fits(length: int, window: int, stride: int) -> None:
    scored = []
    for start, end, first in windows(length, window=window, stride=stride):
        assert end - start <= window + 1
        assert first > start
        scored += range(first, end)
    assert scored == list(range(1, length))


def test_a_text_that_fits_is_scored_as_a_whole(checkpoint: Path, tmp_path: Path) -> None:
    from ibidem.modeling.checkpoint import load_model
    from ibidem.tokenization.tokenizer import Tokenizer

    (tmp_path / "a.txt").write_text("def f(x):\n    return x\n")
    result = run(checkpoint, tmp_path / "a.txt", tmp_path / "out.json")
    model, _ = load_model(checkpoint)
    tokenizer = Tokenizer.load(checkpoint / "tokenizer")
    ids = torch.tensor([[tokenizer.document_id, *tokenizer.encode("def f(x):\n    return x\n")]])
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(model.logits(ids[:, :-1])[0], ids[0, 1:], reduction="sum")
    assert result["tokens"] == ids.shape[1] - 1
    assert result["perplexity"] == pytest.approx(math.exp(nll / result["tokens"]), rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(float(nll) / math.log(2) / 23, rel=1e-5)


def test_a_dataset_is_read_by_split_and_named_by_digest(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    all_of_it = run(checkpoint, dataset, tmp_path / "a.json", stride=64, held_out_share=1)
    held_out = run(checkpoint, dataset, tmp_path / "b.json", held_out_share=0.1)
    assert 0 < held_out["documents"] < all_of_it["documents"]
    assert all_of_it["data_digest"].startswith("sha256:")
    assert all_of_it["checkpoint_digest"].startswith("sha256:")


def test_a_hugging_face_model_is_scored_like_a_direct_computation(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<s>": 0, "<unk>": 1} | {chr(code): code - 30 for code in range(32, 127)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=48, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")
    text = "the quick brown fox jumps over"
    (tmp_path / "a.txt").write_text(text)
    result = run(tmp_path / "hf", tmp_path / "a.txt", tmp_path / "out.json")
    ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        direct = model(ids, labels=ids).loss
    assert result["perplexity"] == pytest.approx(math.exp(direct), rel=1e-5)
    assert result["tokens"] == len(text)


@pytest.mark.parametrize(("bos", "has_start"), [("always", True), ("tokenizer", False), ("never", False)])
def test_the_first_token_is_scored_only_after_a_start_token(
    bos: str, has_start: bool, hf_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("seven")
    result = run(hf_model, tmp_path / "a.txt", tmp_path / "out.json", bos=bos)
    assert (result["bos"], result["first_token_scored"]) == (bos, has_start)
    assert result["tokens"] == (5 if has_start else 4)
    assert (result["bits_per_byte"] is not None) == has_start


def test_what_a_tokenizer_adds_by_itself_is_a_start_token(hf_model_with_bos: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("seven")
    results = [
        run(hf_model_with_bos, tmp_path / "a.txt", tmp_path / f"{bos}.json", bos=bos) for bos in ("always", "tokenizer")
    ]
    assert results[0]["nll"] == results[1]["nll"]
    assert results[1]["first_token_scored"]


@pytest.mark.parametrize(("last", "starts"), [("short", (0, 8, 16)), ("full", (0, 8, 12))])
def test_the_last_window_may_reach_back_until_it_is_full(
    last: str, starts: tuple[int, ...], hf_model: Path, tmp_path: Path
) -> None:
    from ibidem.inference.models import open_model

    text = "the quick brown fox "
    (tmp_path / "a.txt").write_text(text)
    result = run(hf_model, tmp_path / "a.txt", tmp_path / "out.json", window=8, stride=8, last_window=last)
    model = open_model(hf_model)
    ids = [0, *model.encode(text)]
    ends = (9, 17, 21)
    firsts = (1, 9, 17)
    windows_ = zip(starts, ends, firsts, strict=True)
    assert result["nll"] == pytest.approx(sum(model.nll(ids[a:b], first - a) for a, b, first in windows_), abs=1e-9)
    assert (result["last_window"], result["tokens"]) == (last, 20)


def test_who_measures_on_the_training_data_is_told_so(checkpoint: Path, dataset: Path) -> None:
    choice = {"checkpoint": checkpoint, "max_documents": 3}
    held_out = perplexity(PerplexityConfig(data=dataset, **choice))
    assert held_out.endswith(", which the training held out")
    assert held_out == perplexity(PerplexityConfig(data=dataset, held_out_share=0.1, **choice))
    for share in (0.5, 1):
        said = perplexity(PerplexityConfig(data=dataset, held_out_share=share, **choice))
        assert said.endswith("; the model was trained on some of them: its training held out a share of 0.1")
    other = perplexity(PerplexityConfig(data=REPOSITORY / "LICENSE", **choice))
    assert "training" not in other


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = checkpoint.parents[1]
    (tmp_path / "a.txt").write_text("seven")
    results = [run(path, tmp_path / "a.txt", tmp_path / "out.json") for path in (checkpoint, run_folder)]
    assert results[0]["checkpoint_digest"] == results[1]["checkpoint_digest"]
    words = ["--prompt", "x", "--max-tokens", "2"]
    assert main(["generate", "--checkpoint", str(run_folder), *words]) == 0
    said = capsys.readouterr().out
    assert main(["generate", "--checkpoint", str(checkpoint), *words]) == 0
    assert capsys.readouterr().out == said


def test_a_sum_over_a_document_is_not_rounded_to_float32(hf_model: Path) -> None:
    import transformers

    from ibidem.inference.models import open_model

    model = open_model(hf_model)
    ids = [0, *model.encode("the quick brown fox jumps over the lazy dog " * 10)]
    with torch.no_grad():
        logits = transformers.AutoModelForCausalLM.from_pretrained(hf_model)(torch.tensor([ids[:-1]])).logits[0]
    logs = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids[1:])[:, None])
    assert model.nll(ids, 1) > 1000
    assert model.nll(ids, 1) == pytest.approx(-float(logs.sum()), abs=1e-6)


def test_mistakes_are_one_line(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    for error, said, arguments in [
        (ConfigError, "neither a checkpoint", (tmp_path, dataset, output)),
        (ConfigError, "no such file", (checkpoint, tmp_path / "x", output)),
        (DataError, "no tokens to score", (checkpoint, tmp_path / "empty.txt", output)),
        (DataError, "bad.parquet", (checkpoint, tmp_path / "bad.parquet", output)),
    ]:
        with pytest.raises(error, match=said):
            run(*arguments)
    (tmp_path / "raw.txt").write_text("x")
    with pytest.raises(ConfigError, match="held_out_share"):
        run(checkpoint, tmp_path / "raw.txt", output, held_out_share=0.1)
    with pytest.raises(ConfigError, match="window 65"):
        run(checkpoint, dataset, output, window=65)
    with pytest.raises(ConfigError, match="stride 9"):
        run(checkpoint, dataset, output, window=8, stride=9)
    assert not output.exists()


def test_a_damaged_checkpoint_is_not_scored(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(checkpoint, tmp_path / "c")
    with (tmp_path / "c" / "model.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x7f")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        run(tmp_path / "c", dataset, tmp_path / "out.json")


def test_bits_per_byte_of_a_uniform_model_is_known() -> None:
    class Uniform:
        digest, context, start_ids = None, 8, [0]

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

        def nll(self, ids: list[int], first: int) -> float:
            return (len(ids) - first) * math.log(256)

    result = measure(Uniform(), iter(["abc", "é" * 40]), window=8, stride=4)
    assert result["bits_per_byte"] == pytest.approx(8)
    assert result["perplexity"] == pytest.approx(256)
