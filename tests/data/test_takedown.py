"""Takedown: the same bytes as never having had the documents, and a proof."""

import hashlib
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.removals import Matcher, Request, load_requests
from ibidem.errors import ConfigError

TEXTS = [python_file(seed) for seed in range(200)]
TEXTS += [text.replace("return", "yield", 1) for text in TEXTS[::7]]
TEXTS += TEXTS[::11]
TEXTS += [text.upper() for text in TEXTS[::13]]
random.Random(3).shuffle(TEXTS)

EVERY_KIND = [
    {"kind": "repo", "value": "Owner1/R1"},
    {"kind": "owner", "value": "owner3"},
    {"kind": "path", "value": "src/f3?.py"},
    {"kind": "path", "value": "src/*", "repo": "owner2/r7"},
    {"kind": "url", "value": "https://github.com/owner4/r9/"},
    {"kind": "record", "value": "d0"},
    {"kind": "record", "value": "d201"},
    {"kind": "sha256", "value": hashlib.sha256(TEXTS[150].encode()).hexdigest()},
    {"kind": "text", "value": TEXTS[44][:400]},
    {"kind": "record", "value": "there is no such document"},
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("takedown") / "a.parquet"
    columns = {
        "text": TEXTS,
        "id": [f"d{i}" for i in range(len(TEXTS))],
        "repo": [f"owner{i % 5}/r{i % 20}" for i in range(len(TEXTS))],
        "path": [f"src/f{i}.py" for i in range(len(TEXTS))],
    }
    pq.write_table(pa.table(columns), path)
    return path


def requests_file(folder: Path, requests: list[dict[str, str]], name: str = "requests.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def run(source: Path, output: Path, requests: Path | None = None, **removals: object) -> artifacts.Artifact:
    removals |= {"requests": (requests,)} if requests else {}
    dataset = (f"{source}:train:text",)
    preprocess(PreprocessConfig(dataset=dataset, output_dir=output, shard_size=30, removals=removals))
    return artifacts.load(output)


@pytest.mark.parametrize("duplicates", ["cluster", "requested"])
def test_a_takedown_equals_a_run_that_was_asked_from_the_start(source: Path, tmp_path: Path, duplicates: str) -> None:
    requests = requests_file(tmp_path, EVERY_KIND)
    before = run(source, tmp_path / "data", duplicates=duplicates)
    untouched = {name: (before.path / name).read_bytes() for name in before.files}
    command = [str(requests), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    assert main(["takedown", "apply", *command]) == 0
    asked = run(source, tmp_path / "asked", requests, duplicates=duplicates)
    after = artifacts.verify(tmp_path / "data")
    assert after.digest == asked.digest
    assert {name: (after.path / name).read_bytes() for name in after.files} == {
        name: (asked.path / name).read_bytes() for name in asked.files
    }
    assert main(["takedown", "verify", *command]) == 0
    assert 0 < after.counts["kept"] < before.counts["kept"]
    rewritten = {name for name in before.files if before.files[name] != after.files.get(name)}
    certificate = json.loads(next(tmp_path.glob("data.takedown-*.json")).read_text())[0]
    assert set(certificate["predicate"]["files"]["rewritten"]) == rewritten
    assert certificate["_type"] == "https://in-toto.io/Statement/v1"
    assert {item["name"]: item["digest"]["sha256"] for item in certificate["subject"]} == {
        name: file.sha256 for name, file in after.files.items()
    }
    assert "not unlearned" in certificate["predicate"]["statement"]
    assert TEXTS[44][:400] not in json.dumps(certificate)
    assert len(untouched) > len(rewritten)


def test_shards_without_removed_rows_stay_the_same_bytes(source: Path, tmp_path: Path) -> None:
    before = run(source, tmp_path / "data")
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    assert main(["takedown", "apply", str(requests), "--dataset", str(tmp_path / "data")]) == 0
    after = artifacts.load(tmp_path / "data")
    changed = {name for name in before.files if before.files[name] != after.files[name]}
    assert {name for name in changed if "shard-" in name} == {"a/train/shard-00000.parquet"}
    assert after.counts["kept"] == before.counts["kept"] - 1


def test_requests_add_up_over_takedowns(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    for number in (0, 3):
        requests = requests_file(tmp_path, EVERY_KIND[number : number + 3], f"{number}.jsonl")
        assert main(["takedown", "apply", str(requests), "--dataset", str(tmp_path / "data")]) == 0
    requests = requests_file(tmp_path, EVERY_KIND[:6])
    asked = run(source, tmp_path / "asked", requests)
    assert artifacts.load(tmp_path / "data").digest == asked.digest


def test_a_removed_keeper_is_not_replaced_by_its_duplicate(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [TEXTS[0], TEXTS[0].upper(), TEXTS[1]], "id": ["x", "y", "z"]}), tmp_path / "a.parquet"
    )
    requests = requests_file(tmp_path, [{"kind": "record", "value": "x"}])
    for duplicates in ("cluster", "requested"):
        dataset = run(tmp_path / "a.parquet", tmp_path / duplicates, requests, duplicates=duplicates)
        reasons = {row["record"]: row["reason"] for row in pq.read_table(dataset.path / shards.DROPPED).to_pylist()}
        assert reasons == {"x": "removal.requested", "y": "duplicate.near"}


def test_a_request_for_a_duplicate_takes_its_keeper_along_by_rule(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [TEXTS[0], TEXTS[0].upper(), TEXTS[1]], "id": ["x", "y", "z"]}), tmp_path / "a.parquet"
    )
    requests = requests_file(tmp_path, [{"kind": "record", "value": "y"}])
    left = {}
    for duplicates in ("cluster", "requested"):
        dataset = run(tmp_path / "a.parquet", tmp_path / duplicates, requests, duplicates=duplicates)
        left[duplicates] = [
            row["record"] for p in shards.shard_paths(dataset.path) for row in pq.read_table(p).to_pylist()
        ]
    assert left == {"cluster": ["z"], "requested": ["x", "z"]}


def test_what_saw_the_documents_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = run(source, tmp_path / "data")
    row = pq.read_table(shards.shard_paths(dataset.path)[0]).to_pylist()[0]
    with artifacts.create(tmp_path / "tokens", kind="tokens", config={}, inputs=[
        dataset.as_input("dataset", of=tmp_path / "tokens")
    ]) as draft:  # fmt: skip
        places = {"sha256": [row["sha256"]], "split": ["train"], "start": [7], "tokens": [11]}
        pq.write_table(pa.table(places), draft.path / "documents.parquet")
    tokens = artifacts.load(tmp_path / "tokens")
    with artifacts.create(tmp_path / "step-1", kind="checkpoint", config={}, inputs=[
        tokens.as_input("tokens", of=tmp_path / "step-1")
    ]) as draft:  # fmt: skip
        (draft.path / "weights").write_text("w")
    for target in (row["record"], row["swhid"], row["sha256"]):
        assert main(["trace", target, "--artifacts", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "shard-00000.parquet row 0" in out
        assert "train tokens 7 to 17" in out
        assert "checkpoint" in out
    requests = requests_file(tmp_path, [{"kind": "record", "value": row["record"]}])
    command = [str(requests), "--dataset", str(dataset.path), "--artifacts", str(tmp_path)]
    assert main(["takedown", "plan", *command]) == 0
    assert "step-1" in capsys.readouterr().out
    assert main(["takedown", "apply", *command]) == 0
    assert "1 artifacts keep what they learned" in capsys.readouterr().out
    certificate = json.loads(next(tmp_path.glob("data.takedown-*.json")).read_text())[0]
    assert {use["kind"] for use in certificate["predicate"]["seen_by"]} == {"checkpoint", "tokens"}
    assert main(["trace", row["record"], "--artifacts", str(tmp_path)]) == 0
    out = capsys.readouterr().out  # the dataset has forgotten it, the checkpoint has not
    assert "removal.requested" in out
    assert "step-1" in out


def test_a_residual_is_found(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(source, tmp_path / "data")
    requests = requests_file(tmp_path, [{"kind": "repo", "value": "owner1/r1"}])
    assert main(["takedown", "verify", str(requests), "--dataset", str(tmp_path / "data")]) == 2
    assert "residuals, the first by request" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind": "repos", "value": "a/b"}', "did you mean repo?"),
        ('{"kind": "repo"}', "value is missing"),
        ('{"kind": "text", "value": "too short"}', "fewer than 5 words"),
        ("[1]", "a mapping of kind and value"),
        ("{", "r.jsonl:1: not JSON"),
    ],
)
def test_a_request_that_is_not_understood_is_one_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as error:
        load_requests([path])
    assert "r.jsonl" in str(error.value)


def test_requests_in_yaml_are_the_same_requests(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- {kind: repo, value: a/b}\n- {kind: path, value: '*.md', repo: a/b}\n")
    lines = [{"kind": "path", "value": "*.md", "repo": "a/b"}, {"kind": "repo", "value": "a/b"}]
    assert load_requests([tmp_path / "r.yaml"]) == load_requests([requests_file(tmp_path, lines)])


@pytest.mark.parametrize(
    ("request_", "nouns", "named"),
    [
        (Request("url", "https://www.Example.org/Blog"), {"url": "http://example.org/Blog/1"}, True),
        (Request("url", "https://example.org/blog"), {"url": "http://example.org/blogs"}, False),
        (Request("url", "github.com/a/b"), {"repo": "A/B"}, True),
        (Request("owner", "a"), {"repo": "A/x"}, True),
        (Request("owner", "a"), {"repo": "a"}, False),
        (Request("path", "docs/*.md", "a/b"), {"repo": "a/b", "path": "docs/x/y.md"}, True),
        (Request("path", "docs/*.md", "a/b"), {"repo": "a/c", "path": "docs/x.md"}, False),
        (Request("path", "[x].md"), {"path": "x.md"}, True),
        (Request("swhid", "swh:1:cnt:00"), {"swhid": "swh:1:cnt:00"}, True),
    ],
)
def test_what_a_request_names(request_: Request, nouns: dict[str, str], named: bool) -> None:
    empty = dict.fromkeys(("record", "repo", "path", "url", "raw_sha256", "sha256", "swhid"))
    assert (Matcher([request_]).find(empty | nouns) is not None) == named
