"""A blend has its shares in every prefix, comes out the same every time, and its rows keep their provenance."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file

from ibidem import artifacts, config
from ibidem.artifacts import Artifact
from ibidem.cli import main
from ibidem.data import blend as stage
from ibidem.data.blend import CATEGORIES, BlendConfig, Lane, _interleave, _Queue, blend, num_documents, size_of, summary
from ibidem.data.shards import read_rows, shard_paths
from ibidem.errors import ConfigError, DigestMismatch

PROSE = (
    "The library keeps a list of all that was read and tells where each sentence of an answer was found, so that "
    "a reader who doubts number {0} may look it up in place {1} and be sure of it."
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of code and prose, and one of instructions."""
    root = tmp_path_factory.mktemp("blend")
    for name, texts, suffix in [
        ("mixed", [python_file(seed) for seed in range(300)], ".py"),
        ("prose", [PROSE.format(i, i * i) * (1 + i % 3) for i in range(400)], ".txt"),
        ("chat", [json.dumps({"question": i, "answer": PROSE.format(i, -i)}) for i in range(60)], ".txt"),
    ]:
        columns = {"text": texts, "id": [f"{name}{i}" for i in range(len(texts))], "license": ["MIT"] * len(texts)}
        columns["path"] = [f"{i}{suffix}" for i in range(len(texts))]
        (root / f"{name}-source").mkdir()
        pq.write_table(pa.table(columns), root / f"{name}-source" / "a.parquet")
    both = [f"{root}/{name}-source:train:text" for name in ("mixed", "prose")]
    flags = ["--shard-size", "70", "--dedup.near", "false", "--skip", "filters"]
    assert main(["preprocess", "--dataset", *both, "--output-dir", str(root / "public"), *flags]) == 0
    chat = f"{root}/chat-source:train:text"
    assert main(["preprocess", "--dataset", chat, "--output-dir", str(root / "chat"), *flags]) == 0
    return root


def make(root: Path, output: Path, **more: object) -> Artifact:
    tree = {
        "datasets": {
            "public": {"path": str(root / "public")},
            "chat": {"path": str(root / "chat"), "category": "instruction", "max_repeats": 4},
        },
        "output_dir": str(output),
        "shard_size": 50,
    } | more
    blend(config.build(BlendConfig, tree))
    return artifacts.verify(output, kind="dataset")


def rows_of(artifact: Artifact) -> list[dict[str, object]]:
    columns = ["text", "category", "record", "source", "sha256"]
    return [row for path in shard_paths(artifact.path) for row in read_rows(path, columns)]


def test_every_prefix_has_the_shares(datasets: Path, tmp_path: Path) -> None:
    rows = rows_of(make(datasets, tmp_path / "out"))
    assert len(rows) > 300
    largest = max(len(row["text"].encode()) for row in rows)
    served: Counter[str] = Counter()
    for row in rows:
        served[row["category"]] += len(row["text"].encode())
        for category, share in (("code", 0.7), ("text", 0.2), ("instruction", 0.1)):
            assert abs(served[category] - share * served.total()) <= largest


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.5, 0.3, 0.2), (0.34, 0.33, 0.33), (0.9, 0.09, 0.01)])
def test_no_category_is_ever_more_than_a_document_ahead_of_its_share(shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    for sizes in (
        np.ones(4000, np.int64),
        rng.integers(1, 1000, 4000),
        (rng.pareto(1.2, 4000) * 100 + 1).astype(np.int64),
    ):
        queues = {
            category: _Queue(share, [Lane(number, category, 1.0, np.arange(number, 4000, 3), sizes)])
            for number, (category, share) in enumerate(zip(CATEGORIES, shares, strict=True))
        }
        served = np.zeros(3)
        for number, document in _interleave(queues, None):
            served[number] += sizes[document]
            ahead = served - np.array(shares) * served.sum()
            assert -2 * sizes.max() <= ahead.min()
            assert ahead.max() <= sizes.max()


def test_the_blend_ends_with_its_scarcest_category(datasets: Path, tmp_path: Path) -> None:
    artifact = make(datasets, tmp_path / "out")
    assert artifact.counts["ended"] == "no more code"
    assert sum(row["category"] == "code" for row in rows_of(artifact)) == 300
    assert artifact.counts["shares"]["code"] == pytest.approx(0.7, abs=0.01)
    assert artifact.counts["read"] == artifact.counts["kept"] == len(rows_of(artifact))


@pytest.mark.parametrize(
    ("growth", "least", "number"), [(10**9, 1, (1, 1)), (10**9, 10**9, (12, 13)), (100, 1, (7, 7))]
)
def test_the_cut_into_tasks_changes_no_byte(
    growth: int, least: int, number: tuple[int, int], datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(datasets, tmp_path / "expected")
    monkeypatch.setattr(stage, "_GROUP_GROWTH", growth)
    monkeypatch.setattr(stage, "_LEAST_GROUPS", least)
    tasks, part = [], stage._part
    monkeypatch.setattr(stage, "_part", lambda path, number: tasks.append((path, number)) or part(path, number))
    found = make(datasets, tmp_path / "out")
    assert (found.digest, found.files) == (expected.digest, expected.files)
    scattered, gathered = map(set, zip(*tasks, strict=True))
    assert (len(scattered), len(gathered)) == number


def test_documents_that_come_again_are_counted_once(datasets: Path, tmp_path: Path) -> None:
    for number, repeats in enumerate((1, 3)):
        public = {"path": str(datasets / "public"), "max_repeats": repeats}
        again = {"path": str(datasets / "public"), "weight": 2.0}
        for more in ({"a": public}, {"a": public, "b": again}):
            artifact = make(datasets, tmp_path / f"out{number}", datasets=more, shares={"code": 0.5, "text": 0.5})
            distinct = len({row["sha256"] for row in rows_of(artifact)})
            assert num_documents(artifact) == distinct
            assert size_of(artifact).startswith(f"{distinct} documents")
            assert ("rows" in size_of(artifact)) == (len(rows_of(artifact)) > distinct)


def test_a_total_weights_and_caps_are_kept(datasets: Path, tmp_path: Path) -> None:
    public = {"path": str(datasets / "public"), "max_bytes": 40_000}
    again = {"path": str(datasets / "public"), "weight": 3.0}
    artifact = make(
        datasets, tmp_path / "out", total=60_000, datasets={"a": public, "b": again}, shares={"code": 0.5, "text": 0.5}
    )
    assert 60_000 <= artifact.counts["total"] < 62_000
    sizes = {name: artifact.counts["datasets"][name]["code"]["size"] for name in "ab"}
    assert sizes["b"] == pytest.approx(3 * sizes["a"], rel=0.1)
    assert artifact.counts["ended"] == "the total is reached"


def test_repeats_are_whole_passes_and_bounded(datasets: Path, tmp_path: Path) -> None:
    chat = {"path": str(datasets / "chat"), "category": "instruction", "max_repeats": 3, "max_bytes": 5_000}
    artifact = make(datasets, tmp_path / "out", datasets={"chat": chat}, shares={"instruction": 1.0})
    records = [row["record"] for row in rows_of(artifact)]
    size = len(set(records))
    assert len(records) == 3 * size
    assert size < 60
    assert [set(records[i * size : (i + 1) * size]) for i in range(3)] == [set(records)] * 3
    assert records[:size] != records[size : 2 * size]


def test_the_seed_decides_the_order_and_nothing_else_does(datasets: Path, tmp_path: Path) -> None:
    one, same = (make(datasets, tmp_path / name, workers=workers) for name, workers in (("one", 1), ("same", 2)))
    assert one.files == same.files
    other = make(datasets, tmp_path / "other", seed=1)
    assert other.files != one.files
    assert [r["record"] for r in rows_of(other)][:20] != [r["record"] for r in rows_of(one)][:20]


def test_verify_makes_it_again_and_compares(datasets: Path, tmp_path: Path) -> None:
    made = make(datasets, tmp_path / "out")
    options = {"datasets": {"public": {"path": str(datasets / "public")}}, "shares": {"code": 1.0}}
    make(datasets, tmp_path / "out", verify=True)
    assert artifacts.verify(tmp_path / "out").digest == made.digest
    with pytest.raises(DigestMismatch, match="differs when made again"):
        make(datasets, tmp_path / "out", verify=True, seed=1)
    make(datasets, tmp_path / "code", **options)
    with pytest.raises(DigestMismatch, match="public is not the input that it was made from"):
        make(
            datasets,
            tmp_path / "code",
            verify=True,
            **options | {"datasets": {"public": {"path": str(datasets / "chat")}}},
        )
    shard = shard_paths(tmp_path / "out")[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DigestMismatch, match="damaged"):
        make(datasets, tmp_path / "out", verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "out"]


def test_a_share_that_nothing_fills_is_one_line(datasets: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instruction has a share of 0.1, but no dataset contains any"):
        make(datasets, tmp_path / "out", datasets={"public": {"path": str(datasets / "public")}})
    with pytest.raises(ConfigError, match="add up to 0.9"):
        make(datasets, tmp_path / "out", shares={"code": 0.5, "text": 0.4})
    with pytest.raises(ConfigError, match="at least one"):
        make(datasets, tmp_path / "out", datasets={})
    with pytest.raises(ConfigError, match="unknown key"):
        make(datasets, tmp_path / "out", datasets={"public": {"path": "x", "wieght": 2}})


def test_tokens_are_counted_with_the_tokenizer(datasets: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    words = [
        "train-tokenizer",
        "--input",
        str(datasets / "public"),
        "--vocab-size",
        "600",
        "--output-dir",
        str(tokenizer),
    ]
    assert main(words) == 0
    artifact = make(datasets, tmp_path / "out", tokenizer=str(tokenizer), total=20_000)
    from ibidem.tokenization.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    counted = sum(len(loaded.encode(str(row["text"]))) + 1 for row in rows_of(artifact))
    assert counted == artifact.counts["total"]
    assert artifact.counts["unit"] == "tokens"


def test_the_blend_is_given_by_flags_too(datasets: Path, tmp_path: Path) -> None:
    flags = ["--datasets.a.path", str(datasets / "public"), "--shares.code", "0.6", "--shares.text", "0.4"]
    assert main(["blend", *flags, "--output-dir", str(tmp_path / "out")]) == 0
    assert main(["blend", *flags, "--output-dir", str(tmp_path / "out"), "--verify"]) == 0
    assert artifacts.load(tmp_path / "out").config["shares"] == {"code": 0.6, "text": 0.4}
    swapped = [*flags[:2], *flags[4:], *flags[2:4]]
    assert main(["blend", *swapped, "--output-dir", str(tmp_path / "out"), "--verify"]) == 0


def test_a_blend_does_not_replace_what_it_is_made_of(datasets: Path) -> None:
    with pytest.raises(ConfigError, match="is also the output_dir"):
        make(datasets, datasets / "public")


def test_shares_far_from_those_asked_are_one_warning_and_told(
    datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"path": str(datasets / "public"), "max_bytes": 600}  # a document of prose and none of code
    tree = {"datasets": {"few": few, "chat": {"path": str(datasets / "chat")}}, "shares": {"text": 0.9, "code": 0.1}}
    tree["datasets"]["chat"]["category"] = "code"
    made = {**tree, "output_dir": str(tmp_path / "out")}
    said = blend(config.build(BlendConfig, made))
    shares = artifacts.load(tmp_path / "out").counts["shares"]
    assert abs(shares["text"] - 0.9) > 0.05
    text, code = (f"{100 * shares[name]:.0f} %" for name in ("text", "code"))
    asked = f"asked for 10 % code and 90 % text, got {code} and {text}: no more text"
    assert said.endswith(asked)
    command = ["blend", "--config", str(tmp_path / "blend.yaml"), "--log-format", "json"]
    (tmp_path / "blend.yaml").write_text(json.dumps(made))
    assert main(command) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["reason"] for event in events if event["event"] == "blend.off_shares"] == [asked]


def test_shares_within_a_document_of_those_asked_are_no_warning(datasets: Path, tmp_path: Path) -> None:
    make(datasets, tmp_path / "out")
    assert "asked for" not in summary(artifacts.load(tmp_path / "out"))


def test_a_total_that_is_not_reached_is_told(datasets: Path, tmp_path: Path) -> None:
    made = make(datasets, tmp_path / "out", total=10_000_000)
    assert f"{made.counts['total']:,} of 10,000,000 bytes" in summary(made)
    assert " of " not in summary(make(datasets, tmp_path / "out", total=20_000))
