"""Duplicates: exactly those that exact Jaccard similarity finds, each covered by a document that is kept."""

import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import SHARED_DATA, python_file
from tests.data.left_out import dropped

from ibidem import artifacts, jsonl, log
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.dedup import SKETCH, agreement
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.data.text import shingles
from ibidem.errors import ConfigError

WORDS = re.compile(r"\w+")
COMMENT = re.compile(
    r"\s*(?:(?:<\?|#!)[^\n]*\n?\s*)*"  # what may stand in front of it
    r"(/\*.*?\*/|<!--.*?-->|(?=(?P<sign>.))(?://|--|;;|##|%%|[#%](?=\s))[^\n]*(?:\n[ \t]*(?P=sign)[^\n]*)*)",
    re.DOTALL,
)
APACHE = """Licensed to the Foundation under one or more contributor license agreements. See the NOTICE file
distributed with this work for additional information regarding copyright ownership. You may not use this file except in
compliance with the License. You may obtain a copy of the License at the address given in it. Unless required by law or
agreed to in writing, software distributed under the License is distributed on an as is basis, without any warranties or
conditions of any kind, either express or implied."""


def body(text: str) -> str:
    """Give a text without the leading comments, four at most, up to the last that names a license or a copyright."""
    place = end = 0
    for _ in range(4):
        if (comment := COMMENT.match(text, place)) is None:
            break
        place = comment.end()
        end = place if re.search("licen|copyright", comment[1].lower()) else end
    return text[end:] if len(WORDS.findall(text[end:])) >= 5 else text


def shingle_tuples(text: str) -> set[tuple[str, ...]]:
    """Give the shingles of the body: 5 lower-cased words in a row; a shorter text is one shingle."""
    words = WORDS.findall(body(text).lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def similarity(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b)


def edited(text: str, rng: random.Random) -> str:
    """Change some words of a text."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 8)):
        words[rng.randrange(len(words))] = rng.choice(["alpha", "beta", "gamma"])
    return " ".join(words)


def corpus() -> list[str]:
    rng = random.Random(0)
    texts = [python_file(seed) for seed in range(120)]
    for seed in range(0, 120, 2):
        texts += [edited(texts[seed], rng), texts[seed].replace("\n", "\n\n"), texts[seed].upper()]
    texts += [texts[5], texts[5], "a b c\n", "A, b: c;\n"]
    rng.shuffle(texts)
    return texts


def run(output: Path, texts: list[str], **settings: object) -> None:
    path = output.parent / f"{output.name}.parquet"
    pq.write_table(pa.table({"text": texts, "id": [f"d{i}" for i in range(len(texts))]}), path)
    quiet = {"skip": ("filters", "scrub")}
    preprocess(PreprocessConfig(dataset=(f"{path}:train:text",), output_dir=output, shard_size=50, **quiet | settings))


def kept(output: Path) -> dict[str, dict[str, object]]:
    return {row["record"]: row for path in shards.shard_paths(output) for row in pq.read_table(path).to_pylist()}


def test_removal_is_exactly_what_exact_similarity_covers(tmp_path: Path) -> None:
    texts = corpus()
    run(tmp_path / "out", texts)
    sets = {f"d{i}": shingle_tuples(text) for i, text in enumerate(texts)}
    stays: list[str] = []
    for record, own in sets.items():  # the rule itself, with nothing but exact similarity
        if not any(similarity(own, sets[other]) >= 0.8 for other in stays):
            stays.append(record)
    assert list(kept(tmp_path / "out")) == stays
    gone = dropped(tmp_path / "out")
    assert len(gone) + len(stays) == len(texts)
    for row in gone:
        assert row["kept"] in stays
        assert similarity(sets[row["record"]], sets[row["kept"]]) == pytest.approx(row["similarity"], abs=1e-12)
        assert row["cluster"]


def commented(words: str, sign: str) -> str:
    if sign == "/*":
        return "/*\n" + "".join(f" * {line}\n" for line in words.splitlines()) + " */\n"
    return f"<!--\n{words}\n-->\n" if sign == "<!--" else "".join(f"{sign} {line}\n" for line in words.splitlines())


@pytest.mark.parametrize("sign", ["/*", "//", "#", "--", ";;", "%", "<!--", "#!/bin/sh\n#", "<?php\n/*"])
def test_files_are_not_similar_because_they_have_the_same_license(sign: str, tmp_path: Path) -> None:
    first, _, last = sign.rpartition("\n")
    head = (first + "\n" if first else "") + commented(APACHE, last)
    names = ["one two three four five six seven eight", "alpha beta gamma delta epsilon zeta", "a b c d e f g h i j k"]
    assert len(head.split()) > 7 * max(len(name.split()) for name in names)  # most of each file is the license
    texts = [head + name + "\n" for name in names] + [f"{head}\n{names[0]}\n", names[1].upper() + "\n"]
    run(tmp_path / "out", texts)
    assert list(kept(tmp_path / "out")) == ["d0", "d1", "d2"]


@pytest.mark.parametrize(
    "text",
    [
        "/* Copyright of someone */ a b c d e f", "/* no terms */ /* LICENSE: MIT */\na b c d e f",
        "# License\n\na b c d e\n", "#include <license.h>\na b c d e f", "/* license never closed a b c d e f",
        "// license\n\n// a b c d e f\nx", "// license\n  // more\n/* a b */ c d e f g h", "a b c d e f /* license */",
        "# license", "% license\n%% a\nb c d e f g", "/* \u03a3 \u0130 license */ \u03a3 \u0130 a b c d",
        "-- license\n- a b c d e f", "", "<!-- license --> a b c d", "---\nlicense: x\n",
    ],
)  # fmt: skip
def test_the_body_begins_behind_the_license(text: str) -> None:
    (found,) = shingles.body_sets(pa.array([text], pa.large_string()))
    assert found.tolist() == shingles.shingle_set(body(text).encode()).tolist()


def test_a_cluster_links_the_dropped_to_the_kept(tmp_path: Path) -> None:
    texts = [python_file(1), python_file(2), python_file(1).upper(), python_file(1)]
    run(tmp_path / "out", texts)
    rows = kept(tmp_path / "out")
    assert set(rows) == {"d0", "d1"}
    cluster = rows["d0"]["cluster"]
    assert cluster == str(rows["d0"]["sha256"])[:16]
    assert rows["d1"]["cluster"] is None
    gone = dropped(tmp_path / "out")
    assert [(row["record"], row["reason"], row["kept"], row["cluster"]) for row in gone] == [
        ("d2", "duplicate.near", "d0", cluster),
        ("d3", "duplicate.exact", "d0", cluster),
    ]
    assert artifacts.load(tmp_path / "out").counts["clusters"] == {"clusters": 1, "documents": 3, "largest": 3}


@pytest.mark.parametrize("near", [True, False])
def test_parts_can_be_switched_off(tmp_path: Path, *, near: bool) -> None:
    texts = [python_file(1), python_file(1).upper(), python_file(1)]
    run(tmp_path / "out", texts, dedup={"near": near})
    assert set(kept(tmp_path / "out")) == ({"d0"} if near else {"d0", "d1"})
    run(tmp_path / "none", texts, dedup={"near": False, "exact": False})
    assert len(kept(tmp_path / "none")) == 3


def test_without_exact_the_search_for_near_duplicates_finds_copies_too(tmp_path: Path) -> None:
    run(tmp_path / "out", [python_file(1), python_file(1).upper(), python_file(1)], dedup={"exact": False})
    assert set(kept(tmp_path / "out")) == {"d0"}


def test_a_copy_of_what_is_covered_is_covered_by_the_same_document(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(100)]
    near = " ".join([*words, "one", "more"])
    run(tmp_path / "out", [" ".join(words), near, near, near.upper()])
    gone = dropped(tmp_path / "out")
    assert [(row["record"], row["kept"], row["similarity"]) for row in gone] == [
        (f"d{number}", "d0", 96 / 98) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(("threshold", "stays"), [(0.8, {"d0"}), (0.801, {"d0", "d1"})])
def test_what_is_as_similar_as_is_asked_for_is_a_duplicate(threshold: float, stays: set[str], tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(9)]
    texts = [" ".join(words), " ".join(words[:8])]  # 4 of 5 shingles
    run(tmp_path / "out", texts, dedup={"similarity": threshold})
    assert set(kept(tmp_path / "out")) == stays


def test_what_an_existing_corpus_covers_does_not_enter_again(tmp_path: Path) -> None:
    texts = corpus()
    run(tmp_path / "base", texts[:200])
    run(tmp_path / "more", texts[200:], dedup={"against": (tmp_path / "base",)})
    run(tmp_path / "whole", texts)
    whole = {row["sha256"] for row in kept(tmp_path / "whole").values()}
    parts = [row["sha256"] for name in ("base", "more") for row in kept(tmp_path / name).values()]
    assert sorted(parts) == sorted(whole)


def test_an_existing_corpus_without_sketches_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "base", corpus()[:20], dedup={"near": False})
    with pytest.raises(ConfigError, match="near"):
        run(tmp_path / "more", corpus()[20:30], dedup={"against": (tmp_path / "base",)})


@given(st.text(max_size=200), st.text(max_size=200))
def test_hashed_sets_have_the_similarity_of_the_words(a: str, b: str) -> None:
    a, b = a.encode(errors="ignore").decode(), b.encode(errors="ignore").decode()
    found = shingles.jaccard(shingles.shingle_set(a.encode()), shingles.shingle_set(b.encode()))
    assert found == similarity(shingle_tuples(a), shingle_tuples(b))


@given(st.lists(st.sampled_from("01"), max_size=12), st.lists(st.sampled_from("01"), max_size=12))
def test_only_the_same_words_in_the_same_order_are_the_same_sequence(a: list[str], b: list[str]) -> None:
    thue_morse = "0 1 1 0 1 0 0 1 1 0 0 1 0 1 1 0"
    texts = [" ".join(a), " ".join(b), thue_morse, thue_morse.translate(str.maketrans("01", "10"))]
    _, _, sequences = shingles.sketch(pa.array(texts, pa.large_string()))
    assert (sequences[0] == sequences[1]) == (a == b)
    assert sequences[2] != sequences[3]


def test_of_pairs_at_the_threshold_one_in_thousands_is_missed() -> None:
    agrees = np.random.default_rng(0).random((200_000, shingles.NUM_PERMUTATIONS)) < 0.8
    signatures = np.where(agrees, np.uint32(0), np.uint32(1))
    same = np.zeros(len(agrees), bool)
    for band in range(shingles.NUM_KEYS):
        same |= shingles.band_keys(signatures, band) == shingles.band_keys(np.zeros((1, 112), np.uint32), band)
    assert np.count_nonzero(~same) < 80  # 40 are expected


@given(st.lists(st.text(max_size=60), max_size=6))
def test_many_texts_have_the_sets_of_each(texts: list[str]) -> None:
    texts = [text.encode(errors="ignore").decode() for text in [*texts, "ΑΣ İ ΣΑΣ", "a b c d e f g"]]
    found = list(shingles.body_sets(pa.array(["before", *texts], pa.large_string()).slice(1)))
    assert [some.tolist() for some in found] == [shingles.shingle_set(text.encode()).tolist() for text in texts]


@pytest.mark.parametrize(
    "text", ["ΑΣ ΣΑΣ α", "İstanbul İ", "straße STRASSE ǅ ǆ", "日本語 テキスト", "a_b 1２３ x²", "e\u0301 É"]
)
def test_words_are_those_of_the_regular_expression(text: str) -> None:
    count = len(WORDS.findall(text.lower()))
    assert len(shingles.word_hashes(text.encode())) == count
    assert (shingles.word_hashes(text.encode()) == shingles.word_hashes(text.lower().encode())).all()


@given(st.text("aB_1 .\n", max_size=80) | st.text("aB_1 .\n\xe9\xdf\u6f22\U0001f600", max_size=80))
def test_a_word_is_hashed_by_its_letters_wherever_it_stands(text: str) -> None:
    expected = []
    for word in WORDS.findall(text.lower()):
        h = 0
        for letter in word:  # FNV-1a from 0
            h = (h ^ ord(letter)) * 0x100000001B3 % 2**64
        expected.append(h ^ (h >> 32))
    assert shingles.word_hashes(text.encode()).tolist() == expected


def test_sketches_of_similar_texts_agree_as_often_as_they_are_similar() -> None:
    base = [f"word{i}" for i in range(3000)]
    texts = [" ".join(base), " ".join(base[300:] + [f"other{i}" for i in range(300)])]
    signatures, _, _ = shingles.sketch(pa.array(texts, pa.large_string()))
    truth = similarity(shingle_tuples(texts[0]), shingle_tuples(texts[1]))
    estimate = agreement(signatures[0], signatures[1:])[0]
    assert abs(estimate - truth) < 4 * (truth * (1 - truth) / 112) ** 0.5


def test_simhash_is_the_majority_of_the_bits() -> None:
    hashes = shingles.shingle_set(" ".join(f"w{i}" for i in range(500)).encode())
    votes = ((hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).sum(axis=0)
    expected = sum(1 << bit for bit in range(64) if 2 * votes[bit] > len(hashes))
    _, simhashes, _ = shingles.sketch(pa.array([" ".join(f"w{i}" for i in range(500))], pa.large_string()))
    assert int(simhashes[0]) == expected


def test_texts_within_three_bits_share_a_simhash_key() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2**63, 200, dtype=np.uint64)
    flips = np.array([sum(1 << int(bit) for bit in rng.choice(64, 3, replace=False)) for _ in one], np.uint64)
    assert np.any([one & mask == (one ^ flips) & mask for mask in shingles.SIMHASH_MASKS], axis=0).all()


def test_simhash_proposes_pairs_that_no_band_of_minhash_does(tmp_path: Path) -> None:
    rng = random.Random(57458)  # of some 50,000 seeds the first whose texts share a SimHash key and no band
    words = [f"{rng.randrange(16**4):04x}" for _ in range(60)]
    texts = [" ".join(words[:43]), " ".join(words)]
    signatures, simhashes, _ = shingles.sketch(pa.array(texts, pa.large_string()))
    keys = [shingles.band_keys(signatures, band) for band in range(shingles.NUM_KEYS)]
    assert all(first != second for first, second in keys)
    assert (simhashes[0] ^ simhashes[1]).bit_count() == 3
    assert similarity(*map(shingle_tuples, texts)) > 0.6
    for simhash, stays in ((True, {"d0"}), (False, {"d0", "d1"})):
        run(tmp_path / str(simhash), texts, dedup={"similarity": 0.6, "simhash": simhash})
        assert set(kept(tmp_path / str(simhash))) == stays


def test_a_sketch_row_is_the_same_in_every_batch() -> None:
    texts = pa.array([*corpus()[:40], "ΣΑΣ", ""], pa.large_string())
    whole = shingles.sketch(texts)
    for index in (0, 17, 39, 40, 41):
        alone = shingles.sketch(texts.slice(index, 1))
        assert all((a[index] == b[0]).all() for a, b in zip(whole, alone, strict=True))
    assert SKETCH.itemsize == 496


HASHES = st.lists(st.integers(0, 9) | st.integers(0, 2**64 - 1))


@given(HASHES, HASHES)
def test_a_set_of_hashes_holds_what_was_put_into_it(held: list[int], asked: list[int]) -> None:
    asked += held
    found = shingles.HashSet(np.array(held, np.uint64)).has(np.array(asked, np.uint64))
    assert found.tolist() == [key in held for key in asked]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared corpus is not here")
def test_real_files_lose_every_true_duplicate_and_nothing_else(tmp_path: Path) -> None:
    texts = pq.read_table(SHARED_DATA / "corpus" / "part-00016.parquet", columns=["text"])["text"].to_pylist()[:1500]
    run(tmp_path / "out", texts)
    sets = {f"d{i}": shingle_tuples(text) for i, text in enumerate(texts)}
    stays = list(kept(tmp_path / "out"))
    gone = dropped(tmp_path / "out")
    assert all(
        similarity(sets[row["record"]], sets[row["kept"]]) >= 0.8
        for row in gone
        if row["reason"].startswith("duplicate.")
    )
    by_shingle: dict[tuple[str, ...], list[str]] = {}
    for record in stays:
        for shingle in sets[record]:
            by_shingle.setdefault(shingle, []).append(record)
    pairs = {(a, b) for group in by_shingle.values() if len(group) < 60 for a in group for b in group if a < b}
    assert not [pair for pair in pairs if similarity(sets[pair[0]], sets[pair[1]]) >= 0.8]


@pytest.mark.parametrize("near", [True, False])
def test_the_progress_of_deduplication_counts_every_document_once(
    near: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PROGRESS_INTERVAL_S", 0.0)
    texts = [python_file(seed) for seed in range(30)]
    texts += [*texts[:5], *(f"{text}\n# more\n" for text in texts[5:10])]
    (tmp_path / "a.jsonl").write_text(jsonl.dumps({"text": text} for text in texts))
    spec = f"{tmp_path / 'a.jsonl'}:train:text"
    flags = ["--dedup.near", str(near).lower(), "--skip", "filters", "--output-dir", str(tmp_path / "out")]
    events: list[log.Record] = []
    with log.showing(events.append):
        assert main(["preprocess", "--dataset", spec, *flags]) == 0
    shown = [event for event in events if event.get("name") == "preprocess.deduplicate"]
    assert {event["total"] for event in shown} == {len(texts)}
    assert shown[-1]["done"] == len(texts)
    done = [event["done"] for event in shown]
    assert done == sorted(done)
    assert len(set(done)) > (2 if near else 1)
