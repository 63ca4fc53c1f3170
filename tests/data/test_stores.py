"""Datasets at a store: the same bytes as here, whole or not there, and one line for what goes wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from itertools import groupby
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.conftest import python_file
from tests.data.left_out import quarantined
from tests.data.stores import DIES_AT, put, put_folder, remove
from tests.data.test_preprocess import rows

from ibidem import artifacts, cli, delivery, lineage, places, readers
from ibidem.config import build, parse
from ibidem.data import blend as blend_stage
from ibidem.data import shards
from ibidem.data.blend import BlendConfig, Ingredient, blend
from ibidem.data.corpus import Corpus
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.provenance import exposure
from ibidem.data.provenance.takedown import TakedownConfig
from ibidem.data.sources.git import Clones
from ibidem.data.sources.open import open_source
from ibidem.data.sources.spec import Spec
from ibidem.data.text import language
from ibidem.errors import AccessDenied, ArtifactError, ConfigError, StoreError
from ibidem.places import StorePath
from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from ibidem.training.tokenize import TokenizeConfig, tokenize


@pytest.fixture
def memory() -> Iterator[StorePath]:
    """A folder of a store in memory."""
    files = fsspec.filesystem("memory")
    yield StorePath("memory://bucket/team")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, memory: StorePath) -> StorePath:
    """A folder of each kind of store that is here."""
    return StorePath(f"file://{tmp_path}/store") if request.param == "file" else memory


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that a stray one is seen."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a license, a clone's .git, data files of each kind, and what is not read."""
    folder = tmp_path_factory.mktemp("corpus") / "project"
    for seed in range(30):
        path = folder / f"pkg{seed % 3}" / f"module_{seed}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(python_file(seed))
    (folder / "LICENSE").write_text("The MIT License (MIT)\n")
    (folder / "package.json").write_text('{"name": "x", "license": "MIT"}')
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / ".git" / "config").write_text('[remote "origin"]\n\turl = https://github.com/team/project.git\n')
    (folder / ".git" / "refs" / "heads").mkdir(parents=True)
    (folder / ".git" / "refs" / "heads" / "main").write_text("a" * 40 + "\n")
    (folder / "logo.png").write_bytes(b"\x89PNG\0")
    row = {"text": "A line of a text that is long enough.", "license": "MIT"}
    lines = [json.dumps(row | {"text": f"{number}: {row['text']}"}) for number in range(9)]
    (folder / "notes.jsonl").write_text("\n".join(lines) + "\nnot JSON\n")
    (folder / "empty.py").write_text("")
    return folder


def made(source: Path, output: Path, **changes: Any) -> artifacts.Artifact:
    settings: dict[str, Any] = {"shard_size": 8, "workers": 1} | changes
    preprocess(PreprocessConfig(dataset=(f"{source}:train:text",), output_dir=output, **settings))
    return artifacts.verify(output, kind=shards.KIND)


@pytest.fixture(scope="module")
def here(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> artifacts.Artifact:
    """The corpus, preprocessed on this machine."""
    dataset = made(corpus, tmp_path_factory.mktemp("here") / "out")
    assert dataset.counts["kept"] == 39
    assert dataset.counts["quarantined"] == 1
    return dataset


def test_what_is_delivered_to_a_store_is_what_is_made_here(
    store: StorePath, corpus: Path, here: artifacts.Artifact
) -> None:
    there = made(corpus, store / "out")
    assert (there.digest, there.files) == (here.digest, here.files)
    assert sorted((store / "out").listing()) == sorted([*here.files, "manifest.json"])
    assert not list(Path.cwd().iterdir())


def test_what_is_read_from_a_store_is_what_is_read_here_but_for_the_name_of_the_source(
    store: StorePath, corpus: Path, here: artifacts.Artifact, tmp_path: Path
) -> None:
    put_folder(corpus, store / "project")
    there = made(store / "project", tmp_path / "out")
    without = [{name: value for name, value in row.items() if name != "source"} for row in rows(here.path)]
    assert [{name: value for name, value in row.items() if name != "source"} for row in rows(there.path)] == without
    assert {row["source"] for row in rows(there.path)} == {str(store / "project")}
    assert {row["repo"] for row in rows(there.path)} == {"team/project"}
    ours, theirs = deepcopy(dict(here.counts)), deepcopy(dict(there.counts))
    assert ours.pop("source") == {str(corpus): there.counts["kept"]}
    assert theirs.pop("source") == {str(store / "project"): there.counts["kept"]}
    for counts, source in ((ours, str(corpus)), (theirs, str(store / "project"))):
        assert {clone.pop("source") for clone in counts["clones"]} == {source}
    assert theirs == ours
    assert quarantined(there.path) == quarantined(here.path)


def test_the_bytes_do_not_depend_on_workers_and_a_finished_dataset_is_not_made_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StorePath(f"file://{tmp_path}/store")
    put_folder(corpus, store / "project")
    digests = {made(store / "project", store / f"out{workers}", workers=workers).digest for workers in (1, 3)}
    assert len(digests) == 1
    monkeypatch.setattr(delivery, "deliver", lambda *_, **__: pytest.fail("it is made again"))
    made(store / "project", store / "out1", workers=2)


def test_a_run_that_was_killed_leaves_no_artifact_and_the_next_one_the_same_bytes_and_nothing_else(
    corpus: Path, here: artifacts.Artifact, tmp_path: Path
) -> None:
    store = StorePath(f"file://{tmp_path}/store")
    program = (
        "import os, sys; from ibidem import cli, delivery\n"
        "usual, left = delivery._send, [5]\n"
        "def send(*task):\n"
        "    left[0] -= 1\n"
        "    return usual(*task) if left[0] else os._exit(9)\n"
        "delivery._send = send; cli.main(sys.argv[1:])"
    )
    command = ["preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", str(store / "out"), "--workers", "1"]
    killed = subprocess.run([sys.executable, "-c", program, *command, "--shard-size", "4"], check=False)
    assert killed.returncode == 9
    assert len((store / "out").listing()) == 5  # the marker and four parts
    with pytest.raises(ArtifactError, match=r"no artifact there \(manifest\.json is missing\)"):
        artifacts.load(store / "out")
    put(store / "out", "mine.txt", b"x")
    with pytest.raises(ArtifactError, match=r"contains mine\.txt, which is not part of the artifact"):
        made(corpus, store / "out")
    remove(store / "out" / "mine.txt")
    assert made(corpus, store / "out").digest == here.digest  # with larger shards, so that there are fewer
    assert sorted((store / "out").listing()) == sorted([*here.files, "manifest.json"])


def test_a_dataset_made_with_other_settings_is_replaced_and_nothing_of_it_stays(
    memory: StorePath, corpus: Path, here: artifacts.Artifact
) -> None:
    made(corpus, memory / "out", shard_size=2)
    assert made(corpus, memory / "out").digest == here.digest
    assert sorted((memory / "out").listing()) == sorted([*here.files, "manifest.json"])


def test_of_two_runs_that_deliver_to_the_same_place_one_is_refused(memory: StorePath, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "part").write_text("x")
    first = delivery.deliver({}, {"part": tmp_path / "a" / "part"}, memory, kind="dataset", known=(), engine=None)
    second = delivery.deliver({}, {"part": tmp_path / "a" / "part"}, memory, kind="dataset", known=(), engine=None)
    with pytest.raises(StoreError, match="another run writes there"):
        first.seal("manifest.json", "{}")
    put(memory, "manifest.json", b"of a third one")
    with pytest.raises(StoreError, match="another run writes there"):
        second.seal("manifest.json", "{}")
    assert (memory / "manifest.json").read_bytes() == b"of a third one"


def test_a_run_that_delivers_while_another_one_seals_leaves_no_manifest_over_its_parts(
    store: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text(name)
    first, *other = [
        delivery.deliver({}, {"part": tmp_path / "a" / "part"}, store, kind="dataset", known=(), engine=None)
    ]
    usual = delivery._put

    def late(path: StorePath, content: bytes, mode: str = "overwrite") -> None:
        if path.name == "manifest.json" and not other:
            other.append(
                delivery.deliver({}, {"part": tmp_path / "b" / "part"}, store, kind="dataset", known=(), engine=None)
            )
        usual(path, content, mode)

    monkeypatch.setattr(delivery, "_put", late)
    with pytest.raises(StoreError, match="another run writes there"):
        first.seal("manifest.json", "a")
    assert "manifest.json" not in store.listing()
    other[0].seal("manifest.json", "b")
    assert {name: (store / name).read_text() for name in store.listing()} == {"manifest.json": "b", "part": "b"}


@pytest.mark.parametrize("change", ["part", "sealed"])
def test_a_manifest_over_the_parts_of_another_run_is_taken_back_and_that_of_another_run_stays(
    change: str, memory: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "part").write_text("a")
    first = delivery.deliver({}, {"part": tmp_path / "part"}, memory, kind="dataset", known=(), engine=None)
    usual = delivery._put

    def then(path: StorePath, content: bytes, mode: str = "overwrite") -> None:
        usual(path, content, mode)
        put(memory, "part", b"bb")
        if change == "sealed":
            put(memory, "manifest.json", b"b")
            remove(memory / delivery.MARKER)

    monkeypatch.setattr(delivery, "_put", then)
    with pytest.raises(StoreError, match="another run writes there"):
        first.seal("manifest.json", "a")
    left = {"part": delivery.MARKER, "sealed": "manifest.json"}[change]
    assert sorted(memory.listing()) == sorted([left, "part"])


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gcs"), ("abfs", "azure")])
def test_a_missing_package_is_one_line_and_leaves_no_folder(
    protocol: str, extra: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    command = ["preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", f"{protocol}://bucket/out"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{protocol}://bucket/out" in error
    assert f"pip install 'ibidem[{extra}]'" in error
    assert not list(Path.cwd().iterdir())


def test_a_url_where_only_a_local_path_will_do_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"dataset s3://b/d: give a path of this machine; it cannot be at a store"):
        parse(TakedownConfig, ["requests.jsonl", "--dataset", "s3://b/d"])
    with pytest.raises(ConfigError, match=r"dataset S3://b/d: give a path of this machine; it cannot be at a store"):
        parse(TakedownConfig, ["requests.jsonl", "--dataset", "S3://b/d"])
    with pytest.raises(ConfigError, match=r"dedup\.against s3://b/d: "):
        build(PreprocessConfig, {"dataset": ["x:train:text"], "output_dir": "o", "dedup": {"against": "s3://b/d"}})


class GoneError(OSError):
    """What a store says that cannot be reached."""


def test_a_store_that_may_not_be_written_is_told_before_the_work(
    memory: StorePath, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory.place.files), "pipe_file", refuse)
    monkeypatch.setattr("ibidem.data.preprocess._prepare", lambda *_: pytest.fail("it works in vain"))
    with pytest.raises(StoreError, match=r"memory://bucket/team/out/\.probe-\w+: Access Denied"):
        made(corpus, memory / "out")
    assert not list(Path.cwd().iterdir())


def test_a_store_that_vanishes_while_it_is_read_is_an_error_and_not_a_damaged_file(
    memory: StorePath, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_folder(corpus, memory / "project")
    usual = places._Reading.readinto

    def fails(reading: places._Reading, buffer: Any) -> int:
        if reading._path.name == "notes.jsonl" and reading.tell() > 0:
            with places.explained(reading._path):
                raise GoneError("connection refused")
        return usual(reading, memoryview(buffer)[:100])

    monkeypatch.setattr(places._Reading, "readinto", fails)
    with pytest.raises(StoreError, match=r"notes\.jsonl: connection refused"):
        made(memory / "project", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["written", "deleted"])
def test_a_file_that_changes_after_it_was_listed_is_refused(
    change: str, memory: StorePath, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_folder(corpus, memory / "project")
    from ibidem.data import preprocess as stage

    usual = stage._prepare

    def changed(*arguments: Any) -> None:
        if change == "written":
            put(memory / "project", "pkg0/module_0.py", b"x = 1\n")
        else:
            remove(memory / "project" / "pkg0" / "module_0.py")
        usual(*arguments)

    monkeypatch.setattr(stage, "_prepare", changed)
    said = {"written": "it has changed since it was listed", "deleted": "it is gone since it was listed"}[change]
    with pytest.raises(StoreError, match=rf"module_0\.py: {said}"):
        made(memory / "project", tmp_path / "out")


def test_what_cannot_be_is_refused_before_the_work(memory: StorePath, corpus: Path) -> None:
    put_folder(corpus, memory / "project")
    made(corpus, memory / "out")
    with pytest.raises(ConfigError, match="no such file or folder"):
        made(memory / "nothing", memory / "other")
    with pytest.raises(ConfigError, match="is inside the dataset"):
        made(memory / "project", memory / "project" / "out")
    with pytest.raises(ConfigError, match="it is an artifact of ibidem already"):
        made(memory / "out", memory / "other")
    with pytest.raises(ArtifactError, match="exists and is not a dataset"):
        made(corpus, memory / "project")
    with pytest.raises(ArtifactError, match="is inside the artifact memory://bucket/team/out"):
        made(corpus, memory / "out" / "in")
    put(memory / "other", "manifest.json", (memory / "out" / "manifest.json").read_bytes().replace(b"dataset", b"t", 1))
    with pytest.raises(ArtifactError, match="exists and is not a dataset"):
        made(corpus, memory / "other")


@pytest.mark.parametrize("address", ["file://{}", "file://localhost{}", "FILE://{}", "{}"])
def test_an_output_in_a_dataset_of_this_machine_is_refused_however_they_are_named(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.py").write_text("x = 1\n")
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    for dataset, output in (
        (tmp_path / "corpus", address.format(tmp_path / "corpus" / "out")),
        (address.format(tmp_path / "corpus"), tmp_path / "corpus" / "out"),
        (address.format(tmp_path / "link"), tmp_path / "corpus" / "out"),
        (address.format(tmp_path / "corpus"), address.format(tmp_path / "corpus" / "out")),
    ):
        assert cli.main(["preprocess", "--dataset", f"{dataset}:train:text", "--output-dir", str(output)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is inside the dataset" in line or "FILE://" in line
    assert not (tmp_path / "corpus" / "out").exists()


def test_a_dataset_inside_the_output_is_refused(tmp_path: Path, corpus: Path) -> None:
    made(corpus, tmp_path / "out")
    shutil.copytree(corpus, tmp_path / "out" / "mine")
    here, there = tmp_path / "out", StorePath(f"file://{tmp_path}/out")
    for output in (here, there):
        for source in (here / "mine", there / "mine"):
            with pytest.raises(ArtifactError, match=r"mine/\S+, which is not part of the artifact"):
                made(source, output, shard_size=9)
    assert (here / "mine" / "LICENSE").exists()


@pytest.mark.parametrize("url", ["file://store/z", "file://data", "local://store/z", "file://"])
def test_a_url_of_another_machine_s_disk_is_refused_in_one_line(
    url: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", url],
        ["preprocess", "--dataset", f"{url}:train:text", "--output-dir", str(tmp_path / "out")],
    ):
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "a folder of this machine has three slashes" in line
    with pytest.raises(ConfigError, match="three slashes"):
        places.opened(url)


def test_localhost_is_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert places.path_of(f"file://localhost{tmp_path}/a") == StorePath(f"file://{tmp_path}/a")
    assert places.path_of(f"file://LOCALHOST{tmp_path}/a").read_text() == "x"
    assert places.opened(f"file://localhost{tmp_path}").root == str(tmp_path)
    assert str(places.path_of("s3://localhost/a")) == "s3://localhost/a"


def test_what_a_command_writes_to_memory_would_end_with_it(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", "memory://x/y"],
        ["preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", "out", "--work-dir", "memory://x/y"],
        ["blend", "--datasets.a.path", "data", "--shares.code", "1", "--output-dir", "memory://x/y"],
        ["train", "--model", "tiny", "--data.tokenizer", "t", "--data.dataset", "d", "--output-dir", "run",
         "--training.steps", "1", "--training.batch-sequences", "1", "--checkpoints.copy-to", "memory://x/y"],
    ):  # fmt: skip
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("memory://x/y ends with this command; give a path, or the URL of a store that lasts")


def test_damage_at_a_store_is_found(memory: StorePath, corpus: Path) -> None:
    there = made(corpus, memory / "out")
    name = next(name for name in there.files if name.endswith(".parquet") and "shard" in name)
    content = bytearray((memory / "out" / name).read_bytes())
    content[40] ^= 1
    put(memory / "out", name, bytes(content))
    with pytest.raises(ArtifactError, match="damaged; its sha256 differs"):
        artifacts.check(there)
    remove(memory / "out" / name)
    with pytest.raises(ArtifactError, match="missing, but listed in the manifest"):
        artifacts.check(there)
    assert made(corpus, memory / "out").digest == there.digest


def test_a_spec_may_name_a_url() -> None:
    assert Spec.parse("s3://bucket/data:train:text") == Spec("s3://bucket/data", None, "train", "text")
    assert Spec.parse("memory://bucket/data:v2:train:text") == Spec("memory://bucket/data", "v2", "train", "text")
    assert Spec.parse("s3://bucket/a/code.jsonl:train:text").folder == "code"


def test_a_path_of_a_store_is_read_as_others_are(store: StorePath) -> None:
    put(store, "a/b.txt", b"one\ntwo\n")
    put(store, "c.txt", b"x")
    path = store / "a" / "b.txt"
    assert path.read_text() == "one\ntwo\n"
    assert path.stat().st_size == 8
    assert [each.name for each in store.iterdir()] == ["a", "c.txt"]
    assert [str(each) for each in store.rglob("*.txt")] == [f"{store}/a/b.txt", f"{store}/c.txt"]
    assert ((store / "a").is_dir(), path.is_file(), (store / "a").is_file(), (store / "d").exists()) == (
        True, True, False, False,
    )  # fmt: skip
    with pytest.raises(StoreError, match="only a folder of this machine will do"):
        os.fspath(path)
    with pytest.raises(StoreError, match="it is only read here"):
        path.open("w")


def test_a_tokenizer_and_tokens_are_made_of_a_dataset_at_a_store_as_of_one_here(
    store: StorePath, corpus: Path, here: artifacts.Artifact, tmp_path: Path
) -> None:
    made(corpus, store / "out")
    made_of = []
    for name, place in (("here", here.path), ("there", store / "out")):
        words, ids = tmp_path / name / "words", tmp_path / name / "ids"
        train_tokenizer(TrainTokenizerConfig(input=place, output_dir=words, vocab_size=400, held_out_share=0.1))
        tokenize(TokenizeConfig(dataset=place, tokenizer=words, output_dir=ids, held_out_share=0.2, workers=1))
        made_of.append((artifacts.load(words).digest, artifacts.load(ids).digest))
    assert made_of[0] == made_of[1]
    assert cli.main(["verify", str(ids)]) == 0


def test_text_files_at_a_store_are_a_corpus(memory: StorePath) -> None:
    put(memory, "a.txt", b"one\n")
    put(memory, "b/c.txt", b"two\n")
    assert [text for _, text in Corpus.open(memory, "text").documents()] == ["one\n", "two\n"]


def test_a_blend_there_has_the_bytes_of_one_here_and_a_damaged_shard_is_found_by_its_task(
    store: StorePath, corpus: Path, here: artifacts.Artifact, tmp_path: Path
) -> None:
    made(corpus, store / "out")
    settings = {"shares": {"code": 0.9, "text": 0.1}, "shard_size": 7, "seed": 3}
    repeated = {"max_repeats": 2}
    blend(
        BlendConfig(datasets={"a": Ingredient(path=here.path, **repeated)}, output_dir=tmp_path / "blend", **settings)
    )
    there = {"a": Ingredient(path=store / "out", **repeated)}
    blend(BlendConfig(datasets=there, output_dir=store / "blend", workers=2, **settings))
    expected, found = artifacts.load(tmp_path / "blend"), artifacts.verify(store / "blend")
    assert (found.digest, found.files) == (expected.digest, expected.files)
    assert [item.name for item in found.inputs] == ["../out"]
    assert "byte for byte the same" in blend(
        BlendConfig(datasets=there, output_dir=store / "blend", verify=True, **settings)
    )
    assert not list(Path.cwd().iterdir())
    name = "project/train/shard-00001.parquet"
    put(store / "out", name, (store / "out" / name).read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=rf"{name}: damaged; its sha256 differs"):
        blend(BlendConfig(datasets=there, output_dir=store / "other", **settings))


def test_a_file_of_git_at_a_store_leads_to_no_local_clone_and_nowhere_outside_the_source(
    memory: StorePath, tmp_path: Path
) -> None:
    clone = {"HEAD": b"a" * 40, "config": b'[remote "origin"]\n\turl = https://github.com/team/secret.git\n'}
    for name, content in clone.items():
        (tmp_path / "secret").mkdir(exist_ok=True)
        (tmp_path / "secret" / name).write_bytes(content)
        put(memory, f"secret/{name}", content)
        put(memory, f"project/.git/modules/part/{name}", content.replace(b"secret", b"part"))
    outside = [f"{tmp_path}/secret", f"file://{tmp_path}/secret", "../../secret", f"{memory}/secret"]
    for number, folder in enumerate([*outside, "../.git/modules/part"]):
        put(memory, f"project/{number}/.git", f"gitdir: {folder}\n".encode())
    put(memory, "project/5/.git/HEAD", b"a" * 40)
    put(memory, "project/5/.git/commondir", f"{tmp_path}/secret\n".encode())
    put(memory, "project/5/.git/objects/info/alternates", f"{tmp_path}/secret\n".encode())
    clones = Clones(memory / "project")
    found = [clones.of(memory / "project" / str(number) / "a.py") for number in range(6)]
    assert [clone and (clone.repo, clone.commit) for clone in found] == [
        *[(None, None)] * 4, ("team/part", "a" * 40), (None, "a" * 40),
    ]  # fmt: skip
    with pytest.raises(StoreError, match="it is the URL of no store"):
        (memory / str(tmp_path / "secret" / "HEAD")).read_bytes()


def test_a_private_artifact_at_a_store_is_replaced(store: StorePath) -> None:
    for text in ("one", "two"):
        with artifacts.create(store / "out", kind="dataset", config={"text": text}, is_private=True) as draft:
            (draft.path / "a.txt").write_text(text)
    assert (store / "out" / "a.txt").read_text() == "two"
    assert not list(Path.cwd().iterdir())


def test_a_store_that_hands_nothing_out_stops_nothing_that_can_do_without(
    memory: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [artifacts.Input("dataset", "sha256:0", f"{memory}/out")]
    with artifacts.create(tmp_path / "tokens", kind="tokens", config={}, inputs=inputs) as draft:
        (draft.path / "a").write_text("a")
    tokens = artifacts.load(tmp_path / "tokens")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory.place.files), "_open", refuse)
    assert f"dataset {memory}/out  sha256:0  missing" in lineage.tree(tokens.path)
    assert readers.recorded(tokens.inputs, tokens.path) == {}
    assert exposure._with_ancestors({tokens.path: tokens}) == {tokens.path: tokens}
    model = artifacts.Input("checkpoint", "sha256:0", f"{memory}/model")
    with pytest.raises(StoreError, match=r"model/manifest\.json: Access Denied"):
        readers.recorded([model], tokens.path)


def test_a_port_and_a_colon_in_a_key_are_no_version(memory: StorePath) -> None:
    parsed = Spec.parse("hdfs://namenode:8020/data/code:train:text")
    assert (parsed.name, parsed.version) == ("hdfs://namenode:8020/data/code", None)
    assert Spec.parse("hdfs://namenode:8020:train:text").name == "hdfs://namenode:8020"
    put(memory, "2024T00:00/a.txt", b"x")
    parsed = Spec.parse(f"{memory}/2024T00:00:train:text")
    assert (parsed.name, parsed.version) == (f"{memory}/2024T00:00", None)
    parsed = Spec.parse(f"{memory}/2024T00:00:v1:train:text")
    assert (parsed.name, parsed.version) == (f"{memory}/2024T00:00", "v1")
    assert Spec.parse(f"{memory}/2024T00:00/a.txt:train:text").version is None


def test_names_with_two_colons_are_read(tmp_path: Path) -> None:
    store = StorePath(f"file://{tmp_path}/store")  # that in memory takes such names for URLs itself
    put(store, "Foo::Bar.txt", b"one\n")
    put(store, "memory::s3.txt", b"two\n")
    assert [text for _, text in Corpus.open(store, "text").documents()] == ["one\n", "two\n"]
    assert (store / "Foo::Bar.txt").held().size == 4


@pytest.mark.parametrize(("link", "scheme"), [("folder", ""), ("folder", "file://"), ("file", "")])
def test_a_link_into_a_private_artifact_is_no_source(link: str, scheme: str, tmp_path: Path) -> None:
    private = {readers.KEY: readers.Readers(frozenset(["ada"]), frozenset()).as_json()}
    with artifacts.create(tmp_path / "private", kind="dataset", config=private) as draft:
        (draft.path / "train").mkdir()
        (draft.path / "train" / "a.txt").write_text("secret\n")
    (tmp_path / "src").mkdir()
    source = tmp_path / "src" if link == "file" else tmp_path / "src" / "link"
    if link == "folder":
        source.symlink_to(tmp_path / "private" / "train")
    else:
        (source / "a.txt").symlink_to(tmp_path / "private" / "train" / "a.txt")
        (source / "b.txt").write_text("public\n")
    spec = Spec(f"{scheme}{source}", None, "train", "text")
    with pytest.raises(AccessDenied, match="part of a dataset made from private documents"):
        open_source(spec, package_cap_bytes=1).as_input()


@pytest.mark.parametrize("where", ["there", "here"])
def test_a_shard_that_is_replaced_after_it_was_measured_is_not_mixed_in(
    where: str, memory: StorePath, here: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = memory / "out" if where == "there" else tmp_path / "out"
    if isinstance(place, StorePath):
        put_folder(here.path, place)
    else:
        shutil.copytree(here.path, place)
    name = "project/train/shard-00001.parquet"
    usual = blend_stage._scatter_shards

    def replaced(task: Any) -> int:
        other = (place / name.replace("00001", "00000")).read_bytes()
        put(place, name, other) if isinstance(place, StorePath) else (place / name).write_bytes(other)
        return usual(task)

    monkeypatch.setattr(blend_stage, "_scatter_shards", replaced)
    with pytest.raises(ArtifactError, match=rf"{name}: it has changed since it was measured"):
        blend(
            BlendConfig(
                datasets={"a": Ingredient(path=place)}, shares={"code": 1}, output_dir=tmp_path / "blend", workers=1
            )
        )


def test_two_readings_of_one_source_overlap(memory: StorePath, tmp_path: Path) -> None:
    put(memory, "a.txt", b"one\n")
    put(memory, "b/c.txt", b"two\n")
    spec = Spec(str(memory), None, "train", "text")
    first, second = (open_source(spec, package_cap_bytes=1).pieces(tmp_path) for _ in range(2))
    names = [next(first).name, next(second).name, *(piece.name for piece in first), *(piece.name for piece in second)]
    assert names == ["a.txt", "a.txt", "b/c.txt", "b/c.txt"]
    assert not places._listings


def test_a_key_that_is_no_path_is_counted(memory: StorePath, tmp_path: Path) -> None:
    files, root = memory.place
    for name in ("/a.txt", "d/e//f.txt", "d/./g.txt", "d/h.txt"):
        files.pipe_file(f"{root}/{name}", b"x\n")
    source = open_source(Spec(str(memory), None, "train", "text"), package_cap_bytes=1)
    assert [piece.name for piece in source.pieces(tmp_path)] == ["d/h.txt"]
    assert source.skipped == {"name that is no path": 3}


def test_of_files_of_unknown_kind_only_the_first_bytes_are_fetched_once(
    memory: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in {"run": b"#!/bin/sh\n", "blob": b"\0" * 9999, "none": b"", "logo.png": b"\x89PNG"}.items():
        put(memory, name, content)
    kind = type(memory.place.files)
    usual, fetched = kind.cat_file, []

    def counted(files: Any, path: str, start: int | None = None, end: int | None = None) -> bytes:
        content: bytes = usual(files, path, start, end)
        fetched.append((path.rpartition("/")[2], len(content)))
        return content

    def refused(path: StorePath, *_: Any, **__: Any) -> Any:
        assert path.name == "run"
        return opened(path, *_, **__)

    opened = StorePath.open
    monkeypatch.setattr(kind, "cat_file", counted)
    monkeypatch.setattr(StorePath, "open", refused)
    source = open_source(Spec(str(memory), None, "train", "text"), package_cap_bytes=1)
    source.as_input()
    assert [piece.name for piece in source.pieces(tmp_path)] == ["run"]
    assert sorted(fetched) == [("blob", language.SHEBANG_BYTES), ("run", 10)]
    assert source.skipped == {"unknown kind .png": 1, "unknown kind blob": 1, "unknown kind none": 1}


@pytest.mark.slow
def test_a_kill_before_any_change_of_a_store_leaves_the_old_dataset_the_new_one_or_none(
    corpus: Path, here: artifacts.Artifact, tmp_path: Path
) -> None:
    store = StorePath(f"file://{tmp_path}/store")
    old = made(corpus, store / "out", shard_size=20).digest
    states, change = [], 1
    while True:
        command = ["preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", str(store / "out")]
        command += ["--workers", "1", "--shard-size", "8"]
        done = subprocess.run([sys.executable, "-c", DIES_AT, str(change), *command], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -9
        if "manifest.json" in (store / "out").listing():
            states.append(["new", "old"][artifacts.verify(store / "out").digest == old])
        else:
            states.append("none")
            assert made(corpus, store / "out", shard_size=20).digest == old
        change += 1
        if states[-1] == "new":
            made(corpus, store / "out", shard_size=20)
    assert len(states) > len(here.files), states
    assert [state for state, _ in groupby(states)] == ["old", "none", "new"], states
    assert artifacts.verify(store / "out").digest == here.digest
    assert sorted((store / "out").listing()) == sorted([*here.files, "manifest.json"])


def test_a_url_with_one_slash_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("pass\n")
    for output in ("s3:/bucket/out", "file:/out"):
        command = ["preprocess", "--dataset", f"{tmp_path / 'a.py'}:train:text", "--output-dir", output]
        assert cli.main(command) == 2
        assert "a URL has two slashes behind the colon" in capsys.readouterr().err
    assert not list(Path.cwd().glob("*:"))
