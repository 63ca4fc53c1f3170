"""Tokenizing, shard by shard: what is finished stays, what changed is made again, and nobody trains on other tokens."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests import ray_cluster
from tests.ray_cluster import cluster

from ibidem import artifacts, log
from ibidem.cli import main
from ibidem.config import build
from ibidem.data import shards
from ibidem.data.provenance.exposure import uses
from ibidem.data.provenance.takedown import TakedownConfig, apply_command
from ibidem.errors import ArtifactError, DataError, IbidemError
from ibidem.runs import folder_of
from ibidem.training import prepared, token_shards, tokenize
from ibidem.training.config import TrainConfig
from ibidem.training.tokenize import TokenizeConfig, tokenized
from ibidem.training.tokens import Windows
from ibidem.training.train import train

Settings = dict[str, Any]
SHARE = 0.1


def made(dataset: Path, tokenizer: Path, output_dir: Path, **settings: Any) -> artifacts.Artifact:
    settings = {"held_out_share": SHARE, "workers": 1} | settings
    tokenize.tokenize(TokenizeConfig(dataset=dataset, tokenizer=tokenizer, output_dir=output_dir, **settings))
    return artifacts.verify(output_dir, kind="tokens")


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> Path:
    """A dataset that a test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "data"))


@pytest.fixture(scope="module")
def tokens(dataset: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> artifacts.Artifact:
    return made(dataset, tokenizer_dir, tmp_path_factory.mktemp("tokenized") / "tokens")


def test_the_tokens_are_the_same_for_any_number_of_processes(
    dataset: Path, tokenizer_dir: Path, tokens: artifacts.Artifact, tmp_path: Path
) -> None:
    assert made(dataset, tokenizer_dir, tmp_path / "tokens", workers=2).digest == tokens.digest
    assert tokens.counts["shards"] == 3
    assert tokens.counts["documents"] == artifacts.load(dataset).counts["kept"]


@pytest.mark.slow
def test_two_raylets_of_a_cluster_make_the_same_tokens(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    expected = made(data, tokenizer_dir, tmp_path / "here", workers=2)
    script = (
        "import sys; from tests.ray_cluster import node; from ibidem.data.engine import Engine, EngineConfig\n"
        "engine = Engine(EngineConfig(runner='ray', ray_address=sys.argv[1]))\n"
        "print(len(set(engine.map(node, range(12), processes=True))))"
    )
    words = ["--dataset", str(data), "--tokenizer", str(tokenizer_dir), "--output-dir", str(tmp_path / "there")]
    with cluster(raylets=2, cores=1) as found:
        nodes = ray_cluster.run(["-c", script, found.address])
        more = ["--held-out-share", str(SHARE), "--runner", "ray", "--ray-address", found.address]
        ray_cluster.run(["-m", "ibidem", "tokenize", *words, *more])
    assert nodes.strip() == "2"
    there = artifacts.verify(tmp_path / "there", kind="tokens")
    assert there.digest == expected.digest
    for name in expected.files:
        assert (there.path / name).read_bytes() == (expected.path / name).read_bytes()


def test_windows_run_across_shards_of_any_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(1, 1000, size=size).astype(np.uint16) for size in (7, 0, 1, 40, 0, 0, 3, 29, 0)]
    with artifacts.create(
        tmp_path / "tokens", kind="tokens", config={"document_id": 5, "dtype": "uint16", "held_out_share": 0.1}
    ) as draft:
        for number, part in enumerate(parts):
            (folder := draft.path / f"d/train/shard-{number:05d}").mkdir(parents=True)
            part.tofile(folder / "train.bin")
    whole = [*np.concatenate(parts).tolist(), 5]
    tokens = artifacts.load(tmp_path / "tokens")
    for context in range(1, len(whole)):
        windows = Windows(tokens, "train", context)
        assert windows.number == (len(whole) - 1) // context
        for index in range(windows.number):
            assert windows[index].tolist() == whole[index * context : (index + 1) * context + 1]
    with pytest.raises(DataError, match="less than one window"):
        Windows(tokens, "train", len(whole))


def test_as_many_shards_as_there_are_need_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibidem.training.tokens.MOST_OPEN", 4)
    with artifacts.create(tmp_path / "tokens", kind="tokens", config={"document_id": 0, "dtype": "uint16"}) as draft:
        for number in range(40):
            (folder := draft.path / f"d/train/shard-{number:05d}").mkdir(parents=True)
            np.full(4, number, np.uint16).tofile(folder / "train.bin")
    windows = Windows(artifacts.load(tmp_path / "tokens"), "train", 4)
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(40), 3, 39, 3]:
        assert windows[index].tolist()[:4] == [index] * 4
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    del windows
    assert len(os.listdir("/proc/self/fd")) < before


def test_a_killed_run_goes_on_with_the_shards_that_are_finished(
    dataset: Path, tokenizer_dir: Path, tokens: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    usual = token_shards._tokenized

    def killed_in_the_last_one(job: Any, name: str, *rest: Any) -> Any:
        asked.append(name)
        result = usual(job, name, *rest)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(token_shards, "_tokenized", killed_in_the_last_one)
    with pytest.raises(KeyboardInterrupt):
        made(dataset, tokenizer_dir, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    assert made(dataset, tokenizer_dir, tmp_path / "tokens").digest == tokens.digest
    assert asked == [*(names := shards.shard_names(artifacts.load(dataset))), names[-1]]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_two_runs_at_once_do_not_disturb_each_other(
    dataset: Path, tokenizer_dir: Path, tokens: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, inside = token_shards._tokenized, []

    def interrupted(job: Any, name: str, *rest: Any) -> Any:
        result = usual(job, name, *rest)
        if not inside:
            inside.append(name)
            meanwhile()
        return result

    def refused() -> None:
        with pytest.raises(ArtifactError, match="another process is writing there; wait for it"):
            made(dataset, tokenizer_dir, tmp_path / "tokens")

    monkeypatch.setattr(token_shards, "_tokenized", interrupted)
    meanwhile: Callable[[], Any] = refused
    assert made(dataset, tokenizer_dir, tmp_path / "tokens").digest == tokens.digest

    # a file system that does not show one node the other's lock: the second run finishes within the first one
    monkeypatch.setattr("ibidem.artifacts.fcntl.flock", lambda *_: None)
    shutil.rmtree(tmp_path / "tokens")
    inside.clear()

    def finishes() -> None:
        assert made(dataset, tokenizer_dir, tmp_path / "tokens").digest == tokens.digest

    meanwhile = finishes
    assert made(dataset, tokenizer_dir, tmp_path / "tokens").digest == tokens.digest
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def removed_from(data: Path, tmp_path: Path) -> dict[str, Any]:
    """Remove a document of the second shard; return its row."""
    row = pq.read_table(sorted(data.rglob("shard-*.parquet"))[1]).to_pylist()[0]
    (tmp_path / "requests.jsonl").write_text(json.dumps({"kind": "sha256", "value": row["sha256"]}) + "\n")
    config = TakedownConfig(requests=tmp_path / "requests.jsonl", dataset=(data,), artifacts=(tmp_path,))
    assert "1 document removed" in apply_command(config)
    return row


def files_of(tokens: artifacts.Artifact, shard: str) -> dict[str, tuple[bytes, int]]:
    paths = sorted((tokens.path / shard).iterdir())
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in paths}


def test_after_a_takedown_only_the_tokens_of_its_shard_are_made_again(
    data: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = made(data, tokenizer_dir, tmp_path / "tokens")
    names = [token_shards.folder_of(name) for name in shards.shard_names(artifacts.load(data))]
    before = [files_of(tokens, name) for name in names]
    row = removed_from(data, tmp_path)
    (use,) = [use for use in uses([tmp_path], [row["sha256"]]) if use.artifact.kind == "tokens"]
    (span,) = use.spans
    assert (use.artifact.path, span["shard"], use.state) == (tokens.path, names[1], "holds")

    asked = []
    usual = token_shards._tokenized

    def noted(job: Any, name: str, *rest: Any) -> Any:
        asked.append(name)
        return usual(job, name, *rest)

    monkeypatch.setattr(token_shards, "_tokenized", noted)
    again = made(data, tokenizer_dir, tmp_path / "tokens")
    after = [files_of(again, name) for name in names]
    assert [token_shards.folder_of(name) for name in asked] == [names[1]]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert row["sha256"] not in pq.read_table(again.path / names[1] / "documents.parquet")["sha256"].to_pylist()
    assert not [use for use in uses([tmp_path], [row["sha256"]]) if use.artifact.kind == "tokens"]
    assert made(data, tokenizer_dir, tmp_path / "anew").digest == again.digest


def test_a_training_takes_over_what_its_cache_has_of_other_states_of_the_dataset(
    data: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    tokenize.tokenized(data, tokenizer_dir, cache, held_out_share=SHARE)
    removed_from(data, tmp_path)
    with log.recording(tmp_path / "events.jsonl"):
        again, _ = tokenize.tokenized(data, tokenizer_dir, cache, held_out_share=SHARE)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["shards"] for event in events if event["event"] == "tokens.taken_over"] == [2]
    assert len(list(cache.iterdir())) == 2
    assert made(data, tokenizer_dir, tmp_path / "anew").digest == again.digest


def test_damaged_tokens_are_not_taken_over(data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    tokens = made(data, tokenizer_dir, tmp_path / "tokens")
    (path := min(tokens.path.rglob("train.bin"))).write_bytes(bytes(path.stat().st_size))
    removed_from(data, tmp_path)
    assert made(data, tokenizer_dir, tmp_path / "tokens").digest == made(data, tokenizer_dir, tmp_path / "new").digest


def test_training_on_tokens_is_training_on_their_dataset(
    train_settings: Settings, tokens: artifacts.Artifact, tmp_path: Path
) -> None:
    train_settings["training"] |= {"steps": 3}
    train(build(TrainConfig, train_settings))
    settings = train_settings | {"output_dir": tmp_path / "other"}
    given = settings["data"] | {"tokens": tokens.path}
    settings["data"] = {key: value for key, value in given.items() if key not in ("dataset", "held_out_share")}
    train(build(TrainConfig, settings))
    last = [folder_of(tmp_path / run, 3) for run in ("run", "other")]
    assert len({(path / "model.safetensors").read_bytes() for path in last}) == 1
    assert not (tmp_path / "other" / "tokens").exists()
    assert artifacts.load(last[1]).digest_of("tokens") == tokens.digest == artifacts.load(last[0]).digest_of("tokens")


def command(*given: Any, **flags: Any) -> list[str]:
    """Return the arguments of a command line: `data__tokens=DIR` is `--data.tokens DIR`."""
    named = [(f"--{name.replace('__', '.').replace('_', '-')}", str(value)) for name, value in flags.items()]
    return [*map(str, given), *(part for pair in named for part in pair)]


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that fails; return its one line."""
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ibidem: ")]
    return line


def test_a_folder_of_something_else_is_not_written_to(
    data: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"dataset": data, "tokenizer": tokenizer_dir}
    made(data, tokenizer_dir, tmp_path / "tokens")
    other = Path(shutil.copytree(data, tmp_path / "other"))
    removed_from(other, tmp_path)
    line = said(capsys, command("tokenize", **given | {"dataset": other}, output_dir=tmp_path / "tokens"))
    assert f"it has the tokens of another dataset, {data}; choose another folder, or delete it" in line
    assert "is a dataset" in said(capsys, command("tokenize", **given, output_dir=other))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("Do not lose this.")
    assert "is not tokens" in said(capsys, command("tokenize", **given, output_dir=tmp_path / "notes"))
    assert (tmp_path / "notes" / "todo.txt").exists()
    assert "expected a dataset" in said(
        capsys, command("tokenize", dataset=tokenizer_dir, tokenizer=tokenizer_dir, output_dir=tmp_path / "t")
    )


def test_a_dataset_without_documents_is_refused(
    data: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.jsonl").write_text('{"kind": "path", "value": "*"}\n')
    everything = {"requests": tmp_path / "all.jsonl", "dataset": (data,), "artifacts": (tmp_path,), "everything": True}
    apply_command(TakedownConfig(**everything))
    line = said(capsys, command("tokenize", dataset=data, tokenizer=tokenizer_dir, output_dir=tmp_path / "tokens"))
    assert f"{data}: the dataset has no documents" in line


@pytest.mark.parametrize("moment", ["before", "meanwhile", "gone"])
def test_a_shard_that_is_not_the_manifests_is_refused(
    moment: str, data: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sorted(data.rglob("shard-*.parquet"))[2]

    def change() -> None:
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    usual = shards.read_batches

    def changed_then_read(*args: Any) -> Any:
        batches = list(usual(*args))
        if args[0] == path:
            change()
        return batches

    if moment == "meanwhile":
        monkeypatch.setattr(shards, "read_batches", changed_then_read)
    elif moment == "before":
        change()
    else:
        path.unlink()
    words = {"before": "not what the manifest says", "meanwhile": "changed while it was tokenized", "gone": "missing"}
    with pytest.raises(DataError, match=f"{path.name}: {words[moment]}"):
        made(data, tokenizer_dir, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_tokens_that_do_not_fit_a_training_are_refused(
    train_settings: Settings, data: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = made(data, tokenizer_dir, tmp_path / "tokens")
    with artifacts.create(tmp_path / "words", kind="tokenizer", config={"other": True}) as draft:
        shutil.copytree(tokenizer_dir, draft.path, dirs_exist_ok=True)
        (draft.path / artifacts.MANIFEST).unlink()
    other = Path(shutil.copytree(data, tmp_path / "other"))
    removed_from(other, tmp_path)

    def refused(**flags: Any) -> str:
        given = {"data__tokens": tokens.path, "data__tokenizer": tokenizer_dir, "output_dir": tmp_path / "run"} | flags
        sizes = {"training__steps": 1, "training__batch_sequences": 1}
        return said(capsys, command("train", model=train_settings["model"], **sizes, **given))

    assert "made with another tokenizer than data.tokenizer" in refused(data__tokenizer=tmp_path / "words")
    assert "made from another dataset than data.dataset" in refused(data__dataset=other)
    assert "hold out 0.1; leave it out" in refused(data__held_out_share=0.2)
    assert "this is a dataset; expected tokens" in refused(data__tokens=data)
    path = sorted(tokens.path.rglob("train.bin"))[1]
    path.write_bytes(bytes(path.stat().st_size))
    assert f"{path}: damaged" in refused()
    given = {"data__tokenizer": tokenizer_dir, "output_dir": tmp_path / "run", "training__steps": 1}
    line = said(capsys, command("train", model=train_settings["model"], training__batch_sequences=1, **given))
    assert "give a dataset, or its tokens" in line


@pytest.mark.parametrize("change", ["shorter", "replaced", "gone"])
def test_tokens_that_change_while_they_are_trained_on_are_not_read(
    change: str, tokens: artifacts.Artifact, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tokens.path, tmp_path / "tokens"))
    windows = Windows(artifacts.load(copy), "train", 32)
    windows[0]
    if change == "shorter":
        path = max(copy.rglob("train.bin"))
        path.write_bytes(path.read_bytes()[:10])
    elif change == "gone":
        shutil.rmtree(copy)
    else:
        config = dict(tokens.config)
        with artifacts.create(copy, kind="tokens", config=config) as draft:
            for name in tokens.files:
                (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                (draft.path / name).write_bytes(bytes(tokens.files[name].bytes))
    with pytest.raises(DataError, match="the tokens changed while they were trained on"):
        windows[windows.number - 1]


class Ranks:
    """Processes of some nodes, as threads, with the collective calls of accelerate."""

    def __init__(self, nodes: int, per_node: int) -> None:
        self.per_node, self.number = per_node, nodes * per_node
        self.meeting = threading.Barrier(self.number, timeout=30)
        self.here = threading.local()
        self.given: dict[int, Any] = {}

    def exchanged(self, value: Any) -> list[Any]:
        self.given[self.here.rank] = value
        self.meeting.wait()
        everything = [self.given[rank] for rank in range(self.number)]
        self.meeting.wait()
        return everything

    def run(self, work: Callable[["Ranks"], Any]) -> list[Any]:
        results: dict[int, Any] = {}

        def in_thread(rank: int) -> None:
            self.here.rank = rank
            try:
                results[rank] = work(self)
            except IbidemError as error:
                results[rank] = error

        threads = [threading.Thread(target=in_thread, args=[rank]) for rank in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[rank] for rank in range(self.number)]

    @property
    def num_processes(self) -> int:
        return self.number

    @property
    def is_main_process(self) -> bool:
        return bool(self.here.rank == 0)

    @property
    def is_local_main_process(self) -> bool:
        return bool(self.here.rank % self.per_node == 0)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    ranks = Ranks(nodes=3, per_node=2)

    def broadcast(said: list[Any], **_: object) -> None:
        said[0] = ranks.exchanged(said[0])[0]

    def gather(answers: list[Any], answer: Any, _: object) -> None:
        answers[:] = ranks.exchanged(answer)

    exchanges = SimpleNamespace(broadcast_object_list=broadcast, all_gather_object=gather)
    monkeypatch.setattr(prepared, "dist", exchanges)
    monkeypatch.setattr(prepared, "host_group", lambda *_: "sockets")
    return ranks


@pytest.mark.parametrize(("is_shared", "who"), [(True, [0]), (False, [0, 2, 4])])
def test_tokens_are_verified_once_on_each_storage(
    is_shared: bool,
    who: list[int],
    ranks: Ranks,
    tokens: artifacts.Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(tokens.path, tmp_path / "tokens"))
    asked = []

    def make() -> artifacts.Artifact:
        asked.append(ranks.here.rank)
        return artifacts.verify(copy)

    if not is_shared:
        monkeypatch.setattr(Path, "touch", lambda _: (_ for _ in ()).throw(OSError("read-only")))
    found = ranks.run(lambda each: prepared.once_on_each_storage(each, make))
    assert {each.digest for each in found} == {tokens.digest}
    assert sorted(asked) == who
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


@pytest.mark.parametrize("node", [0, 1])
def test_all_processes_end_if_the_tokens_of_one_node_are_damaged_or_others(
    node: int, ranks: Ranks, tokens: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda _: (_ for _ in ()).throw(OSError("read-only")))

    def make() -> artifacts.Artifact:
        if ranks.here.rank == 2 * node:
            raise ArtifactError("damaged")
        return tokens

    assert [str(each) for each in ranks.run(lambda each: prepared.once_on_each_storage(each, make))] == ["damaged"] * 6


def test_a_node_with_other_tokens_is_named(
    ranks: Ranks, tokens: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda _: (_ for _ in ()).throw(OSError("read-only")))
    with artifacts.create(tmp_path / "tokens", kind="tokens", config={}):
        pass
    other = artifacts.load(tmp_path / "tokens")

    def make() -> artifacts.Artifact:
        return other if ranks.here.rank == 4 else tokens

    found = ranks.run(lambda each: prepared.once_on_each_storage(each, make))
    assert all("on this node, but" in str(each) for each in found)


def test_the_command_says_what_it_would_do_and_what_it_did(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command("tokenize", dataset=dataset, tokenizer=tokenizer_dir, output_dir=tmp_path / "tokens")
    kept = artifacts.load(dataset).counts["kept"]
    assert main([*arguments, "--dry-run"]) == 0
    assert f"tokens  3 shards, {kept} documents" in capsys.readouterr().out
    assert not (tmp_path / "tokens").exists()
    assert main(arguments) == 0
    assert f"{kept} documents in 3 shards; " in capsys.readouterr().out
    tokens = artifacts.load(tmp_path / "tokens")
    rows = pq.read_table(tokens.path / "shards.parquet").to_pylist()
    assert [row["shard"] for row in rows] == shards.shard_names(artifacts.load(dataset))
    assert sum(row["tokens"]["train"] for row in rows) == tokens.counts["tokens"]["train"]


def test_shards_are_copied_where_no_links_are_permitted(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    linked, _ = tokenized(dataset, tokenizer_dir, tmp_path / "one", held_out_share=0.1)
    monkeypatch.setattr(os, "link", refuse)
    copied, _ = tokenized(dataset, tokenizer_dir, tmp_path / "two", held_out_share=0.1)
    assert copied.digest == linked.digest
