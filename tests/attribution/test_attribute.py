"""A text is attributed to the training documents that it repeats, and to no others."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibidem import accounts, artifacts
from ibidem.attribution import index as index_module
from ibidem.attribution import similar
from ibidem.attribution.attribute import attribute
from ibidem.attribution.config import PART_TOKENS, AttributeConfig, BuildConfig
from ibidem.attribution.index import build, index_part
from ibidem.attribution.lookup import Attribution
from ibidem.attribution.similar import shingles
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.blend import BlendConfig, Ingredient, blend
from ibidem.data.engine import EngineConfig
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch
from ibidem.files import sha256_of
from ibidem.training.tokenize import tokenized

LEAST = 20
OWN = 'fn carry_on() { while let Some(x) = queue.pop() { println!("{x:?}"); } }  // of no training document\n'


@pytest.fixture
def index(dataset: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """An index, beside its tokens and a copy of the dataset."""
    shutil.copytree(dataset, tmp_path / "data")
    return indexed(tmp_path, tokenizer_dir)


def indexed(folder: Path, tokenizer_dir: Path, part_tokens: int = PART_TOKENS) -> Path:
    tokens, _ = tokenized(folder / "data", tokenizer_dir, folder / "tokens", held_out_share=0.1)
    build(BuildConfig(tokens=tokens.path, output_dir=folder / "index", part_tokens=part_tokens))
    return folder / "index"


def texts(data: Path) -> dict[str, str]:
    return {
        row["sha256"]: row["text"]
        for path in shards.shard_paths(data)
        for row in shards.read_rows(path, ["sha256", "text"])
    }


def trained(data: Path) -> dict[str, str]:
    return {sha256: text for sha256, text in texts(data).items() if not shards.is_held_out(sha256, 0.1)}


def long_document(data: Path) -> tuple[str, str]:
    return next((sha256, text) for sha256, text in trained(data).items() if len(text) > 500)


def test_parts_of_documents_are_attributed_to_every_document_that_has_them(index: Path) -> None:
    known, lookup = trained(index.parent / "data"), Attribution(index, least_tokens=LEAST)
    everything = [(sha256, text) for sha256, text in known.items() if len(text) > 300]
    assert len(everything) > 150
    for place, (sha256, text) in enumerate(everything):
        start = place % 37
        copied = text[start : start + 240]
        answer = OWN + copied + OWN
        repetitions = lookup.of_text(answer)
        longest = max(repetitions, key=lambda each: each.num_tokens)
        assert longest.end - longest.start >= len(copied) - 12
        assert sha256 in {source.sha256 for source in longest.sources}
        for each in repetitions:
            span = answer[each.start : each.end]
            holding = {other for other, whole in known.items() if span in whole}
            assert {source.sha256 for source in each.sources} <= holding
            assert each.num_documents <= len(holding)


@pytest.mark.parametrize("part_tokens", [1, 70_000, PART_TOKENS])
def test_however_shards_are_joined_the_answer_is_the_same(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path, part_tokens: int
) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    lookup = Attribution(indexed(tmp_path, tokenizer_dir, part_tokens), least_tokens=LEAST)
    parts = {path.parent for path in (tmp_path / "index").rglob(index_module.SUFFIXES)}
    shards_of = artifacts.load(tmp_path / "index").config["shards"]
    assert (len(parts) == 1) == (part_tokens == PART_TOKENS)
    assert (len(parts) == len(shards_of)) == (part_tokens == 1)
    for sha256, text in trained(tmp_path / "data").items():
        if len(text) > 300:
            [longest, *_] = sorted(lookup.of_text(text), key=lambda each: -each.num_tokens)
            assert (longest.start, longest.end) == (0, len(text))
            assert sha256 in {source.sha256 for source in longest.sources}


def test_ten_thousand_queries_of_all_lengths_occur_in_all_parts_as_often_as_a_scan_finds_them(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    parts = Attribution(indexed(tmp_path, tokenizer_dir, 70_000))._parts
    raw = [part.ids_N.tobytes() for part in parts]
    assert len(parts) > 1
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        ids_N, size = parts[rng.integers(len(parts))].ids_N, int(rng.integers(1, 500))
        start = int(rng.integers(len(ids_N) - size))
        query_Q = ids_N[start : start + size].copy()
        if rng.random() < 0.3:
            query_Q[rng.integers(size)] += 1
        wanted = query_Q.tobytes()
        for part, ids in zip(parts, raw, strict=True):
            places = part.occurrences(query_Q)
            assert all(ids[2 * place : 2 * place + len(wanted)] == wanted for place in places[:10])
            assert len(places) == occurring(ids, wanted)


def occurring(ids: bytes, wanted: bytes) -> int:
    """Count the places, at the beginning of a 16-bit id, at which a sequence occurs."""
    count, place = 0, ids.find(wanted)
    while place >= 0:
        count += place % 2 == 0
        place = ids.find(wanted, place + 1)
    return count


def test_no_span_crosses_from_a_document_into_the_next_one_of_its_shard_or_of_another(index: Path) -> None:
    lookup = Attribution(index, least_tokens=LEAST)
    [part] = lookup._parts
    starts = part.documents["start"].to_pylist()
    assert len(artifacts.load(index).config["shards"]) > 1
    for start in starts[1:]:
        around = part.ids_N[max(0, start - 60) : start + 60].tolist()
        assert all(lookup.tokenizer.document_id not in around[each.start : each.end] for each in lookup.of_ids(around))


def test_opening_hashes_no_file_that_has_not_changed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(artifacts, "sha256_of", lambda path: (hashed.append(path), sha256_of(path))[1])
    Attribution(index)
    assert not [path for path in hashed if index in path.parents]


@pytest.mark.parametrize("lacking", ["parts", "shingles"])
def test_an_index_of_another_version_is_one_line(index: Path, lacking: str) -> None:
    before = artifacts.load(index)
    older = {name: value for name, value in before.config.items() if name != lacking}
    shutil.rmtree(index)
    with artifacts.create(index, kind=index_module.KIND, config=older, inputs=before.inputs):
        pass
    with pytest.raises(ArtifactError, match="index of another version of ibidem; run ibidem attribute build again"):
        Attribution(index)


def test_a_text_of_ten_megabytes_has_an_answer_of_bounded_size(index: Path) -> None:
    _, text = long_document(index.parent / "data")
    lookup = Attribution(index, least_tokens=LEAST)
    with pytest.raises(ConfigError, match="too long, the most are 1,048,576; cut it into parts"):
        lookup.of_text(OWN * (10_000_000 // len(OWN)))
    repeated = lookup.of_text((text + OWN) * (200_000 // len(text + OWN)))
    assert len(repeated) >= 200_000 // len(text + OWN)
    assert all(len(each.sources) <= 10 for each in repeated)


def test_a_text_of_ones_own_repeats_nothing(index: Path) -> None:
    lookup = Attribution(index)
    assert not lookup.of_text(OWN)
    assert not lookup.of_text("")
    assert not lookup.of_ids([])


def edited(text: str) -> str:
    """Return a text with other layout, and with lines between its own."""
    lines = (
        line.replace("(", " ( ") + "\r\n# Of our own.\r\n" * (n % 8 == 4) for n, line in enumerate(text.splitlines())
    )
    return "\r\n  ".join(lines)


def test_an_edited_copy_is_similar_to_its_document_and_to_no_other(index: Path) -> None:
    lookup = Attribution(index)
    known = {sha256: text for sha256, text in trained(index.parent / "data").items() if len(text) > 500}
    for sha256, text in known.items():
        answer = OWN + edited(text) + OWN
        [found, *others] = sorted(lookup.similar_to(answer), key=lambda each: -each.similarity)
        assert found.source.sha256 == sha256
        assert found.start >= len(OWN) - 12
        assert found.end <= len(answer) - len(OWN) + 12
        for each in others:
            passage, document = answer[each.start : each.end], known[each.source.sha256].encode()
            assert each.similarity >= 0.5
            assert similar.passage(passage, shingles(passage.encode()), shingles(document)) is not None


def test_a_text_that_repeats_itself_is_not_like_a_document_that_does_so_once() -> None:
    text, document = "0, " * 400, "a = [0, 0, 0, 0, 1]"
    assert similar.passage(text, shingles(text.encode()), shingles(document.encode())) is None


def test_what_a_span_covers_is_not_also_similar(index: Path) -> None:
    lookup = Attribution(index)
    _, text = long_document(index.parent / "data")
    spans = lookup.of_text(text)
    assert not lookup.similar_to(text, spans)
    assert max(each.similarity for each in lookup.similar_to(text)) == 1.0


def test_a_text_of_ones_own_resembles_nothing(index: Path) -> None:
    lookup = Attribution(index)
    for text in ("", OWN, "\u0130 \u03a3\u03c2 " * 50, " ".join(map(str, range(5000)))):
        assert not lookup.similar_to(text)


def test_a_similar_passage_is_shown_with_its_document(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sha256, text = long_document(index.parent / "data")
    asked = ["attribute", edited(text), "--index", str(index)]
    assert main(asked) == 0
    *_, passage, source, summary = capsys.readouterr().out.splitlines()
    assert " % similar: " in passage
    assert "pkg/module_" in source
    assert summary.endswith("; 1 similar passage")
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["sha256"] for each in found["sources"]] == [sha256]
    assert 0.5 <= found["similarity"] < 1
    assert main([*asked, "--least-similarity", "1"]) == 0
    assert " similar: " not in capsys.readouterr().out


def test_held_out_documents_are_no_training_documents(index: Path) -> None:
    known = trained(index.parent / "data")
    held_out = {sha256 for sha256 in texts(index.parent / "data") if sha256 not in known}
    assert held_out
    lookup = Attribution(index, least_tokens=LEAST)
    for sha256, text in texts(index.parent / "data").items():
        if sha256 in held_out:
            named = {source.sha256 for each in lookup.of_text(text) for source in each.sources}
            assert not named & held_out


def test_a_span_of_many_documents_is_common(index: Path) -> None:
    _, opening = long_document(index.parent / "data")
    strict = Attribution(index, least_tokens=1, common_documents=1)
    assert any(each.is_common for each in strict.of_text(opening[:50]))
    loose = Attribution(index, least_tokens=1, common_documents=10**6)
    assert not any(each.is_common for each in loose.of_text(opening[:50]))


def test_after_a_takedown_nothing_is_attributed_to_what_was_removed(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path
    shutil.copytree(dataset, folder / "data")
    index = indexed(folder, tokenizer_dir, part_tokens=1)
    monkeypatch.chdir(folder)
    sha256, text = long_document(folder / "data")
    requests = folder / "requests.jsonl"
    requests.write_text(json.dumps({"kind": "sha256", "value": sha256}) + "\n")
    before = Attribution(index, least_tokens=LEAST).of_text(text)
    assert [source.is_removed for each in before for source in each.sources if source.sha256 == sha256] == [False]
    opened = Attribution(index, least_tokens=LEAST)
    assert [source.is_removed for each in opened.of_text(text) for source in each.sources] == [False]
    assert main(["takedown", "apply", str(requests), "--dataset", "data", "--artifacts", "tokens"]) == 0
    assert [source.is_removed for each in opened.of_text(text) for source in each.sources] == [True], "opened before"
    before_files = {path: path.read_bytes() for name in index_module.FILES for path in index.rglob(name)}
    stale = Attribution(index, least_tokens=LEAST).of_text(text)
    assert [source.is_removed for each in stale for source in each.sources if source.sha256 == sha256] == [True]
    made: list[Path] = []
    monkeypatch.setattr(index_module, "index_part", lambda task: (made.append(task.folder), index_part(task)))
    lookup = Attribution(indexed(folder, tokenizer_dir, part_tokens=1), least_tokens=LEAST)
    assert sha256 not in {source.sha256 for each in lookup.of_text(text) for source in each.sources}
    assert len(made) == 1, "only the part that had it"
    changed = {path.parent.name for path, content in before_files.items() if path.read_bytes() != content}
    assert changed == {made[0].name}


def test_a_document_that_a_blend_repeats_is_one_and_equal_texts_have_each_their_own_license(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, tmp_path / "one")
    other = artifacts.load(dataset)
    with artifacts.create(tmp_path / "two", kind=shards.KIND, config=other.config) as draft:
        draft.counts |= other.counts
        for path in shards.shard_paths(dataset):
            name = path.relative_to(dataset)
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            table = pq.read_table(path)
            for column in ("license", "source"):
                values = pa.array(["elsewhere"] * len(table))
                table = table.set_column(table.schema.get_field_index(column), column, values)
            pq.write_table(table, draft.path / name)
    ingredients = {
        name: Ingredient(path=tmp_path / name, category="code", max_repeats=3, weight=weight)
        for name, weight in (("one", 3.0), ("two", 1.0))
    }
    blend(BlendConfig(datasets=ingredients, output_dir=tmp_path / "data", shares={"code": 1.0}, shard_size=10**6))
    lookup = Attribution(indexed(tmp_path, tokenizer_dir), least_tokens=LEAST)
    sha256, text = long_document(tmp_path / "one")
    longest = max(lookup.of_text(text), key=lambda each: each.num_tokens)
    own = [source for source in longest.sources if source.sha256 == sha256]
    assert longest.num_places > longest.num_documents
    assert longest.num_documents == 2
    assert sorted(str(source.facts["license"]) == "elsewhere" for source in own) == [False, True]


def test_only_as_many_parts_are_indexed_at_a_time_as_memory_has_room_for(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = index_module.parent(artifacts.load(index), "tokens")
    parts = artifacts.load(index).config["parts"]
    asked, on_cluster = EngineConfig(workers=6), EngineConfig(runner="ray", workers=6)
    assert index_module._fitting(asked, tokens, parts).workers == 6
    of_a_part = 17 * sum(tokens.files[f"{folder}/train.bin"].bytes // 2 for each in parts.values() for folder in each)
    for room, workers in ((0, 1), (1, 1), (3, 3), (9, 6)):
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 2 * room, "SC_PHYS_PAGES": of_a_part + 1}.get)
        assert index_module._fitting(asked, tokens, parts).workers == workers
        assert index_module._fitting(on_cluster, tokens, parts) == on_cluster


def test_a_damaged_shard_of_the_dataset_is_refused(index: Path) -> None:
    tokens = index_module.parent(artifacts.load(index), "tokens").path
    path = shards.shard_paths(index.parent / "data")[0]
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    with pytest.raises(DigestMismatch, match="damaged"):
        build(BuildConfig(tokens=tokens, output_dir=index.parent / "another"))


def test_while_an_index_of_private_documents_is_made_nobody_else_sees_it(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = index_module.parent(artifacts.load(index), "tokens").path
    modes: list[int] = []

    def see(task: index_module.Task) -> None:
        modes.append(stat.S_IMODE(next(each for each in task.folder.parents if ".work-" in each.name).stat().st_mode))
        index_part(task)

    readers = {"readers": {"read": [accounts.this_user()], "deny": []}}
    monkeypatch.setattr(index_module, "recorded", lambda *_: readers)
    monkeypatch.setattr(index_module, "index_part", see)
    build(BuildConfig(tokens=tokens, output_dir=index.parent / "private"))
    assert set(modes) == {0o700}
    assert stat.S_IMODE((index.parent / "private").stat().st_mode) == 0o700


def test_tokens_that_have_changed_are_one_line(index: Path) -> None:
    tokens = index_module.parent(artifacts.load(index), "tokens").path
    manifest = json.loads((tokens / "manifest.json").read_text())
    shutil.rmtree(tokens)
    with artifacts.create(tokens, kind="tokens", config=manifest["config"]) as draft:
        (draft.path / "train.bin").write_bytes(bytes(18))
    with pytest.raises(ConfigError, match="no longer the tokens that"):
        Attribution(index)


def test_a_damaged_index_is_refused(index: Path) -> None:
    path = next(index.rglob("*.suffixes"))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DigestMismatch):
        Attribution(index)


def test_the_command_shows_spans_documents_and_licenses(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = long_document(index.parent / "data")
    answer = tmp_path / "answer.py"
    answer.write_text(text + OWN)
    assert main(["attribute", str(answer), "--index", str(index), "--least-tokens", "20"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("characters 0 to ")
    assert "pkg/module_" in shown
    assert shown.splitlines()[-1].startswith("1 span of training documents; ")
    assert main(["attribute", text, "--index", str(index), "--json"]) == 0
    [span] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (span["start"], span["num_documents"]) == (0, 1)
    assert set(span["sources"][0]) >= {"sha256", "license", "path", "swhid", "is_removed"}
    assert main(["attribute", OWN, "--index", str(index)]) == 0
    assert capsys.readouterr().out == "0 spans of training documents; 0 % of 101 characters\n"


def test_a_copy_with_other_ends_of_lines_is_a_copy(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = long_document(index.parent / "data")
    copy = tmp_path / "copy.py"
    copy.write_bytes(text.replace("\n", "\r\n").encode())
    assert main(["attribute", str(copy), "--index", str(index)]) == 0
    assert "; 100 % of " in capsys.readouterr().out.splitlines()[-1]


def test_bad_input_is_one_line(index: Path, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 0"):
        attribute(AttributeConfig(text=str(binary), index=index))
    with pytest.raises(ConfigError, match="too many; cut it"):
        Attribution(index).of_text("a" * 10**8)


def test_a_name_of_no_file_is_not_a_text_that_repeats_nothing(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in ((tmp_path / "answr.py", "No such file or directory"), (tmp_path, "Is a directory")):
        assert main(["attribute", str(name), "--index", str(index)]) == 2
        assert capsys.readouterr().err == f"ibidem: {name}: {said}; give a text, or a file that contains it\n"
    assert main(["attribute", "", "--index", str(index)]) == 0
    assert main(["attribute", "rows.append(row)", "--index", str(index)]) == 0


@pytest.mark.parametrize("flag", ["--least-tokens", "--common-documents"])
def test_a_number_that_no_text_reaches_is_one_line(index: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attribute", OWN, "--index", str(index), flag, str(10**20)]) == 2
    assert capsys.readouterr().err.startswith(f"ibidem: {flag}: input should be less than 2147483648 (got 1000")
    assert main(["attribute", OWN, "--index", str(index), flag, str(2**31 - 1)]) == 0


def test_what_a_checkpoint_says_is_attributed(
    index: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "generate",
        "--checkpoint",
        str(checkpoint),
        "--prompt",
        "def ",
        "--max-tokens",
        "20",
        "--attribute",
        str(index),
    ]
    assert main(asked) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 spans of training documents; 0 % of ")
    assert main([*asked, "--output", str(tmp_path / "said.jsonl")]) == 0
    assert "another tokenizer" not in capsys.readouterr().err
    said = json.loads((tmp_path / "said.jsonl").read_text())
    assert (said["repeats"], said["resembles"]) == ([], [])


def test_an_index_of_another_training_is_told(
    dataset: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    made = ["--input", str(tmp_path / "data"), "--output-dir", str(tmp_path / "tokenizer"), "--vocab-size", "400"]
    assert main(["train-tokenizer", *made]) == 0
    index = indexed(tmp_path, tmp_path / "tokenizer")
    asked = ["generate", "--checkpoint", str(checkpoint), "--prompt", "def ", "--max-tokens", "5"]
    capsys.readouterr()
    assert main([*asked, "--attribute", str(index)]) == 0
    assert "the model has another tokenizer" in capsys.readouterr().err
