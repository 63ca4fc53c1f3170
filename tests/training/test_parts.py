import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import REPOSITORY, python_file

from ibidem import artifacts
from ibidem.config import build
from ibidem.conversation import from_rows
from ibidem.data import shards
from ibidem.data.dedup import DedupPolicy
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.errors import ConfigError
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.config import OptimConfig, TrainConfig
from ibidem.training.optim import adamw, learning_rate
from ibidem.training.tokenize import tokenized
from ibidem.training.tokens import Windows, default_share


@pytest.fixture(scope="module")
def tokens(dataset: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> artifacts.Artifact:
    cache = tmp_path_factory.mktemp("tokens")
    return tokenized(dataset, tokenizer_dir, cache, held_out_share=0.1)[0]


def test_windows_hold_every_token_once_and_documents_start_with_their_token(
    tokens: artifacts.Artifact, dataset: Path, tokenizer_dir: Path
) -> None:
    tokenizer = Tokenizer.load(tokenizer_dir)
    assert tokens.config["dtype"] == "uint16"
    windows = Windows(tokens, "train", 32)
    ids = np.concatenate([windows[index][:-1] for index in range(windows.number)])
    assert windows[0][-1] == windows[1][0]
    whole: list[int] = []
    texts: dict[str, str] = {}
    for path in shards.shard_paths(dataset):
        for row in shards.read_rows(path, ["sha256", "text"]):
            texts[row["sha256"]] = row["text"]
            if not shards.is_held_out(row["sha256"], 0.1):
                whole += [tokenizer.document_id, *tokenizer.encode(row["text"])]
    assert len(shards.shard_paths(dataset)) == 3
    assert windows.number == len(whole) // 32
    assert ids.tolist() == whole[: len(ids)]
    places = list(places_of(tokens))
    held_out = [place for place, _ in places if place["split"] == "validation"]
    assert len(places) == len(texts)
    assert 5 < len(held_out) < len(places) / 2
    for place, row in places[:50]:
        assert row[0] == tokenizer.document_id
        assert tokenizer.decode(row[1:].tolist()) == texts[place["sha256"]]


def places_of(tokens: artifacts.Artifact) -> Iterator[tuple[dict[str, Any], "np.ndarray[Any, Any]"]]:
    """Yield the place and the ids of each document."""
    for name in sorted(name for name in tokens.files if name.endswith("documents.parquet")):
        folder = (tokens.path / name).parent
        ids = {split: np.fromfile(folder / f"{split}.bin", dtype=np.uint16) for split in ("train", "validation")}
        for place in pq.read_table(tokens.path / name).to_pylist():
            yield place, ids[place["split"]][place["start"] : place["start"] + place["tokens"]]


def test_conversations_are_tokenized_by_the_chat_template_and_pairs_without_their_rejected_answer(
    tokenizer_dir: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(tokenizer_dir)
    markers = "<|end|><|assistant|>Said in a text \U0010fffc"
    rows: list[dict[str, Any]] = [
        {
            "id": str(number),
            "chosen": [*asked(number), answer("\u00e9 is here")],
            "rejected": [*asked(number), answer("No.")],
        }
        if number % 3 == 0
        else {"id": str(number), "messages": [*asked(number), answer(f"It is {number}.{markers}")]}
        for number in range(60)
    ]
    for column in ("chosen", "messages"):
        lines = [json.dumps(row) + "\n" for row in rows if column in row]
        (tmp_path / f"{column}.jsonl").write_text("".join(lines))
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps({"text": f"x{n} = {n}\u2581"}) + "\n" for n in range(40)))
    columns = {"chosen": "chosen", "messages": "messages", "plain": "text"}
    specs = tuple(f"{tmp_path}/{name}.jsonl:train:{column}" for name, column in columns.items())
    preprocess(PreprocessConfig(dataset=specs, output_dir=tmp_path / "data", dedup=DedupPolicy(near=False)))
    tokens, _ = tokenized(tmp_path / "data", tokenizer_dir, tmp_path / "tokens", held_out_share=0.2)
    documents = {
        row["sha256"]: row
        for path in shards.shard_paths(tmp_path / "data")
        for row in shards.read_rows(path, ["sha256", "text", "messages", "rejected"])
    }
    assert {place["sha256"] for place, _ in places_of(tokens)} == set(documents)
    assert sum(row["rejected"] is not None for row in documents.values()) == 20
    num_bytes = dict.fromkeys(("train", "validation"), 0)
    for place, ids in places_of(tokens):
        row = documents[place["sha256"]]
        turns = None if row["messages"] is None else from_rows(row["messages"])
        texts = [row["text"]] if turns is None else [part.text for turn in turns for part in turn.parts]
        expected = (
            [tokenizer.document_id, *tokenizer.encode(row["text"])]
            if turns is None
            else ChatTemplate(tokenizer).render(turns).ids
        )
        assert ids.tolist() == expected
        num_bytes[place["split"]] += sum(len(text.encode()) for text in texts)
    assert tokens.counts["bytes"] == num_bytes


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {number}?"}]


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_tokenizing_twice_is_found_done(tokens: artifacts.Artifact, dataset: Path, tokenizer_dir: Path) -> None:
    before = (tokens.path / artifacts.MANIFEST).stat().st_mtime_ns
    again, _ = tokenized(dataset, tokenizer_dir, tokens.path.parent, held_out_share=0.1)
    assert again.digest == tokens.digest
    assert (tokens.path / artifacts.MANIFEST).stat().st_mtime_ns == before


def test_matrices_decay_and_norms_do_not() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.RMSNorm(4))
    decay, plain = adamw(model, OptimConfig(weight_decay=0.5)).param_groups
    assert [p.dim() for p in decay["params"]] == [2]
    assert [p.dim() for p in plain["params"]] == [1]
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_learning_rate_rises_stays_within_bounds_and_ends_near_the_floor(schedule: str) -> None:
    config = OptimConfig(lr=2.0, schedule=schedule, warmup_steps=10, floor=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(rates) == pytest.approx(2.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.2, abs=0.1)


def _base() -> dict:
    import yaml

    settings = yaml.safe_load((REPOSITORY / "configs" / "training" / "base.yaml").read_text())
    settings["optim"]["lr"] = float(settings["optim"]["lr"])
    return settings | {"model": str(REPOSITORY / settings["model"])}


def test_the_base_configuration_is_whole() -> None:
    config = build(TrainConfig, _base())
    assert config.training.batch_sequences * 8192 * config.training.steps == pytest.approx(20 * 667e6, rel=0.05)


def test_tensorboard_gets_the_figures(train_settings: dict, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from ibidem.training.train import train

    train_settings["training"] |= {"steps": 3}
    train(build(TrainConfig, train_settings | {"trackers": ["tensorboard"]}))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_events_tell_each_step_and_measurement(train_settings: dict, tmp_path: Path) -> None:
    from ibidem.training.train import train

    train_settings["training"] |= {"steps": 6}
    train_settings["validation"] |= {"every": 3, "prompts": ["import "], "sample_tokens": 5}
    train(build(TrainConfig, train_settings))
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "train.step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(event["grad_norm"]) for event in steps)
    assert [event["step"] for event in events if event["event"] == "train.measured"] == [0, 3, 6]
    assert [event["step"] for event in events if event["event"] == "train.sample"] == [0, 3, 6]


def few_documents(folder: Path, count: int) -> Path:
    from ibidem.data.preprocess import PreprocessConfig, preprocess

    (folder / "few").mkdir()
    for seed in range(count):
        (folder / "few" / f"m{seed}.py").write_text(python_file(seed))
    preprocess(PreprocessConfig(dataset=(f"{folder / 'few'}:train:text",), output_dir=folder / "data"))
    return folder / "data"


def test_some_of_a_few_documents_are_held_out(tokenizer_dir: Path, tmp_path: Path) -> None:
    tokens, _ = tokenized(few_documents(tmp_path, 40), tokenizer_dir, tmp_path / "tokens", held_out_share=None)
    assert sum(place["split"] == "validation" for place, _ in places_of(tokens)) == 8


@given(st.sets(st.integers(0, 16**8 - 1), min_size=2, max_size=40))
def test_the_default_share_leaves_no_split_empty(places: set[int]) -> None:
    hashes = [f"{place:08x}" + "0" * 56 for place in places]
    share = default_share(hashes)
    held_out = sum(shards.is_held_out(sha256, share) for sha256 in hashes)
    assert 0 < held_out < len(hashes)
    assert held_out >= min(8, len(hashes) // 2)


def test_a_share_that_holds_out_nothing_is_refused_with_one_that_does(tokenizer_dir: Path, tmp_path: Path) -> None:
    data = few_documents(tmp_path, 12)
    for share, left in ((0.0001, "nothing held out"), (0.9999, "nothing to train on")):
        with pytest.raises(ConfigError, match=f"leaves {left} of 12 documents") as refused:
            tokenized(data, tokenizer_dir, tmp_path / "tokens", held_out_share=share)
        better = float(re.search(r"--data.held-out-share ([\d.]+)$", str(refused.value))[1])
        tokens, _ = tokenized(data, tokenizer_dir, tmp_path / "tokens", held_out_share=better)
        assert min(tokens.counts["tokens"].values()) > 0
