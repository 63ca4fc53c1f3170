"""Takedown: the same bytes as never having had the documents, and a proof."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import python_file
from tests.data.left_out import dropped

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.filters.removals import Matcher, Request, load_requests
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.provenance.plan import make_plans
from ibidem.errors import ConfigError, IbidemError

TEXTS = [python_file(seed) for seed in range(200)]
TEXTS += [text.replace("return", "yield", 1) for text in TEXTS[::7]]
TEXTS += TEXTS[::11]
TEXTS += [text.upper() for text in TEXTS[::13]]
random.Random(3).shuffle(TEXTS)

PLAIN = "A text of its own that nothing else here is like, long enough to be kept by all the filters."
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


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the default folder `data` is that of the test."""
    monkeypatch.chdir(tmp_path)


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
    command = [str(requests), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path), "--allow-unmatched"]
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


def test_shards_without_removed_rows_stay_the_same_bytes(source: Path, tmp_path: Path) -> None:
    before = run(source, tmp_path / "data")
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    assert main(["takedown", "apply", str(requests), "--dataset", str(tmp_path / "data")]) == 0
    after = artifacts.load(tmp_path / "data")
    changed = {name for name in before.files if before.files[name] != after.files[name]}
    parts = ("dropped-00000.parquet", "shard-00000.parquet", "sketch-00000.npy")
    assert changed == {f"a/train/{name}" for name in parts}
    assert after.files.keys() - before.files.keys() == {"removals.jsonl", "a/train/removed-00000.npy"}
    assert after.counts["kept"] == before.counts["kept"] - 1


def test_datasets_of_an_earlier_layout_are_refused_before_any_is_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = run(source, tmp_path / "new"), run(source, tmp_path / "old")
    monkeypatch.setattr(shards, "is_of_earlier_layout", lambda dataset: dataset.path == old.path)
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    for action in ("plan", "apply"):
        asked = ["takedown", action, str(requests), *(f"--dataset={each.path}" for each in (new, old))]
        assert main([*asked, "--artifacts", str(tmp_path)]) == 2
        assert f"{old.path}: an earlier version made it; preprocess it again" in capsys.readouterr().err
    assert artifacts.load(new.path).digest == new.digest
    assert not [*tmp_path.glob("*.takedown-*")]


def test_what_a_takedown_does_not_rewrite_is_not_hashed_again_when_it_is_sealed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "data")
    seal, usual, hashed = artifacts._seal, artifacts.sha256_of, []

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return usual(path)

    def sealed(*arguments: Any) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(artifacts, "sha256_of", noted)
            return seal(*arguments)

    monkeypatch.setattr(artifacts, "_seal", sealed)
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    assert main(["takedown", "apply", str(requests), "--dataset", str(tmp_path / "data")]) == 0
    assert hashed == ["removals.jsonl"]
    artifacts.verify(tmp_path / "data")


def test_a_takedown_leaves_what_other_shards_dropped_as_it_is(source: Path, tmp_path: Path) -> None:
    before = run(source, tmp_path / "data")
    parts = {name: (before.path / name).stat().st_ino for name in shards.names_of(before, shards.DROPPED)}
    assert len(parts) > 1
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    assert main(["takedown", "apply", str(requests), "--dataset", str(before.path)]) == 0
    left = {name: (before.path / name).stat().st_ino for name in parts}
    assert {name for name in parts if left[name] != parts[name]} <= {"a/train/dropped-00000.parquet"}


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
        reasons = {row["record"]: row["reason"] for row in dropped(dataset.path)}
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
    assert "1 artifact keeps what they learned" in capsys.readouterr().out
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
    assert ", the first by request" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind": "repos", "value": "a/b"}', "did you mean repo?"),
        ('{"kind": "repo"}', "value is missing"),
        ('{"kind": "text", "value": "too short"}', "fewer than 5 words"),
        ('{"kind": "path", "value": 5}', "value is missing"),
        ("[1]", "line 3 is not a JSON object"),
        ("{", "line 3 is not JSON"),
    ],
)
def test_a_request_that_is_not_understood_is_one_line(line: str, message: str, tmp_path: Path) -> None:
    path, good = tmp_path / "r.jsonl", '{"kind": "text", "value": "five words are just enough"}\n'
    path.write_text(good + "\n" + line + "\n")
    with pytest.raises(IbidemError, match=message.replace("?", r"\?")) as error:
        load_requests([path])
    assert str(error.value).startswith((f"{path}:3: ", f"requests {path}: line 3 "))
    if line.startswith('{"'):
        (tmp_path / "r.yaml").write_text(f"- {good}- {line}\n")
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as error:
            load_requests([tmp_path / "r.yaml"])
        assert str(error.value).startswith(f"{tmp_path / 'r.yaml'}:2: ")


@pytest.mark.parametrize(("text", "message"), [("- [1]", "a mapping of kind and value"), ("{a: 1}", "not a list")])
def test_yaml_that_is_no_list_of_requests_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_requests([tmp_path / "r.yaml"])


def test_a_file_of_requests_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("r.yaml", "r.jsonl"):
        with pytest.raises(IbidemError, match="No such file") as error:
            load_requests([tmp_path / name])
        assert str(error.value).count(name) == 1


def test_requests_in_yaml_are_the_same_requests(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- {kind: repo, value: a/b}\n- {kind: path, value: '*.md', repo: a/b}\n")
    lines = [{"kind": "path", "value": "*.md", "repo": "a/b"}, {"kind": "repo", "value": "a/b"}]
    assert load_requests([tmp_path / "r.yaml"]) == load_requests([requests_file(tmp_path, lines)])


@pytest.mark.parametrize(
    ("request_", "fields", "named"),
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
def test_what_a_request_names(request_: Request, fields: dict[str, str], named: bool) -> None:
    empty = dict.fromkeys(("record", "repo", "path", "url", "raw_sha256", "sha256", "swhid"))
    assert (Matcher([request_]).find(empty | fields) is not None) == named


def apply(folder: Path, requests: list[dict[str, str]], *datasets: str, name: str = "requests.jsonl") -> int:
    path = requests_file(folder, requests, name)
    places = [word for dataset in datasets or ("data",) for word in ("--dataset", str(folder / dataset))]
    return main(["takedown", "apply", str(path), *places, "--artifacts", str(folder)])


def certificate(folder: Path, index: int = -1) -> dict[str, Any]:
    paths = sorted(folder.glob("*.takedown-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(paths[index].read_text())[0]["predicate"]


def test_a_second_takedown_still_names_what_was_made_before_the_first(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    blend = ["--datasets.a.path", str(tmp_path / "data"), "--shares.code", "1", "--output-dir", str(tmp_path / "b")]
    assert main(["blend", *blend]) == 0
    for number in ("1", "2"):
        assert apply(tmp_path, [{"kind": "record", "value": f"d{number}"}], name=f"{number}.jsonl") == 0
        assert [use["path"] for use in certificate(tmp_path)["seen_by"]] == [str(tmp_path / "b")]


def made_of(path: Path, kind: str, *inputs: Path, documents: list[str] | None = None) -> None:
    """Stand for a stage that makes `path` out of other artifacts."""
    found = [artifacts.load(place) for place in inputs]
    roles = [artifact.as_input(artifact.kind, of=path) for artifact in found]
    with artifacts.create(path, kind=kind, config={}, inputs=roles) as draft:
        (draft.path / "content").write_text(path.name)
        if documents is not None:
            places = {"sha256": documents, "split": ["train"] * len(documents), "start": range(len(documents))}
            pq.write_table(pa.table(places | {"tokens": [1] * len(documents)}), draft.path / "documents.parquet")


def hashes_of(dataset: Path) -> list[str]:
    return [str(h) for path in shards.shard_paths(dataset) for h in pq.read_table(path)["sha256"].to_pylist()]


def seen_by(folder: Path) -> dict[str, str]:
    return {f"{Path(use['path']).name} {use['digest']}": use["state"] for use in certificate(folder)["seen_by"]}


def test_what_was_made_again_without_the_documents_did_not_see_them(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, requests = tmp_path / "data", [{"kind": "record", "value": "d1"}]
    run(source, data)
    blend = ["--datasets.a.path", str(data), "--shares.code", "1", "--output-dir", str(tmp_path / "b")]

    def make(number: int) -> None:
        assert main(["blend", *blend]) == 0
        made_of(tmp_path / f"t{number}", "tokens", tmp_path / "b", tmp_path / "words", documents=hashes_of(data))
        made_of(tmp_path / f"c{number}", "checkpoint", tmp_path / f"t{number}", tmp_path / "words")

    made_of(tmp_path / "words", "tokenizer", data)
    make(1)
    first = {name: artifacts.load(tmp_path / name).digest for name in ("b", "t1", "c1", "words")}
    assert apply(tmp_path, requests) == 0
    states = {"b": "holds", "t1": "holds", "c1": "saw", "words": "saw"}
    assert seen_by(tmp_path) == {f"{name} {first[name]}": state for name, state in states.items()}
    make(2)
    made_of(tmp_path / "words2", "tokenizer", data)
    capsys.readouterr()
    for command in ("plan", "apply"):
        assert main(["takedown", command, str(tmp_path / "requests.jsonl"), "--dataset", str(data), "--artifacts",
                     str(tmp_path)]) == 0  # fmt: skip
        told = capsys.readouterr().out
        assert f"{tmp_path / 'c1'} " in told or command == "apply"
        assert f"{tmp_path / 'c2'} " not in told
        assert "make them again" not in told
    states = {"b": "made again since", "t1": "holds", "c1": "saw", "words": "saw"}
    assert seen_by(tmp_path) == {f"{name} {first[name]}": state for name, state in states.items()}


def test_what_was_made_before_an_earlier_takedown_may_have_seen_the_documents(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    made_of(tmp_path / "words", "tokenizer", tmp_path / "data")
    made_of(tmp_path / "other", "tokenizer")
    for number, state in (("1", "saw"), ("2", "may have seen")):
        assert apply(tmp_path, [{"kind": "record", "value": f"d{number}"}], name=f"{number}.jsonl") == 0
        assert list(seen_by(tmp_path).values()) == [state]


def test_a_certificate_is_never_taken_back(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    requests = [{"kind": "record", "value": "d1"}]
    assert apply(tmp_path, requests) == 0
    first = certificate(tmp_path)
    assert first["removed"]
    assert first["state"] == "done"
    assert apply(tmp_path, requests) == 0
    assert certificate(tmp_path) == first
    (tmp_path / "note.json").write_text("[1]")
    command = ["takedown", "apply", str(tmp_path / "requests.jsonl"), "--dataset", str(tmp_path / "data")]
    assert main([*command, "--certificate", str(tmp_path / "note.json")]) == 2
    assert main([*command, "--certificate", str(tmp_path / "data" / "c.json")]) == 2
    assert (tmp_path / "note.json").read_text() == "[1]"


def test_a_certificate_stands_before_anything_is_removed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(source, tmp_path / "data")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ibidem.data.provenance.takedown.apply", fail)
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}]) == 2
    assert certificate(tmp_path)["state"] == "planned"
    assert certificate(tmp_path)["removed"]
    assert artifacts.verify(tmp_path / "data").digest == before.digest


def test_a_takedown_that_was_killed_and_given_again_tells_all_that_it_wrote(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        run(source, tmp_path / name / "data")
    requests = [{"kind": "owner", "value": "owner1"}]
    assert apply(tmp_path / "whole", requests) == 0
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr("ibidem.data.provenance.takedown.residuals", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                apply(tmp_path / "killed", requests)
    assert apply(tmp_path / "killed", requests) == 0
    whole, killed = certificate(tmp_path / "whole"), certificate(tmp_path / "killed")
    assert killed["files"] == whole["files"]
    assert killed["removed"] == whole["removed"]
    assert killed["dataset"]["before"] == whole["dataset"]["before"]
    assert whole["files"]["rewritten"]


def test_a_certificate_keeps_to_its_requests_and_tells_of_all_its_datasets(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    for name in ("a", "b"):
        run(source, tmp_path / name)
    rows = [{"kind": "record", "value": f"d{number}"} for number in (1, 2, 3)]
    requests = [requests_file(tmp_path, rows[:2]), requests_file(tmp_path, rows[2:], "others.jsonl")]
    for name, searched in (("a", tmp_path / "a"), ("b", tmp_path / "b"), ("a", tmp_path / "b")):
        words = ["--dataset", str(tmp_path / name), "--artifacts", str(searched), "--certificate", str(path)]
        assert main(["takedown", "apply", str(requests[0]), *words]) == 0
        requests_file(tmp_path, rows[1::-1])  # the same requests, in another order
    statements = {Path(s["predicate"]["dataset"]["path"]).name: s["predicate"] for s in json.loads(path.read_text())}
    assert statements["a"]["searched"] == [str(tmp_path / name) for name in ("a", "b")]
    assert statements["b"]["removed"]
    told = path.read_text()
    assert main(["takedown", "apply", str(requests[1]), *words]) == 2

    assert "is the certificate of other requests" in capsys.readouterr().err
    assert path.read_text() == told


@pytest.mark.parametrize("name", ["sketch-notes", "a.npy-shard-", "sketch-shard"])
def test_a_dataset_may_have_any_name(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.parquet").write_bytes(source.read_bytes())
    run(tmp_path / name, tmp_path / "data")
    assert apply(tmp_path, [{"kind": "repo", "value": "owner1/r1"}]) == 0
    asked = run(tmp_path / name, tmp_path / "asked", tmp_path / "requests.jsonl")
    assert artifacts.verify(tmp_path / "data").digest == asked.digest


def test_datasets_against_each_other_are_taken_down_together(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    near = tmp_path / "near.jsonl"
    near.write_text(
        json.dumps({"text": TEXTS[1].replace("return", "await", 1)}) + "\n" + json.dumps({"text": PLAIN}) + "\n"
    )
    flags = ["--dataset", f"{near}:train:text", "--output-dir", str(tmp_path / "more")]
    assert main(["preprocess", *flags, "--dedup.against", str(tmp_path / "data")]) == 0
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}], "data", "more") == 0
    assert main(["verify", str(tmp_path / "more")]) == 0


@pytest.mark.parametrize(("near", "exact"), [(False, True), (False, False)])
def test_without_near_duplicates_only_what_is_named_leaves(
    near: bool, exact: bool, source: Path, tmp_path: Path
) -> None:
    def made(output: Path, requests: Path | None = None) -> artifacts.Artifact:
        preprocess(
            PreprocessConfig(
                dataset=(f"{source}:train:text",),
                output_dir=output,
                dedup={"near": near, "exact": exact},
                removals={"requests": (requests,)} if requests else {},
            )
        )
        return artifacts.load(output)

    made(tmp_path / "data")
    assert apply(tmp_path, [{"kind": "record", "value": "d3"}, {"kind": "record", "value": "d8"}]) == 0
    assert artifacts.load(tmp_path / "data").digest == made(tmp_path / "asked", tmp_path / "requests.jsonl").digest


def test_a_dataset_of_which_all_is_removed_is_still_one(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    assert apply(tmp_path, [{"kind": "owner", "value": f"owner{i}"} for i in range(5)]) == 0
    assert artifacts.verify(tmp_path / "data").counts["kept"] == 0
    assert main(["card", str(tmp_path / "data")]) == 0
    assert main(["trace", "d1", "--artifacts", str(tmp_path)]) == 0
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}], name="again.jsonl") == 0


def test_requests_that_name_nothing_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": PLAIN}) + "\n")
    run(tmp_path / "one.jsonl", tmp_path / "data")
    assert apply(tmp_path, [{"kind": "record", "value": "nothing\u2028\u0085"}]) == 2
    assert apply(tmp_path, [{"kind": "record", "value": "nothing else"}], name="again.jsonl") == 2
    assert artifacts.verify(tmp_path / "data").counts["kept"] == 1


def test_requests_that_name_nothing_are_told(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(source, tmp_path / "data")
    duplicate = next(row for row in dropped(tmp_path / "data") if row["kept"])
    wrong = [{"kind": "repo", "value": "someone/else"}, {"kind": "text", "value": "words that stand in no file at all"}]
    right = [{"kind": "repo", "value": "owner1/r1"}, {"kind": "repo", "value": "Owner1/R1"}]
    right += [{"kind": "text", "value": TEXTS[44][:400]}, {"kind": "text", "value": TEXTS[44][:401]}]
    right += [{"kind": "record", "value": "d44"}, {"kind": "record", "value": duplicate["record"]}]
    path = requests_file(tmp_path, [*right, *wrong])
    before = artifacts.load(tmp_path / "data").digest
    accepted = [str(path), "--dataset", str(tmp_path / "data"), "--allow-unmatched"]
    for command, count in (("plan", 2), ("apply", 2), ("verify", 1)):  # a text that was removed cannot be found again
        assert main(["takedown", command, str(path), "--dataset", str(tmp_path / "data")]) == 2
        told = capsys.readouterr()
        assert f"ibidem: {count} of 8 requests match nothing; correct {path}" in told.err
        assert told.out.startswith(f"repo someone/else: matches nothing in {tmp_path / 'data'}\n")
        assert told.out.count(": matches nothing in ") == count
        assert "words that" not in told.out  # a text that shall be forgotten is told by its hash
        if command == "apply":
            assert artifacts.verify(tmp_path / "data").digest == before
            assert not [*tmp_path.glob("*.takedown-*")]
        assert main(["takedown", command, *accepted]) == 0
        shown = capsys.readouterr().out
        assert shown == told.out or command == "apply"
    left_out = {request.id for request in load_requests([requests_file(tmp_path, wrong, "wrong.jsonl")])}
    assert set(certificate(tmp_path)["unmatched"]) == left_out
    assert main(["takedown", "apply", str(path), "--dataset", str(tmp_path / "data"), "--allow-unmatched"]) == 0
    assert set(certificate(tmp_path)["unmatched"]) == left_out
    capsys.readouterr()
    assert apply(tmp_path, right, name="right.jsonl") == 0
    assert "nothing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("request_", "meant"),
    [
        ({"kind": "repo", "value": "owner1/r11x"}, "; did you mean repo owner1/r11?"),
        ({"kind": "repo", "value": "R7"}, "; did you mean repo owner2/r7?"),
        ({"kind": "repo", "value": "owner3"}, "; did you mean owner owner3?"),
        ({"kind": "owner", "value": "ownr3"}, "; did you mean owner owner3?"),
        ({"kind": "owner", "value": "r7"}, "; did you mean repo owner2/r7?"),
        ({"kind": "path", "value": "SRC/"}, "; did you mean path src?"),
        ({"kind": "path", "value": "f44.py"}, "; did you mean path src/f44.py?"),
        ({"kind": "path", "value": "scr/f44.pyy"}, "; did you mean path src/f44.py?"),
        ({"kind": "path", "value": "src/f44.py", "repo": "owner4/r44"}, "; did you mean repo owner4/r4?"),
        ({"kind": "path", "value": "src/f44.py", "repo": "owner1/r1"}, ""),
        ({"kind": "repo", "value": "something/entirely-different"}, ""),
        ({"kind": "sha256", "value": "0" * 64}, ""),
        ({"kind": "record", "value": "nothing\u2028else"}, ""),
    ],
)
def test_a_request_that_matches_nothing_is_told_with_what_was_meant(
    request_: dict[str, str], meant: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "data")
    assert apply(tmp_path, [request_]) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "matches nothing" in line]
    assert line.endswith(f": matches nothing in {tmp_path / 'data'}{meant}")
    assert line.startswith(f"{request_['kind']} ")


def test_requests_that_were_honored_before_are_no_mistake(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    requests = [row for row in EVERY_KIND if row["value"] != "there is no such document"]
    for name in ("first", "second"):
        assert apply(tmp_path, requests, name=name) == 0
    command = [str(tmp_path / "second"), "--dataset", str(tmp_path / "data")]
    for each in ("plan", "verify"):
        assert main(["takedown", each, *command]) == 0


def test_a_request_counts_if_any_of_the_datasets_has_it(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": PLAIN, "id": "one"}) + "\n")
    run(tmp_path / "one.jsonl", tmp_path / "more")
    assert apply(tmp_path, [{"kind": "record", "value": "one"}, {"kind": "record", "value": "d1"}], "data", "more") == 0


def test_every_request_that_matches_nothing_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": PLAIN}) + "\n")
    run(tmp_path / "one.jsonl", tmp_path / "data")
    assert apply(tmp_path, [{"kind": "record", "value": f"no{n}"} for n in range(120)]) == 2
    assert capsys.readouterr().out.count(": matches nothing in ") == 120


HOSTS = [("url", "https://github.com/"), ("owner", "codeberg.org"), ("url", "www.Example.org")]


@pytest.mark.parametrize(("kind", "value"), HOSTS)
def test_a_whole_host_asks_back(
    kind: str, value: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "data")
    requests = requests_file(tmp_path, [{"kind": kind, "value": value}])
    command = [str(requests), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    assert main(["takedown", "plan", *command]) == 2
    assert capsys.readouterr().err.endswith("names everything on a host; confirm it by --everything\n")
    assert main(["takedown", "plan", *command, "--everything"]) in {0, 2}
    assert "everything" not in capsys.readouterr().err


def test_a_checkpoint_whose_tokens_are_gone_may_have_seen_the_documents(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    made_of(tmp_path / "tokens", "tokens", tmp_path / "data", documents=hashes_of(tmp_path / "data"))
    made_of(tmp_path / "checkpoint", "checkpoint", tmp_path / "tokens")
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    command = ["takedown", "plan", str(requests), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    states = {}
    for where in ("here", "gone"):
        if where == "gone":
            shutil.rmtree(tmp_path / "tokens")
        plans = make_plans([tmp_path / "data"], requests, load_requests([requests]), [tmp_path], Engine(EngineConfig()))
        states[where] = {use.artifact.path.name: use.state for use in plans[0].uses}
    assert states == {"here": {"tokens": "holds", "checkpoint": "saw"}, "gone": {"checkpoint": "may have seen"}}
    assert main(command) == 0


def test_a_takedown_says_where_it_looked_and_what_it_found(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "data")
    made_of(tmp_path / "elsewhere" / "words", "tokenizer", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    command = [str(requests), "--dataset", str(tmp_path / "data")]
    monkeypatch.chdir(tmp_path / "empty")
    before = artifacts.load(tmp_path / "data").digest
    for each in ("plan", "apply", "verify"):
        assert main(["takedown", each, *command]) == 2
        assert "no folder artifacts or data here to search" in capsys.readouterr().err
        assert main(["takedown", each, *command, "--artifacts", "nowhere", str(tmp_path)]) == 2
        assert "nowhere: no such folder" in capsys.readouterr().err
    assert artifacts.load(tmp_path / "data").digest == before
    assert not list(tmp_path.glob("*.takedown-*"))
    for each in ("plan", "apply", "verify"):
        assert main(["takedown", each, *command, "--artifacts", str(tmp_path)]) == 0
        assert f"searched {tmp_path}: 2 artifacts" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["takedown", "plan", *command]) == 0
    assert "searched data: 1 artifact; no tokens and no checkpoint are among them" in capsys.readouterr().out
    assert certificate(tmp_path)["searched"] == [str(tmp_path)]
    assert certificate(tmp_path)["artifacts_found"] == 2


@pytest.mark.parametrize(
    "value", ["src/deep", "src/deep/", "/src/deep/", "./src/deep", "src/deep/*", "*/deep", "src/d??p"]
)
def test_a_folder_stands_for_everything_below_it(value: str, tmp_path: Path) -> None:
    paths = ["src/deep/a.py", "src/deep/er/b.py", "src/deeper/c.py", "src/deep.py", "deep/d.py"]
    rows = [{"text": python_file(number), "id": path, "path": path} for number, path in enumerate(paths)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "a.jsonl", tmp_path / "data")
    assert apply(tmp_path, [{"kind": "path", "value": value}]) == 0
    left = {row for path in shards.shard_paths(tmp_path / "data") for row in pq.read_table(path)["record"].to_pylist()}
    assert left == set(paths[2:])


@pytest.mark.parametrize("value", ["*", "**", "*/*", "*.*", "?*", "[!x]*"])
def test_a_path_that_every_document_has_asks_back(
    value: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(source, tmp_path / "data")
    requests = [{"kind": "path", "value": value}]
    assert apply(tmp_path, requests) == 2
    assert capsys.readouterr().err.endswith(f"path {value} names every document; confirm it by --everything\n")
    assert artifacts.load(tmp_path / "data").digest == before.digest
    assert apply(tmp_path, [{**requests[0], "repo": "owner1/r1"}]) == 0
    command = [str(requests_file(tmp_path, requests)), "--dataset", str(tmp_path / "data"), "--everything"]
    assert main(["takedown", "apply", *command]) == 0
    assert artifacts.load(tmp_path / "data").counts["kept"] == 0


@pytest.mark.parametrize("value", ["/", ".", "./"])
def test_a_path_of_the_whole_folder_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names nothing; the path \* names every document"):
        load_requests([requests_file(tmp_path, [{"kind": "path", "value": value}])])


def test_what_preprocess_has_not_made_is_not_taken_down(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "data")
    blend = ["--datasets.a.path", str(tmp_path / "data"), "--shares.code", "1", "--output-dir", str(tmp_path / "b")]
    assert main(["blend", *blend]) == 0
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}], "b") == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'b'}: not made by preprocess" in told
    assert told.endswith(f"blend again: --dataset {tmp_path / 'data'}\n")
    again = ["--datasets.x.path", str(tmp_path / "b"), "--shares.code", "1", "--output-dir", str(tmp_path / "c")]
    assert main(["blend", *again]) == 0
    capsys.readouterr()
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}], "c") == 2
    assert capsys.readouterr().err.endswith(f"blend again: --dataset {tmp_path / 'data'}\n")


def test_what_is_nearly_the_same_as_something_removed_is_a_residual(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"word{number}" for number in range(300)]
    texts = [" ".join(words), " ".join([*words, "and", "more"]), " ".join(words[::-1])]
    pq.write_table(pa.table({"text": texts, "id": ["a", "b", "c"]}), tmp_path / "a.parquet")
    flags = ["--dedup.similarity", "1", "--output-dir", str(tmp_path / "data")]  # near duplicates stay
    skip = ["--skip", "filters", "--skip", "scrub"]
    assert main(["preprocess", "--dataset", f"{tmp_path / 'a.parquet'}:train:text", *flags, *skip]) == 0
    assert apply(tmp_path, [{"kind": "record", "value": "a"}]) == 2
    (residual,) = certificate(tmp_path)["residuals"]
    assert residual["by"].startswith("MinHash (estimated similarity ")
    assert residual["row"] == 0
    assert "residuals were found" in capsys.readouterr().err
    assert main(["takedown", "verify", str(tmp_path / "requests.jsonl"), "--dataset", str(tmp_path / "data")]) == 2
    assert "1 residual, the first by MinHash" in capsys.readouterr().err


def test_two_takedowns_of_one_dataset_do_not_run_at_once(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "data")
    before = artifacts.load(tmp_path / "data").digest
    with artifacts.locked(tmp_path / ".data.takedown"):  # as another process holds it
        assert apply(tmp_path, [{"kind": "record", "value": "d1"}]) == 2
    assert "another process is writing there" in capsys.readouterr().err
    assert artifacts.load(tmp_path / "data").digest == before
    assert not list(tmp_path.glob("*.takedown-*"))
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}]) == 0


def test_a_takedown_given_again_does_not_name_the_near_duplicates_of_another_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {}
    for group in ("x", "y"):
        words = [f"{group}{number}" for number in range(120)]
        texts |= {f"{group}{name}": " ".join(words[start : start + 100]) for name, start in ((1, 0), (2, 16), (3, 8))}
    pq.write_table(pa.table({"text": list(texts.values()), "id": list(texts)}), tmp_path / "a.parquet")
    flags = ["--output-dir", str(tmp_path / "data"), "--skip", "filters", "--skip", "scrub"]
    assert main(["preprocess", "--dataset", f"{tmp_path / 'a.parquet'}:train:text", *flags]) == 0
    _, of_x2, _, of_y2 = hashes_of(tmp_path / "data")
    for name, document in (("x2", of_x2), ("y2", of_y2)):
        made_of(tmp_path / name, "tokens", tmp_path / "data", documents=[document])
    assert apply(tmp_path, [{"kind": "record", "value": "x1"}, {"kind": "record", "value": "y1"}]) == 0
    (tmp_path / "y.jsonl").write_text('{"kind": "record", "value": "y1"}\n')
    capsys.readouterr()
    command = [str(tmp_path / "y.jsonl"), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    assert main(["takedown", "plan", *command]) == 0
    plan = capsys.readouterr().out
    assert f"tokens {tmp_path / 'y2'} " in plan
    assert f"tokens {tmp_path / 'x2'} " not in plan


def test_a_takedown_given_again_names_what_holds_the_near_duplicates_that_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"word{number}" for number in range(120)]
    texts = {name: " ".join(words[start : start + 100]) for name, start in (("a", 0), ("c", 16), ("b", 8))}
    pq.write_table(pa.table({"text": list(texts.values()), "id": list(texts)}), tmp_path / "a.parquet")
    flags = ["--output-dir", str(tmp_path / "data"), "--skip", "filters", "--skip", "scrub"]
    assert main(["preprocess", "--dataset", f"{tmp_path / 'a.parquet'}:train:text", *flags]) == 0
    of_a, of_c = hashes_of(tmp_path / "data")  # b, which is like both, links them
    made_of(tmp_path / "of-c", "tokens", tmp_path / "data", documents=[of_c])
    made_of(tmp_path / "of-a", "tokens", tmp_path / "data", documents=[of_a])
    requests = [{"kind": "record", "value": "a"}]
    assert apply(tmp_path, requests) == 0
    capsys.readouterr()
    command = [str(tmp_path / "requests.jsonl"), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    assert main(["takedown", "plan", *command]) == 0
    told = capsys.readouterr().out
    assert f"tokens {tmp_path / 'of-a'} " in told
    assert f"tokens {tmp_path / 'of-c'} " in told


def test_what_cannot_be_done_is_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(source, tmp_path / "data")
    requests = [{"kind": "record", "value": "d1"}]
    assert apply(tmp_path, []) == 2
    assert apply(tmp_path, requests, "data", "../" + tmp_path.name + "/data") == 2
    assert apply(tmp_path, [{"kind": "record", "value": "\ud800"}]) == 2
    (tmp_path / "five.yaml").write_text("5")
    assert main(["takedown", "plan", str(tmp_path / "five.yaml"), "--dataset", str(tmp_path / "data")]) == 2
    told = capsys.readouterr().err
    for words in ("contains no requests", "given twice", "not valid Unicode", "not a list of requests"):
        assert words in told
    assert "Traceback" not in told


def test_requests_are_read_generously() -> None:
    matcher = Matcher([Request("url", "https://example.org/blog"), Request("repo", "a/b")])
    fields = dict.fromkeys(("record", "repo", "path", "url", "raw_sha256", "sha256", "swhid"))
    for url in ("https://example.org/blog?page=2", "http://www.example.org/blog#top", "https://example.org/blog/x?y"):
        assert matcher.find(fields | {"url": url})
    for url in ("https://example.org/blogs", "https://example.org/", "https://example.com/blog"):
        assert not matcher.find(fields | {"url": url})


def test_blanks_around_a_value_do_not_count(tmp_path: Path) -> None:
    path = requests_file(tmp_path, [{"kind": "repo", "value": " a/b "}])
    assert load_requests([path]) == [Request("repo", "a/b")]


@pytest.mark.parametrize(
    ("kind", "spelled", "meant"),
    [
        ("repo", "https://github.com/octo/cat", "octo/cat"),
        ("repo", "octo/cat.git/", "octo/cat.git"),
        ("repo", "github.com/octo/cat.git", "octo/cat"),
        ("owner", "@octo", "octo"),
        ("path", "/src/a.py", "src/a.py"),
        ("sha256", "sha256:abc", "abc"),
        ("swhid", "swh:1:cnt:94a9;origin=x", "swh:1:cnt:94a9"),
    ],
)
def test_values_are_read_as_people_write_them(kind: str, spelled: str, meant: str, tmp_path: Path) -> None:
    path = requests_file(tmp_path, [{"kind": kind, "value": spelled}])
    assert load_requests([path])[0].value.removesuffix(".git") == meant.removesuffix(".git")


def test_a_later_request_by_noun_outweighs_an_earlier_one_by_text(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    requests = [{"kind": "text", "value": TEXTS[44][:400]}, {"kind": "record", "value": "d44"}]
    for number, request in enumerate(requests):
        assert apply(tmp_path, [request], name=f"{number}.jsonl") == 0
    asked = run(source, tmp_path / "asked", requests_file(tmp_path, requests))
    assert artifacts.load(tmp_path / "data").digest == asked.digest


def test_what_was_removed_does_not_come_back_by_a_new_run(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "data")
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}]) == 0
    after = artifacts.load(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"honors 1 removal request .*record d1"):
        run(source, tmp_path / "data")
    assert artifacts.verify(tmp_path / "data").digest == after.digest
    flags = ["--dataset", f"{source}:train:text", "--output-dir", str(tmp_path / "more")]
    assert main(["preprocess", *flags, "--dedup.against", str(tmp_path / "data")]) == 2
    assert run(source, tmp_path / "data", tmp_path / "requests.jsonl").digest == after.digest


def test_a_document_is_traced_where_nothing_was_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": PLAIN, "id": "r1"}) + "\n")
    run(tmp_path / "one.jsonl", tmp_path / "data")
    assert main(["trace", "r1", "--artifacts", str(tmp_path)]) == 0
    assert "row 0: record r1" in capsys.readouterr().out
    assert main(["trace", "r2", "--artifacts", str(tmp_path)]) == 1
    assert "in none of" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["shard-00000.parquet", "dropped-00000.parquet"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted"])
def test_a_trace_does_not_look_into_what_is_damaged(
    name: str, damage: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(source, tmp_path / "data").path / "a" / "train" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "deleted":
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["trace", "d1", "--artifacts", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert err.count("\n") == 1


def test_a_trace_does_not_trust_an_edited_manifest(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = run(source, tmp_path / "data").path / artifacts.MANIFEST
    manifest.write_text(manifest.read_text().replace('"kept": ', '"kept": 1'))
    assert main(["trace", "d1", "--artifacts", str(tmp_path)]) == 2
    assert "it was edited" in capsys.readouterr().err


def test_what_could_not_be_read_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"text": PLAIN}) + "\n{broken\n")
    (folder / "b.py").write_bytes(b"x = '\xff'\n")
    (folder / "c.parquet").write_bytes(b"PAR1 and no more")
    run(folder, tmp_path / "data")
    for target, said in [
        ("a.jsonl:2", "a.jsonl:2 was quarantined: not JSON"),
        ("a.jsonl", "a.jsonl:2 was quarantined: not JSON"),
        ("b.py", "b.py:1 was quarantined: not UTF-8"),
        ("c.parquet", "c.parquet was quarantined: "),
        ("c.parquet:3", "c.parquet was quarantined: "),
    ]:
        assert main(["trace", target, "--artifacts", str(tmp_path)]) == 0
        assert said in capsys.readouterr().out
    assert main(["trace", "a.jsonl:1", "--artifacts", str(tmp_path)]) == 0
    assert " was quarantined" not in capsys.readouterr().out


def test_takedown_says_which_blends_still_hold_the_documents(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(source, tmp_path / "data")
    blend = ["--datasets.a.path", str(tmp_path / "data"), "--shares.code", "1", "--output-dir", str(tmp_path / "b")]
    assert main(["blend", *blend]) == 0
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}]) == 0
    assert f"make them again: {tmp_path / 'b'}" in capsys.readouterr().out
    verify = ["takedown", "verify", str(tmp_path / "requests.jsonl"), "--dataset", str(tmp_path / "data")]
    assert main([*verify, "--artifacts", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"make them again: {tmp_path / 'b'}" in said.out
    assert not said.err
    assert main([*verify, "--artifacts", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    assert certificate(tmp_path)["searched"] == [str(tmp_path)]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"kind": "dataset", "digest": "sha256:0"}')
    assert main(["blend", *blend]) == 0
    assert main(["trace", "d1", "--artifacts", str(tmp_path)]) == 0
    assert f"dataset {tmp_path / 'b'}" not in capsys.readouterr().out.replace("not in it", "")


def trained_on(path: Path, kind: str = "checkpoint", **parents: Path) -> Path:
    """Stand for a training that names its parents by their roles."""
    inputs = [artifacts.load(parent).as_input(role, of=path) for role, parent in parents.items()]
    with artifacts.create(path, kind=kind, config={}, inputs=inputs) as draft:
        (draft.path / "content").write_text(path.name)
    return path


def tuned_from_base(folder: Path, tuning: Path, data: Path) -> None:
    """base <- SFT <- reward model and DPO with it as reference; a checkpoint apart, and one whose tokenizer saw all."""
    made_of(folder / "base" / "tokens", "tokens", data, documents=hashes_of(data))
    words = trained_on(folder / "base" / "words", "tokenizer", dataset=data)
    base = trained_on(folder / "base" / "step", tokens=folder / "base" / "tokens", tokenizer=words)
    sft = trained_on(folder / "tuned" / "sft", data=tuning, initial=base, tokenizer=words)
    reward = trained_on(folder / "tuned" / "reward", "reward model", data=tuning, initial=sft, tokenizer=words)
    trained_on(folder / "tuned" / "dpo", initial=sft, reference=sft, reward=reward, tokenizer=words)
    trained_on(folder / "tuned" / "apart", data=tuning, tokenizer=words)


@pytest.mark.parametrize("searched", ["everything", "what was tuned"])
def test_a_document_of_an_ancestor_is_followed_to_every_checkpoint_that_was_tuned_from_it(
    searched: str, source: Path, tmp_path: Path
) -> None:
    data = run(source, tmp_path / "data").path
    (tmp_path / "chats.jsonl").write_text(json.dumps({"id": "c0", "text": PLAIN}) + "\n")
    tuning = run(tmp_path / "chats.jsonl", tmp_path / "chats").path
    tuned_from_base(tmp_path, tuning, data)
    root = tmp_path if searched == "everything" else tmp_path / "tuned"
    seen = {}
    for dataset, record in ((data, "d1"), (tuning, "c0")):
        requests = requests_file(tmp_path, [{"kind": "record", "value": record}])
        plans = make_plans([dataset], requests, load_requests([requests]), [root], Engine(EngineConfig()))
        seen[record] = {use.artifact.path.name: use.state for use in plans[0].uses if use.artifact.kind != "tokenizer"}
    chain = {"sft": "saw", "reward": "saw", "dpo": "saw"}
    assert {"step": "saw", "tokens": "holds", **chain} == seen["d1"]
    assert seen["c0"] == {**chain, "apart": "saw"}
    shutil.rmtree(tmp_path / "base" / "step")
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    plans = make_plans([data], requests, load_requests([requests]), [root], Engine(EngineConfig()))
    states = {use.artifact.path.name: use.state for use in plans[0].uses}
    assert dict.fromkeys(chain, "may have seen").items() <= states.items()
    assert "apart" not in states


def caches_of(folder: Path, source: Path) -> None:
    """Tokens and an index of all documents, tokens of the last one alone, and a checkpoint."""
    run(source, folder / "data")
    documents = hashes_of(folder / "data")
    made_of(folder / "tokens", "tokens", folder / "data", documents=documents)
    made_of(folder / "other", "tokens", folder / "data", documents=documents[-1:])
    made_of(folder / "index", "attribution-index", folder / "tokens", documents=documents)
    made_of(folder / "step-1", "checkpoint", folder / "tokens")


def test_tokens_and_indexes_that_still_hold_removed_documents_stand_on_the_screen(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches_of(tmp_path, source)
    assert apply(tmp_path, [{"kind": "record", "value": "d1"}]) == 0
    said = capsys.readouterr().out
    assert f"run ibidem tokenize again or delete them with --caches: {tmp_path / 'tokens'};" in said
    assert f"run ibidem attribute build again or delete them with --caches: {tmp_path / 'index'};" in said
    assert "1 artifact keeps what they learned" in said


def test_caches_that_hold_removed_documents_are_deleted_if_asked(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches_of(tmp_path, source)
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    command = [str(requests), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    assert main(["takedown", "apply", *command, "--caches"]) == 0
    said = capsys.readouterr().out
    assert "2 caches deleted" in said
    assert "still" not in said.split("certificate:")[0]
    left = {path.parent.name for path in tmp_path.glob("*/manifest.json")}
    assert left == {"data", "other", "step-1"}


def test_caches_elsewhere_are_named_and_not_deleted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches_of(tmp_path, source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made_of(elsewhere / "step-2", "checkpoint", tmp_path / "tokens")
    requests = requests_file(tmp_path, [{"kind": "record", "value": "d1"}])
    command = [str(requests), "--dataset", str(tmp_path / "data"), "--artifacts", str(elsewhere)]
    assert main(["takedown", "apply", *command, "--caches"]) == 0
    assert f"delete them with --caches: {tmp_path / 'tokens'}" in capsys.readouterr().out
    assert (tmp_path / "tokens" / "manifest.json").exists()
