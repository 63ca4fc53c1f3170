"""The cards say what the manifest says, and nothing that it does not know."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import zlib
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.conftest import python_file

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.cli import main
from ibidem.data.provenance.card import CardConfig, card
from ibidem.data.provenance.eu_summary import UNKNOWN, sources_in_words
from ibidem.data.provenance.plain_words import MOST_LICENSES, MOST_NAMED, counted_licenses, counted_names
from ibidem.data.provenance.source_facts import Provenance, Share
from ibidem.data.sources.installed import Package
from ibidem.data.sources.local import LocalFiles
from ibidem.errors import ArtifactError


@pytest.fixture
def folder(dataset: Path, tmp_path: Path) -> Path:
    card(CardConfig(dataset=dataset, output_dir=tmp_path / "card"))
    return tmp_path / "card"


def test_the_data_card_tells_the_counts_and_its_front_matter_is_yaml(folder: Path, dataset: Path) -> None:
    counts = artifacts.load(dataset).counts
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["language"] == sorted(code for code in counts["natural_language"] if code != "none")
    assert front["size_categories"] == ["n<1K"]
    assert f"{counts['read']:,} read = {counts['kept']:,} kept" in text
    for reason, count in counts["dropped"].items():
        assert f"| {reason} | {count:,} |" in text
    assert artifacts.load(dataset).digest in text


def test_croissant_names_every_shard_by_its_hash_and_every_plain_column(folder: Path, dataset: Path) -> None:
    croissant = json.loads((folder / "croissant.json").read_text())
    files = {item["contentUrl"]: item for item in croissant["distribution"] if item["@type"] == "cr:FileObject"}
    shards = {path.relative_to(dataset).as_posix(): path for path in dataset.rglob("shard-*.parquet")}
    assert files.keys() == shards.keys()
    for name, path in shards.items():
        assert files[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    fields = [field["name"] for field in croissant["recordSet"][0]["field"]]
    schema = pq.read_schema(next(iter(shards.values())))
    assert fields == [column.name for column in schema if not pa.types.is_nested(column.type)]
    assert croissant["conformsTo"] == "http://mlcommons.org/croissant/1.0"


def test_the_eu_summary_has_the_sections_of_the_template_and_admits_what_it_cannot_know(folder: Path) -> None:
    text = (folder / "eu_training_content_summary.md").read_text()
    for section in ["1. General information", "2. List of data sources", "3. Data processing aspects"]:
        assert f"## {section}" in text
    for part in ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3"]:
        assert f"\n{part} " in text
    assert f"1.1 Provider: {UNKNOWN}" in text
    assert text.count(UNKNOWN) >= 6


def test_the_cards_of_a_blend_name_the_sources_behind_it(dataset: Path, tmp_path: Path) -> None:
    flags = ["--datasets.a.path", str(dataset), "--shares.code", "1", "--output-dir", str(tmp_path / "blend")]
    assert main(["blend", *flags]) == 0
    assert main(["card", str(tmp_path / "blend")]) == 0
    source = next(item for item in artifacts.load(dataset).inputs if item.role == "source")
    for name in ("README.md", "eu_training_content_summary.md"):
        assert source.name in (tmp_path / "blend.card" / name).read_text()


def test_the_cards_say_that_languages_of_prose_were_not_looked_for(source_folder: Path, tmp_path: Path) -> None:
    spec, output = f"{source_folder}:train:text", tmp_path / "out"
    assert main(["preprocess", "--dataset", spec, "--output-dir", str(output), "--skip", "natural_languages"]) == 0
    card(CardConfig(dataset=output, output_dir=tmp_path / "card"))
    said = {name: (tmp_path / "card" / name).read_text() for name in ("README.md", "eu_training_content_summary.md")}
    assert "Languages of prose were not looked for" in said["README.md"]
    assert "Languages of prose: not looked for." in said["eu_training_content_summary.md"]


def test_a_card_never_goes_into_the_dataset(dataset: Path) -> None:
    with pytest.raises(ArtifactError, match="inside the artifact"):
        card(CardConfig(dataset=dataset, output_dir=dataset / "card"))


def test_the_card_of_a_blend_tells_what_its_datasets_dropped(source_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"kind": "path", "value": "pkg/module_00*"}) + "\n")
    words = ["--dataset", f"{source_folder}:train:text", "--output-dir", str(tmp_path / "data")]
    assert main(["preprocess", *words, "--removals.requests", str(tmp_path / "r.jsonl")]) == 0
    flags = ["--datasets.a.path", str(tmp_path / "data"), "--shares.code", "1", "--output-dir", str(tmp_path / "blend")]
    assert main(["blend", *flags]) == 0
    assert main(["card", str(tmp_path / "blend")]) == 0
    text = (tmp_path / "blend.card" / "README.md").read_text()
    assert "Honored: 1 request for removal. Removed on request: 10 documents." in text
    assert "| removal.requested | 10 |" in text
    assert "in the datasets that were blended" in text


def test_a_card_overwrites_nobody_elses_file(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ArtifactError, match="is not a card to replace"):
        card(CardConfig(dataset=dataset, output_dir=tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def git(folder: Path, *words: str, when: str = "2024-02-29T23:30:00-0800") -> str:
    """Run git with a fixed name and day."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    fixed = dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), os.devnull)
    days = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), when)
    words = ("git", *identity, *words)
    done = subprocess.run(words, cwd=folder, env=os.environ | fixed | days, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, url: str, *, license_text: str | None, files: int, when: str) -> str:
    """Write a repository with one commit, and return the commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for number in range(files):
        (folder / f"module_{number}.py").write_text(python_file(zlib.crc32(f"{folder} {number}".encode())))
    if license_text:
        (folder / "LICENSE").write_text(license_text)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all", when=when)
    git(folder, "remote", "add", "origin", url)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, list[str]]:
    """A dataset of two clones and a file outside of both."""
    source = tmp_path / "source"
    urls = ("https://me:secret@github.com/octo/cat.git", "git@git.example.org:team/dog.git")
    days = ("2024-02-29T23:30:00-0800", "2023-05-06T12:00:00+0000")
    commits = [
        repository(source / name, url, license_text="MIT License", files=size, when=day)
        for name, url, size, day in zip(("cat", "dog"), urls, (9, 4), days, strict=True)
    ]
    (source / "loose.py").write_text(python_file(99))
    assert main(["preprocess", "--dataset", f"{source}:train:text", "--output-dir", str(tmp_path / "data")]) == 0
    return tmp_path / "data", commits


def summary_of(dataset: Path) -> str:
    card(CardConfig(dataset=dataset, output_dir=dataset.with_name("card")))
    return (dataset.with_name("card") / "eu_training_content_summary.md").read_text()


def test_the_summary_names_repositories_as_people_do(clones: tuple[Path, list[str]]) -> None:
    dataset, (cat, dog) = clones
    text = summary_of(dataset)
    public, _, rest = text.partition("2.1 Publicly")[2].partition("2.2 Private")
    rows = [line for line in public.splitlines() if line.startswith("| ") and "`" in line]
    assert rows == [
        f"| octo/cat | https://github.com/octo/cat | `{cat}` | 1 March 2024 | 9 | MIT License |",
        f"| git.example.org/team/dog | https://git.example.org/team/dog | `{dog}` | 6 May 2023 | 4 | MIT License |",
    ]
    assert "secret" not in text
    assert "Latest date of acquisition: not before 1 March 2024" in text
    files = rest.partition("2.3 Data")[0]
    digest = next(item.digest for item in artifacts.load(dataset).inputs if item.role == "source")
    assert f"| `{dataset.parent / 'source'}` | `{digest}` | 1 | no stated license |" in files


def test_a_commit_that_the_clone_does_not_hold_has_no_day(clones: tuple[Path, list[str]]) -> None:
    dataset, (cat, _) = clones
    for name in ("cat", "dog"):
        shutil.rmtree(dataset.parent / "source" / name / ".git" / "objects")
    assert (
        main(["preprocess", "--dataset", f"{dataset.parent / 'source'}:train:text", "--output-dir", str(dataset)]) == 0
    )
    text = summary_of(dataset)
    assert f"| octo/cat | https://github.com/octo/cat | `{cat}` | not recorded | 9 | MIT License |" in text
    assert "not before" not in text


def test_the_files_for_people_show_no_value_of_python_and_no_setting(clones: tuple[Path, list[str]]) -> None:
    dataset, _ = clones
    summary_of(dataset)
    for name in ("README.md", "eu_training_content_summary.md"):
        text = (dataset.with_name("card") / name).read_text()
        text = text.split("---\n", 2)[2] if text.startswith("---\n") else text  # without the front matter
        assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|\bnull\b|\['|\(\)|\[\]|git:[0-9a-f]", text), name
        for setting in ("max_mean_line", "shard_size", "package_cap_bytes", "run_words"):
            assert setting not in text, name
        assert "manifest.json" in text
        assert "Documents under the GNU General Public License" in text


def test_what_was_not_looked_for_is_not_a_zero(source_folder: Path, tmp_path: Path) -> None:
    words = ["--dataset", f"{source_folder}:train:text", "--output-dir", str(tmp_path / "data")]
    assert main(["preprocess", *words]) == 0
    text = summary_of(tmp_path / "data")
    assert "Dropped as hate speech or profanity: 0 documents." in text
    assert "Evaluation problems were not looked for." in text
    skipped = ["--skip", "filters", "--skip", "scrub", "--skip", "licenses", "--dedup.near", "false"]
    assert main(["preprocess", *words, *skipped]) == 0
    text = summary_of(tmp_path / "data")
    assert "Hate speech and profanity were not looked for." in text
    assert "Secrets and personal data were not looked for." in text
    assert "Licenses were not judged." in text
    assert "with the same text, one was kept" in text
    assert "Repetitive documents" not in text


def test_the_sentences_about_processing_follow_from_the_settings(source_folder: Path, tmp_path: Path) -> None:
    words = ["--dataset", f"{source_folder}:train:text", "--output-dir", str(tmp_path / "data")]
    asked = ["--filters.max-line", "777", "--licenses.allowed", "MIT", "--filters.natural-languages", "de"]
    assert main(["preprocess", *words, *asked, "--max-documents", "30"]) == 0
    text = summary_of(tmp_path / "data")
    assert "lines longer than 777 characters of code" in text
    assert "only documents under the MIT License were kept" in text
    assert "Of prose, only documents in German were kept." in text
    assert "At most 30 documents of each source were read." in text


def test_datasets_of_a_blend_with_other_settings_are_told_apart(source_folder: Path, tmp_path: Path) -> None:
    for name, line in (("a", "500"), ("b", "900")):
        words = ["--dataset", f"{source_folder}:train:text", "--output-dir", str(tmp_path / name)]
        assert main(["preprocess", *words, "--filters.max-line", line]) == 0
    flags = [word for name in "ab" for word in (f"--datasets.{name}.path", str(tmp_path / name))]
    assert main(["blend", *flags, "--shares.code", "1", "--output-dir", str(tmp_path / "blend")]) == 0
    text = summary_of(tmp_path / "blend")
    shared, of_a, of_b = re.split(r"Besides, with the documents of `[ab]`:", text)
    assert "Of documents with the same or nearly the same text, one was kept" in shared
    assert ["than 500 characters" in part for part in (shared, of_a, of_b)] == [False, True, False]
    assert ["than 900 characters" in part for part in (shared, of_a, of_b)] == [False, False, True]
    assert "The documents of 2 datasets were then blended: 100 % code." in of_b


def test_repositories_beyond_the_table_are_summed_up(tmp_path: Path) -> None:
    rows = [
        {
            "text": python_file(number),
            "repo": f"octo/r{number % 40:02}",
            "license": "MIT" if number % 2 else "Apache-2.0",
        }
        for number in range(200)
        if number % 40 < 35 or number < 40
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--dataset", f"{tmp_path / 'rows.jsonl'}:train:text", "--output-dir", str(tmp_path / "data")]
    assert main(["preprocess", *words, "--dedup.near", "false"]) == 0
    kept = artifacts.load(tmp_path / "data").counts["kept"]
    table = summary_of(tmp_path / "data").partition("Their rows name 40 repositories")[2].partition("How each")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    head, *named, others = cells
    assert (head[0], len(named), others[0]) == ("Repository", 30, "10 others")
    assert sum(int(row[1]) for row in [*named, others]) == kept
    assert [int(row[1]) for row in named] == sorted((int(row[1]) for row in named), reverse=True)
    assert "Apache License 2.0 (" in others[2]
    assert "MIT License (" in others[2]


@pytest.mark.parametrize(("number", "others"), [(31, "1 other"), (32, "2 others")])
def test_one_that_no_table_names_is_one_other(number: int, others: str, tmp_path: Path) -> None:
    names = ("MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Zlib", "Apache-2.0", "BSL-1.0", "MIT-0")
    licenses = [" AND ".join(pair) for pair in combinations(names, 2)]
    rows = [{"text": python_file(n), "repo": f"octo/r{n}", "license": licenses[n]} for n in range(number)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--dataset", f"{tmp_path / 'rows.jsonl'}:train:text", "--output-dir", str(tmp_path / "data")]
    assert main(["preprocess", *words, "--dedup.near", "false"]) == 0
    assert summary_of(tmp_path / "data").count(f"\n| {others} | ") == 2  # repositories and licenses
    assert f"\n| {others} | {number - 30} |" in (tmp_path / "card" / "README.md").read_text()


@pytest.mark.parametrize(("others", "said"), [(1, "1 other (1)"), (2, "2 others (2)")])
def test_one_name_beyond_the_sentence_is_one_other(others: int, said: str) -> None:
    assert counted_names({f"n{number}": 1 for number in range(MOST_NAMED + others)}).endswith(f" and {said}")
    assert counted_licenses({f"n{number}": 1 for number in range(MOST_LICENSES + others)}).endswith(f"; {said}")


def test_installed_packages_are_a_number_with_their_licenses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = []
    for number, (name, license_name) in enumerate([("cat", "MIT"), ("dog", "MIT"), ("owl", "Apache-2.0")]):
        path = tmp_path / f"{name}.py"
        path.write_text(python_file(number))
        packages.append(Package(name, "1.0", license_name, None, ((f"{name}.py", path),)))
    monkeypatch.setattr("ibidem.data.sources.installed._packages", lambda: iter(packages))
    words = ["--dataset", "installed-packages:train:text", "--output-dir", str(tmp_path / "data")]
    assert main(["preprocess", *words]) == 0
    text = summary_of(tmp_path / "data")
    assert "3 packages of Python software, as installed on the provider's machine (3 documents)" in text
    assert (
        "The metadata of each package states its license; some files state their own: MIT License (2); Apache License"
        in text
    )


def test_a_dataset_of_the_hub_is_named_with_its_address_and_revision() -> None:
    share = Share()
    share.add("MIT", 7)
    found = Provenance({}, {}, {("bigcode/the-stack", "c" * 40): share}, {}, {"octo/cat": share}, {}, [])
    text = "\n".join(sources_in_words(found))
    row = f"| bigcode/the-stack | https://huggingface.co/datasets/bigcode/the-stack | `{'c' * 40}` | 7 | MIT License |"
    assert row in text
    assert "Their rows name 1 repository" in text


def test_documents_of_a_source_that_no_input_names_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": python_file(number), "license": "MIT", "repo": "octo/cat"} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(LocalFiles, "as_input", lambda source: Input.of_file("source", Path(source.spec.name)))
    assert main(["preprocess", "--dataset", f"{path}:train:text", "--output-dir", str(tmp_path / "data")]) == 0
    text = summary_of(tmp_path / "data").partition("2.2 Private")[2].partition("2.3 Data")[0]
    assert "Documents whose source is not among the inputs of the dataset, by the source that they name:" in text
    assert f"| `{path}` | 3 | MIT License |" in text
    assert "without any document" not in text
