"""Readers of what was made from private documents: those who may read all of them, and nobody else."""

import random
import shutil
from pathlib import Path

import pytest
from tests.grounding.worlds import GROUPS, PRINCIPALS, random_world

from ibidem import accounts, artifacts
from ibidem.accounts import Person
from ibidem.artifacts import Artifact, Input
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.spec import Spec
from ibidem.errors import AccessDenied, ArtifactError
from ibidem.grounding import acl
from ibidem.grounding.access import YamlRules
from ibidem.grounding.posix import PosixPermissions
from ibidem.readers import Readers, check_reader, common, inherited, is_reader, readers_of, recorded


def readers(read: str = "", deny: str = "") -> Readers:
    return Readers(frozenset(read.split()), frozenset(deny.split()))


@pytest.mark.parametrize("seed", range(200))
def test_readers_are_exactly_those_whom_the_rules_permit_every_document(seed: int) -> None:
    for step in random_world(seed).steps:
        for listed in (None, frozenset(PRINCIPALS[:3])):
            rules = YamlRules(step.acl._replace(principals=listed))
            paths = random.Random(seed).sample([each.path for each in step.documents], min(3, len(step.documents)))
            shared = common(Readers(*rules.resolved(rules.access(path))) for path in paths)
            for principal in (*PRINCIPALS, *GROUPS):
                if principal in GROUPS and principal not in step.acl.groups:
                    continue
                permitted = all(rules.permits(principal, rules.access(path)) for path in paths)
                assert is_reader(principal, shared) == permitted, (principal, shared)
            assert not any(is_reader(name.upper(), shared) for name in shared.deny)


def test_whoever_is_not_on_a_closed_list_and_no_name_at_all_is_no_reader() -> None:
    rules = acl.parse(b"principals: [ann, bob]\nrules: [{path: '**', read: [everyone], deny: [bob]}]\n", "acl.yaml")
    closed = YamlRules(rules)
    shared = common([Readers(*closed.resolved(closed.access("a.md")))])
    assert [is_reader(name, shared) for name in ("ann", "bob", "stranger", "")] == [True, False, False, False]
    assert not is_reader("", readers("everyone"))


def test_modes_shut_out_whom_the_kernel_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mode in (("all.md", 0o644), ("own.md", 0o600)):
        (tmp_path / name).write_text("text")
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    uid = tmp_path.stat().st_uid
    people = {"me": Person(uid, frozenset([999])), "other": Person(uid + 1, frozenset([998]))}
    monkeypatch.setattr(accounts, "person", people.get)
    rules = PosixPermissions(tmp_path).current()
    open_, own = (common([Readers(*rules.resolved(rules.access(name)))]) for name in ("all.md", "own.md"))
    assert [is_reader(name, open_) for name in ("me", "other", "ghost")] == [True, True, False]
    assert [is_reader(name, own) for name in ("me", "other", "ghost")] == [True, False, False]
    assert common([open_, own]) == own


def artifact(path: Path, config: dict[str, object] | None = None, inputs: tuple[Path, ...] = ()) -> Artifact:
    found = [artifacts.load(each).as_input("data", of=path) for each in inputs]
    with artifacts.create(path, kind="checkpoint", config=config or {}, inputs=found):
        pass
    return artifacts.load(path)


def private(read: str, deny: str = "") -> dict[str, object]:
    return {"readers": readers(read, deny).as_json()}


def test_what_is_made_of_two_has_the_readers_of_both_however_far_they_are(tmp_path: Path) -> None:
    artifact(tmp_path / "a", private("ada hr", "eve"))
    artifact(tmp_path / "b", private("everyone", "hr"))
    artifact(tmp_path / "public")
    artifact(tmp_path / "dataset", inputs=(tmp_path / "b",))
    made = artifact(tmp_path / "c", inputs=(tmp_path / "a", tmp_path / "dataset", tmp_path / "public"))
    assert inherited(made.inputs, made.path) == readers("ada", "eve hr")
    assert inherited(artifact(tmp_path / "d", inputs=(tmp_path / "public",)).inputs, tmp_path / "d") is None
    gone = Input("dataset", "sha256:0", "../gone")
    assert inherited([*made.inputs, gone], made.path) == readers("ada", "eve hr")


@pytest.mark.parametrize("damage", ["pruned", "replaced"])
def test_readers_are_not_lost_with_a_model_that_is_gone(damage: str, tmp_path: Path) -> None:
    model = artifact(tmp_path / "model", private("ada"))
    written = [model.as_input("checkpoint", of=tmp_path / "unsaid")]
    unsaid, said = tmp_path / "unsaid", tmp_path / "said"
    for path, config in ((unsaid, {}), (said, recorded(written, said))):
        with artifacts.create(path, kind="dataset", config=config, inputs=written):
            pass
    tuned = artifact(tmp_path / "tuned", {"model": {}, "train": {}}, (unsaid,))
    of = tmp_path / "made"
    shutil.rmtree(model.path)
    if damage == "replaced":
        artifact(model.path, {"another": "one"})
    assert inherited([artifacts.load(said).as_input("data", of=of)], of) == readers("ada")
    assert inherited([tuned.as_input("initial", of=of)], of) is None  # it would have had readers
    with pytest.raises(ArtifactError, match="unsaid was made from is not there, so that its readers are unknown") as e:
        inherited([artifacts.load(unsaid).as_input("data", of=of)], of)
    assert "\n" not in str(e.value)


def test_a_manifest_says_that_a_model_had_no_readers(tmp_path: Path) -> None:
    model, of = artifact(tmp_path / "model"), tmp_path / "made"
    config = recorded(written := [model.as_input("checkpoint", of=of)], of)
    with artifacts.create(of, kind="dataset", config=config, inputs=written):
        pass
    shutil.rmtree(model.path)
    assert inherited([artifacts.load(of).as_input("data", of=tmp_path / "next")], tmp_path / "next") is None
    assert recorded([], of) == {}


def test_a_file_of_a_private_artifact_is_no_source(tmp_path: Path) -> None:
    with artifacts.create(tmp_path / "run" / "set", kind="training-set", config=private("ada")) as draft:
        (draft.path / "examples.jsonl").write_text('{"text": "private"}\n')
    for source in (tmp_path / "run" / "set" / "examples.jsonl", tmp_path / "run" / "set", tmp_path / "run"):
        with pytest.raises(AccessDenied, match="part of a training-set made from private documents") as error:
            LocalFiles(Spec(str(source), None, "train", "text")).as_input()
        assert "\n" not in str(error.value)


def test_whoever_is_no_reader_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = artifact(tmp_path / "a", private("ada", "eve"))
    check_reader(checkpoint, "ada")
    check_reader(artifact(tmp_path / "public"))
    for name in ("eve", "bob", "everyone", "Ada"):
        with pytest.raises(AccessDenied, match=f"private documents, and {name} is not among their readers") as error:
            check_reader(checkpoint, name)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(accounts, "this_user", lambda: "ada")
    check_reader(checkpoint)
    with pytest.raises(AccessDenied):
        check_reader(checkpoint, "")
    monkeypatch.setattr(accounts, "this_user", lambda: "bob")
    with pytest.raises(AccessDenied, match="bob, who runs this program"):
        check_reader(checkpoint)


def test_readers_survive_the_manifest(tmp_path: Path) -> None:
    assert readers_of(artifact(tmp_path / "a", private("b a", "c")).config) == readers("a b", "c")
    assert readers_of({}) is None
