import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ibidem import artifacts, lineage
from ibidem.cli import main
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch
from ibidem.files import sha256_of, sweep
from ibidem.lineage import walk


def make(path: Path, text: str = "hello", **settings: object) -> artifacts.Artifact:
    with artifacts.create(path, kind="thing", config=settings) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "a.txt").write_text(text)
        (draft.path / "b.bin").write_bytes(bytes(100))
        draft.counts["n"] = 1
    return artifacts.load(path, kind="thing")


def test_the_same_content_and_settings_have_the_same_digest_anywhere(tmp_path: Path) -> None:
    first, second = make(tmp_path / "x", seed=1), make(tmp_path / "deep" / "y", seed=1)
    assert first.digest == second.digest
    assert make(tmp_path / "z", seed=2).digest != first.digest
    assert make(tmp_path / "z2", "other", seed=1).digest != first.digest


def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    old = make(tmp_path / "x")
    with pytest.raises(ZeroDivisionError), artifacts.create(tmp_path / "x", kind="thing", config={}) as draft:
        (draft.path / "half").write_text("half")
        raise ZeroDivisionError
    assert artifacts.verify(tmp_path / "x").digest == old.digest
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda p: flip(p / "b.bin"), "b.bin"),
        (lambda p: (p / "b.bin").write_bytes(bytes(99)), "b.bin"),
        (lambda p: (p / "sub" / "a.txt").unlink(), "a.txt"),
        (lambda p: (p / "extra").write_text("?"), "extra"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "manifest.json").write_text("[]"), "not a manifest"),
        (lambda p: _edit(p, "counts", {"n": 2}), "edited"),
        (lambda p: _edit(p, "files", {}), "edited"),
    ],
)
def test_every_damage_is_refused_by_name(damage: object, named: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    damage(tmp_path / "x")
    with pytest.raises(ArtifactError, match=named):
        artifacts.verify(tmp_path / "x")


def test_a_damaged_artifact_of_the_right_size_is_not_taken_for_finished(tmp_path: Path) -> None:
    make(tmp_path / "x")
    assert artifacts.finished(tmp_path / "x", kind="thing", config={}, inputs=()) is not None
    flip(tmp_path / "x" / "b.bin")
    assert artifacts.finished(tmp_path / "x", kind="thing", config={}, inputs=()) is None
    with pytest.raises(DigestMismatch, match=r"b\.bin: damaged"):
        artifacts.check(artifacts.load(tmp_path / "x"), ["b.bin"])
    artifacts.check(artifacts.load(tmp_path / "x"), ["sub/a.txt"])


def test_files_that_nobody_touched_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    hash_file = sha256_of
    monkeypatch.setattr(artifacts, "sha256_of", lambda path: hashed.append(path.name) or hash_file(path))
    with artifacts.create(tmp_path / "x", kind="thing", config={}) as draft:
        for name in ("old", "moved", "fresh"):
            (draft.path / name).write_text("the same")
        for name in ("old", "moved"):
            os.utime(draft.path / name, ns=(0, 10**18))
    os.utime(tmp_path / "x" / "moved", ns=(0, 10**18 + 1))
    hashed.clear()
    assert artifacts.finished(tmp_path / "x", kind="thing", config={}, inputs=()) is not None
    assert sorted(hashed) == ["fresh", "moved"]  # what changed just before the sealing could have changed after it too
    artifacts.verify(tmp_path / "x")
    assert sorted(hashed) == ["fresh", "fresh", "moved", "moved", "old"]


def _edit(path: Path, key: str, value: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[key] = value
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_nothing_but_an_artifact_of_the_kind_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="choose another path"):
        make(tmp_path / "home")
    make(tmp_path / "x")
    (tmp_path / "x" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        make(tmp_path / "x")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_lineage_tells_what_is_missing_or_changed(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    inputs = [source.as_input("base", of=tmp_path / "b")]
    with artifacts.create(tmp_path / "b", kind="derived", config={}, inputs=inputs) as draft:
        (draft.path / "f").write_text("f")
    assert [state for _, state, _ in walk(tmp_path / "b")] == ["ok", "ok"]
    make(tmp_path / "a", "another text")
    assert [state for _, state, _ in walk(tmp_path / "b")] == ["ok", "changed"]
    with pytest.raises(DigestMismatch, match="no longer"):
        lineage.verify_command(lineage.ArtifactPath(path=tmp_path / "b"))


def test_a_killed_process_leaves_only_what_the_next_one_clears(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from ibidem import artifacts\n"
        "with artifacts.create(Path(sys.argv[1]), kind='thing', config={}) as draft:\n"
        "    (draft.path / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.startswith(".x.partial") for path in tmp_path.iterdir()] == [True]
    make(tmp_path / "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y"]


def test_what_a_run_left_that_was_killed_when_all_was_done_is_cleared(tmp_path: Path) -> None:
    make(tmp_path / "a")
    found = artifacts.load(tmp_path / "a")
    with pytest.raises(KeyError), artifacts.workspace(tmp_path / "a", config=found.config, inputs=found.inputs):
        raise KeyError
    assert list(tmp_path.glob(".a.work-*"))
    assert artifacts.finished(tmp_path / "a", kind=found.kind, config=found.config, inputs=found.inputs)
    assert not list(tmp_path.glob(".a.work-*"))


@pytest.mark.parametrize("host", ["laptop", "node-1.cluster.example.com"])
def test_a_replaced_artifact_comes_back_after_a_kill_between_the_renames(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(tmp_path / "x")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    monkeypatch.setattr(artifacts.platform, "node", lambda: host)
    (tmp_path / "x").rename(tmp_path / f".x.replaced.by-{host}-{int(dead.stdout)}")
    (tmp_path / ".song.by-me").write_text("mine")
    (tmp_path / f".page.html.partial.by-{host}-{int(dead.stdout)}").write_text("half")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".song.by-me", "x"]
    assert artifacts.verify(tmp_path / "x").digest == old.digest


def test_nothing_is_written_inside_an_artifact(tmp_path: Path) -> None:
    digest = make(tmp_path / "x").digest
    with pytest.raises(ArtifactError, match="inside the artifact"):
        make(tmp_path / "x" / "deep" / "y")
    assert artifacts.verify(tmp_path / "x").digest == digest


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ibidem import artifacts\n"
        "with artifacts.locked(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with artifacts.locked(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is writing there" in done.stderr
    subprocess.run(command, check=True)


def test_verify_fails_where_an_ancestor_is_missing(tmp_path: Path) -> None:
    inputs = [make(tmp_path / "a").as_input("base", of=tmp_path / "b")]
    with artifacts.create(tmp_path / "b", kind="derived", config={}, inputs=inputs) as draft:
        (draft.path / "f").write_text("f")
    lineage.verify_command(lineage.ArtifactPath(path=tmp_path / "b"))
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="missing"):
        lineage.verify_command(lineage.ArtifactPath(path=tmp_path / "b"))


def test_a_mistyped_folder_is_told_with_what_was_probably_meant(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ArtifactError, match=r"tokeniser: no such folder; did you mean .*/tokenizer\?"):
        artifacts.load(tmp_path / "tokeniser")
    with pytest.raises(ArtifactError, match="nowhere: no such folder$"):
        artifacts.load(tmp_path / "nothing" / "nowhere")


def make_chain(folder: Path) -> None:
    """Make c from b from a, each in a folder of its own."""
    base = make(folder / "data" / "a")
    for name in ("runs/b", "models/c"):
        path = folder / name
        with artifacts.create(path, kind="derived", config={}, inputs=[base.as_input("base", of=path)]) as draft:
            (draft.path / "f").write_text(name)
        base = artifacts.load(path)


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Artifacts that were moved apart: the work to new/, the data to archive/."""
    make_chain(tmp_path / "old")
    (tmp_path / "old" / "data").rename(tmp_path / "archive")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["verify", "trace"])
def test_ancestors_that_were_moved_are_found_where_a_map_says(
    command: str, moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = ["--map", f"{moved}/new/data=archive", "--map", "elsewhere=nowhere"]
    assert main([command, "new/models/c", *maps]) == 0
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()[:3]]
    assert names == ["new/models/c", "new/runs/b", "archive/a"]


@pytest.mark.usefixtures("moved")
def test_a_missing_ancestor_is_named_as_it_is_here_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "new/models/c"]) == 2
    said = capsys.readouterr().err
    assert "new/data/a: missing, but new/models/c was made from it; if it was moved: --map new/data/a=NEW" in said
    assert main(["trace", "new/models/c"]) == 0
    shown = capsys.readouterr().out
    assert "base new/data/a  " in shown
    assert ".." not in shown


def test_a_map_leads_to_nothing_but_the_very_artifact(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(moved / "other" / "a", "another text")
    assert main(["verify", "new/models/c", "--map", "new/data=other"]) == 2
    assert "other/a: it is no longer what new/models/c was made from" in capsys.readouterr().err


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize("word", ["new", "=new", "old="])
def test_a_map_that_is_none_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "trace"):
        assert main([command, "new/models/c", "--map", word]) == 2
        assert f"map {word}: give OLD=NEW, two folders" in capsys.readouterr().err


def test_a_trace_says_that_it_reads_manifests_alone(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (moved / "new" / "runs" / "b" / "stray.txt").write_text("not of it")
    assert main(["trace", "new/models/c", "--map", "new/data=archive"]) == 0
    shown = capsys.readouterr().out
    assert "new/runs/b" in shown
    assert "ok, " not in shown.replace("manifest ok, ", "")
    assert shown.splitlines()[-1] == "Only manifests were read; ibidem verify new/models/c rehashes every file."
    assert main(["verify", "new/models/c", "--map", "new/data=archive"]) == 2
    assert "new/runs/b/stray.txt: not listed in the manifest" in capsys.readouterr().err


def test_an_earlier_state_that_cannot_be_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(content: str) -> None:
        with artifacts.create(tmp_path / "a", kind="k", config={"content": content}) as draft:
            (draft.path / "file").write_text(content)

    make("one")
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(ArtifactError, match="its earlier state cannot be deleted: delete") as told:
        make("two")
    assert Path(str(told.value).rpartition("delete ")[2]).is_dir()
    assert (tmp_path / "a" / "file").read_text() == "two"


def test_what_is_replaced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr("ibidem.log.event", lambda name, **fields: told.append((name, fields)))
    digests = []
    for content in ("one", "one", "two"):
        with artifacts.create(tmp_path / "a", kind="k", config={"content": content}) as draft:
            (draft.path / "file").write_text(content)
        digests.append(artifacts.load(tmp_path / "a").digest)
    assert [(name, fields["digest"]) for name, fields in told] == [("artifact.replaced", digests[0])]


def test_a_map_into_the_folder_that_was_moved_is_refused() -> None:
    with pytest.raises(ConfigError, match="map a=a/b: NEW is inside OLD"):
        lineage.placed(["a=a/b"])


def test_a_chain_whose_steps_name_their_parent_twice_is_walked_once(tmp_path: Path) -> None:
    parent = None
    for number in range(24):  # 2 ** 24 paths
        folder = tmp_path / f"step-{number}"
        inputs = [] if parent is None else [parent.as_input(role, of=folder) for role in ("initial", "reference")]
        with artifacts.create(folder, kind="checkpoint", config={"number": number}, inputs=inputs) as draft:
            (draft.path / "weights").write_text(str(number))
        parent = artifacts.load(folder)
    rows = lineage.walk(folder)
    assert len(rows) == 1 + 2 * 23
    assert {node.path.name for _, _, node in rows} == {f"step-{number}" for number in range(24)}
    assert [depth for depth, _, _ in rows] == [0, *range(1, 24), *range(23, 0, -1)]


def test_an_artifact_is_replaced_where_folders_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "x")
    monkeypatch.setattr(artifacts, "_exchange", lambda *_: False)
    new = make(tmp_path / "x", "other")
    assert artifacts.verify(tmp_path / "x").digest == new.digest
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a system call of Linux")
def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "x")
    renamed: list[Path] = []
    monkeypatch.setattr(Path, "rename", lambda path, _: renamed.append(path))
    make(tmp_path / "x", "other")
    assert renamed == []
    assert (tmp_path / "x" / "sub" / "a.txt").read_text() == "other"


def test_one_process_at_a_time_changes_an_artifact(tmp_path: Path) -> None:
    with artifacts.writing(tmp_path / "x"):
        with pytest.raises(ArtifactError, match="x: another process is changing it"), artifacts.writing(tmp_path / "x"):
            pass
        with artifacts.writing(tmp_path / "y"):
            pass
    with artifacts.writing(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []
