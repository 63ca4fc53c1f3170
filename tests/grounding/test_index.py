"""The local store: what a principal finds, and what changes leave on disk."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from tests.conftest import REPOSITORY
from tests.grounding.corpora import KEY, RULES, FolderRules, HashEncoder, corpus, document

from ibidem import artifacts
from ibidem.errors import AccessDenied, ArtifactError, ConfigError, DataError, DigestMismatch
from ibidem.grounding import segment
from ibidem.grounding.index import FORGOTTEN, QUARANTINE, SEGMENTS, Index
from ibidem.grounding.store import Hit, Indexed, Query
from ibidem.grounding.view import Part, View
from ibidem.records import Unreadable

ENCODER = HashEncoder()


def make(
    path: Path, documents: list[Indexed], rules: FolderRules = RULES, encoder: HashEncoder | None = ENCODER
) -> Index:
    index = Index(path, KEY, acl="acl.yaml", chunks={"max_chars": 1200}, encoder=encoder)
    index.update(documents, rules)
    return index


def query(text: str, encoder: HashEncoder | None = ENCODER) -> Query:
    return Query(text, encoder.encode([text])[0] if encoder else None)


def find(index: Index, text: str, principal: str = "ann", rules: FolderRules = RULES, k: int = 10) -> list[Hit]:
    return index.search(query(text), principal, rules, k)


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents of all files but what the manifest keeps of time and host."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != artifacts.MANIFEST
    }


def test_a_chunk_is_found_by_its_words_with_its_span_and_opened_by_its_id(tmp_path: Path) -> None:
    text = document("hr/pay.md", "Nobody earns less.", "Salaries are paid in March.", title=("Pay", "When"))
    index = make(tmp_path / "index", [text, document("public/a.md", "Pumps have valves.")], encoder=None)
    (hit,) = index.search(Query("salary", None), "ann", RULES, 5)
    assert hit.chunk[1:] == ("hr/pay.md", ("Pay", "When"), 20, 47, "Salaries are paid in March.")
    assert len(hit.chunk.id) == 32
    assert Index.open(tmp_path / "index", KEY).chunk(hit.chunk.id, "ann", RULES) == hit.chunk


def test_a_forbidden_chunk_and_one_that_does_not_exist_are_denied_in_the_same_words(tmp_path: Path) -> None:
    index = make(tmp_path / "index", [document("hr/pay.md", "salary"), document("public/a.md", "valve")])
    (hit,) = [hit for hit in find(index, "salary") if hit.chunk.path == "hr/pay.md"]
    for chunk_id in (hit.chunk.id, "0" * 32, "not hexadecimal", "", "00"):
        with pytest.raises(AccessDenied) as error:
            index.chunk(chunk_id, "bob", RULES)
        assert str(error.value) == f"{chunk_id}: no such chunk, or bob may not read it"
    assert {hit.chunk.path for hit in find(index, "salary", "bob", k=100)} == {"public/a.md"}


@pytest.mark.parametrize("encoder", [None, ENCODER, HashEncoder(8, coarse=True)])
@pytest.mark.parametrize("k", [1, 3, 1000])
def test_results_are_those_of_an_index_of_the_permitted_documents_alone(
    k: int, encoder: HashEncoder | None, tmp_path: Path
) -> None:
    for seed in range(5):
        documents = corpus(seed, 30)
        whole = make(tmp_path / f"whole-{seed}", documents, encoder=encoder)
        for principal in ("ann", "bob", "eve"):
            permitted = [each for each in documents if RULES.permits(principal, RULES.access(each.path))]
            alone = make(tmp_path / f"alone-{seed}-{principal}", permitted, encoder=encoder)
            for words in ("salary valve", "the of", "pump", "nothing here", "the the index budget rotor"):
                asked = query(words, encoder)
                assert whole.search(asked, principal, RULES, k) == alone.search(asked, principal, RULES, k)
                assert len(whole.search(asked, principal, RULES, k)) <= k


def test_rules_that_changed_since_the_index_was_made_hold_at_the_next_query(tmp_path: Path) -> None:
    documents = corpus(1, 30)
    index = make(tmp_path / "index", documents)
    assert any(hit.chunk.path.startswith("plant/") for hit in find(index, "valve pump", "bob", k=100))
    revoked = FolderRules({"ann": ("hr",), "bob": ()}, version="2")
    assert {hit.chunk.path.split("/")[0] for hit in find(index, "valve pump", "bob", revoked, 100)} == {"public"}

    class OneDocument(FolderRules):
        def permits(self, principal: str, access: object) -> bool:
            return True

        def access(self, path: str) -> object:
            return path

    hidden = documents[4].path

    class AllButOne(OneDocument):
        def permits(self, principal: str, access: object) -> bool:
            return access != hidden

    split = AllButOne({}, version="3")
    alone = make(tmp_path / "alone", [each for each in documents if each.path != hidden])
    for words in ("valve pump", "salary", "the of"):
        assert find(index, words, "bob", split, 100) == find(alone, words, "bob", OneDocument({}, version="4"), 100)


def test_an_updated_index_is_a_fresh_one_to_the_byte(tmp_path: Path) -> None:
    documents = corpus(0, 30)
    changed = [
        document(each.path, "salary", "another text") if n % 7 == 0 else each for n, each in enumerate(documents)
    ]
    moved = [
        each._replace(path=each.path.replace("hr/", "plant/")) if n % 5 == 0 else each for n, each in enumerate(changed)
    ]
    final = [*moved[3:], document("new/a.md", "index parser"), document("new/empty.md")]
    index = make(tmp_path / "index", documents)
    digest = index.digest
    index.update(reversed(final), RULES)
    fresh = make(tmp_path / "fresh", final)
    assert files_of(tmp_path / "index") == files_of(tmp_path / "fresh")
    assert index.digest == fresh.digest != digest
    artifacts.verify(tmp_path / "index", kind="ground-index")


def test_unchanged_segments_are_linked_and_unchanged_documents_are_not_encoded_again(tmp_path: Path) -> None:
    encoded: list[str] = []

    class Counting(HashEncoder):
        def encode(self, texts):
            encoded.extend(texts)
            return super().encode(texts)

    documents = [document(f"{group}/{n}.md", f"{group} {n}") for group in ("hr", "plant") for n in range(3)]
    index = make(tmp_path / "index", documents, encoder=Counting())
    inodes = {path.name + path.parent.name: path.stat().st_ino for path in (tmp_path / "index").rglob("*.arrow")}
    encoded.clear()
    index.update([*documents, document("hr/new.md", "one more")], RULES)
    assert encoded == ["one more"]
    after = {path.name + path.parent.name: path.stat().st_ino for path in (tmp_path / "index").rglob("*.arrow")}
    assert sum(after[name] == inodes[name] for name in inodes) == 4


def test_rules_that_move_a_document_to_another_class_move_its_postings(tmp_path: Path) -> None:
    documents = corpus(2, 20)
    index = make(tmp_path / "index", documents)
    denied = FolderRules(RULES.members, version="2", denied=("bob",))
    index.update(documents, denied)
    make(tmp_path / "fresh", documents, denied)
    assert files_of(tmp_path / "index") == files_of(tmp_path / "fresh")
    assert find(index, "valve", "bob", denied) == []


def secrets_of(folder: Path) -> Iterator[bytes]:
    """Yield the bytes of all files beside and below an index, and all that can be decompressed from them."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield data
            place = data.find(zstandard.FRAME_HEADER)
            while place >= 0:
                with suppress(zstandard.ZstdError):
                    yield zstandard.ZstdDecompressor().decompressobj().decompress(data[place:])
                place = data.find(zstandard.FRAME_HEADER, place + 1)


@pytest.mark.parametrize("wanted", ["hr/secret", "hr/secret/", "./hr/secret/pay.md"])
def test_forget_leaves_neither_text_nor_vectors_in_any_file(wanted: str, tmp_path: Path) -> None:
    secret = document("hr/secret/pay.md", "The zanzibar clause pays nine million.", "Its codicil names Quetzalcoatl.")
    documents = [*corpus(3, 20), secret, document("hr/secretary.md", "A secretary is another path.")]
    index = make(tmp_path / "index", documents)
    vectors = [vector.tobytes() for vector in ENCODER.encode([secret.text[s.start : s.end] for s in secret.chunks])]
    needles = [b"zanzibar", b"Quetzalcoatl", b"secret/pay.md", *vectors, *(v[:16] for v in vectors)]
    before = list(secrets_of(tmp_path))
    assert all(any(needle in data for data in before) for needle in needles)
    assert index.forget(wanted) == 1
    after = list(secrets_of(tmp_path))
    assert not [needle for needle in needles for data in after if needle in data]
    assert not any("secret/" in hit.chunk.path for hit in find(index, "zanzibar", k=1000))
    assert any(hit.chunk.path == "hr/secretary.md" for hit in find(index, "secretary", k=1000))
    artifacts.verify(tmp_path / "index")
    fresh = make(tmp_path / "fresh", [each for each in documents if each != secret])
    assert find(index, "salary", k=100) == find(fresh, "salary", k=100)


def test_what_is_forgotten_stays_out_of_updates_until_it_is_readmitted(tmp_path: Path) -> None:
    documents = [document("hr/old/a.md", "alpha"), document("hr/old/b.md", "beta"), document("hr/c.md", "gamma")]
    index = make(tmp_path / "index", documents)
    assert index.forget("hr/old") == 2
    assert index.forget("hr/old") == 0
    index.update([*documents, document("hr/old/new.md", "delta")], RULES)
    assert {hit.chunk.path for hit in find(index, "alpha", k=100)} == {"hr/c.md"}
    assert not index.readmit("hr/old/a.md")
    assert index.readmit("hr/old")
    index.update(documents, RULES)
    assert len(find(index, "alpha", k=100)) == 3
    make(tmp_path / "fresh", documents)
    assert files_of(tmp_path / "index") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("path", ["../hr", "/etc", "", ".", "hr/../hr"])
def test_a_path_out_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    index = make(tmp_path / "index", corpus(0))
    with pytest.raises(ConfigError, match="not a path below the documents' folder"):
        index.forget(path)


def test_forget_removes_what_was_quarantined_too(tmp_path: Path) -> None:
    index = make(tmp_path / "index", corpus(0))
    rows = [Unreadable("hr/broken.pdf", None, "truncated"), Unreadable("hr/other.pdf", 3, "encrypted")]
    index.update(corpus(0), RULES, quarantined=iter(rows))
    assert index.artifact.counts["quarantined"] == 2
    assert index.forget("hr/broken.pdf") == 1
    assert [row["file"] for row in index._current().lines(QUARANTINE)] == ["hr/other.pdf"]
    index.update(corpus(0), RULES, quarantined=rows)
    assert [row["file"] for row in index._current().lines(QUARANTINE)] == ["hr/other.pdf"]


def test_two_documents_with_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a.md: two documents have this path"):
        make(tmp_path / "index", [document("hr/a.md", "x"), document("hr/a.md", "y")])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_index_and_empty_documents_find_nothing(tmp_path: Path) -> None:
    for number, documents in enumerate([[], [document("hr/empty.md")]]):
        index = make(tmp_path / f"index-{number}", documents)
        assert find(index, "anything") == []
        with pytest.raises(AccessDenied):
            index.chunk("0" * 32, "ann", RULES)
        assert index.artifact.counts["documents"] == len(documents)
        index.update(corpus(0), RULES)
        assert find(index, "salary")


def test_terms_of_a_hundred_thousand_characters_are_terms(tmp_path: Path) -> None:
    index = make(tmp_path / "index", [document("hr/a.md", "x" * 100_000, "\u6771" * 100_000), *corpus(0)], encoder=None)
    assert index.search(Query("x" * 100_000, None), "ann", RULES, 5)[0].chunk.start == 0
    assert index.search(Query("x" * 99_999, None), "ann", RULES, 5) == []
    (hit,) = index.search(Query("\u6771\u6771", None), "ann", RULES, 5)
    assert hit.chunk.text == "\u6771" * 100_000


def test_texts_of_many_blocks_and_of_half_characters_come_back_as_they_were(tmp_path: Path) -> None:
    parts = ["é" * 40_000, "b" * 30_000 + " needle", "\ud800 lone", "c" * 70_000]
    index = make(tmp_path / "index", [document("hr/a.md", *parts)], encoder=None)
    shown = {index.search(Query(word, None), "ann", RULES, 1)[0].chunk.text for word in ("needle", "lone", parts[0])}
    assert shown == {parts[0], parts[1], parts[2]}


def test_an_open_index_sees_a_change_at_its_next_query(tmp_path: Path) -> None:
    writer = make(tmp_path / "index", [document("hr/a.md", "alpha")])
    reader = Index.open(tmp_path / "index", KEY)
    assert [hit.chunk.path for hit in find(reader, "alpha")] == ["hr/a.md"]
    writer.update([document("hr/b.md", "alpha")], RULES)
    assert [hit.chunk.path for hit in find(reader, "alpha")] == ["hr/b.md"]
    assert reader.digest == writer.digest


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    index = make(tmp_path / "index", corpus(0))

    def documents() -> Iterator[Indexed]:
        with pytest.raises(ArtifactError, match=r"index: another process is changing it; try again"):
            Index.open(tmp_path / "index", KEY, ENCODER).update(corpus(1), RULES)
        with pytest.raises(ArtifactError, match=r"index: another process is changing it; try again"):
            index.forget("hr")
        yield from corpus(2)

    index.update(documents(), RULES)
    make(tmp_path / "fresh", corpus(2))
    assert files_of(tmp_path / "index") == files_of(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "index"]


def test_another_key_or_a_missing_encoder_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "index", corpus(0))
    with pytest.raises(ArtifactError, match="made with another secret key"):
        Index.open(tmp_path / "index", b"x" * 32)
    with pytest.raises(ConfigError, match="the index has vectors; give its encoder"):
        Index.open(tmp_path / "index", KEY).update(corpus(0), RULES)
    with pytest.raises(ArtifactError, match="no such folder"):
        Index.open(tmp_path / "indx", KEY)
    assert Index.open(tmp_path / "index", KEY).forget("hr") > 0


@pytest.mark.parametrize("name", ["documents.arrow", "chunks.arrow", "terms.arrow", "postings.arrow", "vectors.npy"])
@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "empty"])
def test_damage_is_one_clear_line_for_those_alone_who_may_read_the_segment(
    damage: str, name: str, tmp_path: Path
) -> None:
    make(tmp_path / "index", [document("hr/a.md", "salary " * 50), document("public/a.md", "valve")])
    reader = Index.open(tmp_path / "index", KEY)
    (private,) = [n for n, access in reader._current().classes.items() if "hr" in access.read]
    damaged(tmp_path / "index" / private / name, damage)
    with pytest.raises(DigestMismatch) as error:
        find(reader, "salary")
    assert str(tmp_path / "index" / private) in str(error.value)
    assert "\n" not in str(error.value)
    assert [hit.chunk.path for hit in find(Index.open(tmp_path / "index", KEY), "valve", "bob")] == ["public/a.md"]
    with pytest.raises(DigestMismatch):
        reader.forget("public")


@pytest.mark.parametrize("name", ["documents.arrow", "chunks.arrow", "terms.arrow", "postings.arrow", "vectors.npy"])
def test_a_file_that_no_manifest_would_catch_is_refused_if_its_lengths_contradict(name: str, tmp_path: Path) -> None:
    make(tmp_path / "index", [document("hr/a.md", "salary budget", "pump")])
    make(tmp_path / "other", [document("hr/a.md", "salary"), document("hr/b.md", "a pump", "a rotor", "x")])
    (folder,) = [path.parent for path in (tmp_path / "index").rglob(name)]
    (other,) = (tmp_path / "other").rglob(name)
    shutil.copy(other, folder / name)
    with pytest.raises(DigestMismatch, match="damaged"):
        segment.Segment(folder)
    (folder / name).write_bytes(b"ARROW1 but not really")
    with pytest.raises(DigestMismatch, match=f"{name}: damaged"):
        segment.Segment(folder)


def test_after_a_change_of_the_rules_a_damaged_segment_is_an_error_for_its_readers_alone(tmp_path: Path) -> None:
    make(tmp_path / "index", [document("hr/a.md", "salary"), document("public/a.md", "valve")])
    reader = Index.open(tmp_path / "index", KEY)
    (private,) = [n for n, access in reader._current().classes.items() if "hr" in access.read]
    (tmp_path / "index" / private / "chunks.arrow").unlink()
    changed = RULES._replace(version="2")
    assert [hit.chunk.path for hit in find(reader, "valve", "bob", changed)] == ["public/a.md"]
    with pytest.raises(DigestMismatch):
        find(reader, "valve", "ann", changed)


def test_a_query_reads_one_state_of_an_index_that_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is replaced between the first of two segments and the second, before the second is opened."""
    old = [document("hr/a.md", "salary budget"), document("public/a.md", "budget of old")]
    new = [document("hr/a.md", "invoice budget"), document("public/a.md", "budget of new")]
    states = [{hit.chunk.text for hit in find(make(tmp_path / name, each), "budget")} for name, each in
              (("old", old), ("new", new))]  # fmt: skip
    make(tmp_path / "index", old)
    reader, opened = Index.open(tmp_path / "index", KEY), []

    class Replaced(segment.Segment):
        def __init__(self, folder: Path) -> None:
            opened.append(folder)
            if len(opened) == 2:
                make(tmp_path / "index", new)
            super().__init__(folder)

    monkeypatch.setattr("ibidem.grounding.index.Segment", Replaced)
    seen = {hit.chunk.text for hit in find(reader, "budget")}
    assert seen == states[1] != states[0]


def test_a_view_of_an_index_that_was_replaced_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another query of the same process loads the index without the forgotten document while the view is made."""
    make(tmp_path / "index", [document("hr/a.md", "salary"), document("public/a.md", "valve")])
    reader, made = Index.open(tmp_path / "index", KEY), []

    def view(parts: list[Part]) -> View:
        made.append(parts)
        if len(made) == 1:
            Index.open(tmp_path / "index", KEY).forget("hr")
            assert len(find(reader, "valve")) == 1
        return View(parts)

    monkeypatch.setattr("ibidem.grounding.index.View", view)
    assert [hit.chunk.path for hit in find(reader, "valve salary")] == ["public/a.md"]
    assert {digest for _, _, digest in reader._views} == {reader.digest}


def test_a_file_that_could_not_be_read_is_forgotten_too(tmp_path: Path) -> None:
    index = Index(tmp_path / "index", KEY)
    index.update([document("public/a.md", "valve")], RULES, quarantined=[Unreadable("hr/a.pdf", None, "damaged")])
    assert index.forget("hr/a.pdf") == 1
    assert index.forget("hr/a.pdf") == 0


def test_an_update_returns_the_forgotten_documents_that_it_left_out(tmp_path: Path) -> None:
    documents = [document("hr/a.md", "salary"), document("hr/b.md", "budget"), document("public/a.md", "valve")]
    index = make(tmp_path / "index", documents, encoder=None)
    assert index.forget("hr") == 2
    assert index.update(documents, RULES) == ["hr/a.md", "hr/b.md"]
    assert index.update(documents[2:], RULES) == []


def damaged(path: Path, damage: str) -> None:
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flip":
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :])
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")


def test_lists_of_an_index_are_checked(tmp_path: Path) -> None:
    for name in (SEGMENTS, FORGOTTEN):
        index = make(tmp_path / name, corpus(0))
        (tmp_path / name / name).write_text("{}\n")
        with pytest.raises(DigestMismatch, match=name):
            Index.open(tmp_path / name, KEY)._current().lines(name)
        with pytest.raises(DigestMismatch, match=name):
            index.forget("hr")


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_at_any_file_operation_leaves_the_old_index_or_the_new_one(kills: int, tmp_path: Path) -> None:
    """Kill updates and forgetting, as many of each; a second attempt leaves the new one, and nothing beside it."""
    script = Path(__file__).with_name("killed_writers.py")
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path), str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 * kills
    assert all(row["killed"] for row in rows)
    assert {row["left"] for row in rows} == {"old", "new"}
    assert all(row["readable"] for row in rows)
    assert {row["then"] for row in rows} == {"new"}
    assert {tuple(row["beside"]) for row in rows} == {("index",)}
    assert not any(row["path"] for row in rows if row["change"] == "forget")


def test_forgetting_keeps_the_settings_of_the_index_whoever_asks(tmp_path: Path) -> None:
    index = make(tmp_path / "index", corpus(0))
    config = index.artifact.config
    Index(tmp_path / "index", KEY, acl="elsewhere", encoder=HashEncoder(8)).forget("hr")
    assert index.artifact.config == config
    assert index.readmit("hr")
    assert index.artifact.config == config


def test_without_hard_links_unchanged_segments_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    index = make(tmp_path / "index", corpus(0))
    before = files_of(tmp_path / "index")
    monkeypatch.setattr(os, "link", refuse)
    index.update(corpus(0), RULES)
    assert files_of(tmp_path / "index") == before
