"""The cards say what the manifest says, and nothing that it does not know."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data.provenance.card import CardConfig, card
from ibidem.data.provenance.eu_summary import UNKNOWN
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


def test_croissant_names_every_shard_by_its_hash_and_every_column(folder: Path, dataset: Path) -> None:
    croissant = json.loads((folder / "croissant.json").read_text())
    files = {item["contentUrl"]: item for item in croissant["distribution"] if item["@type"] == "cr:FileObject"}
    shards = {path.relative_to(dataset).as_posix(): path for path in dataset.rglob("shard-*.parquet")}
    assert files.keys() == shards.keys()
    for name, path in shards.items():
        assert files[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    fields = [field["name"] for field in croissant["recordSet"][0]["field"]]
    assert fields == pq.read_schema(next(iter(shards.values()))).names
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
    assert "1 requests for removal were honored, and 10 documents left by them" in text
    assert "| removal.requested | 10 |" in text
    assert "in the datasets that were blended" in text


def test_a_card_overwrites_nobody_elses_file(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ArtifactError, match="is not a card to replace"):
        card(CardConfig(dataset=dataset, output_dir=tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"
