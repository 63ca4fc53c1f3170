"""The pages of the documentation follow from the code, and describe every file that the stages leave."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.conftest import REPOSITORY

from ibidem import artifacts
from ibidem.commands import COMMANDS

SCRIPTS = REPOSITORY / "scripts"
sys.path.insert(0, str(SCRIPTS))

import docs  # noqa: E402
import docs_code  # noqa: E402
import docs_layout  # noqa: E402

KINDS = {kind.name: kind for kind in docs_layout.kinds()}


@pytest.mark.parametrize("name", docs.pages())
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (REPOSITORY / name).read_text() == docs.pages()[name], "run: python scripts/docs.py, or make docs"


def test_generated_pages_are_the_same_on_every_machine(tmp_path: Path) -> None:
    script = (
        "import os, platform, sys; os.cpu_count = lambda: 97; os.process_cpu_count = os.cpu_count;"
        f"platform.node = lambda: 'elsewhere'; sys.path.insert(0, {str(SCRIPTS)!r});"
        "import docs, json; print(json.dumps(docs.pages()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "src"), "PYTHONHASHSEED": "7", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == docs.pages()


def test_every_command_and_key_is_on_the_page_of_configurations() -> None:
    text = docs.configuration_page()
    for name, command in COMMANDS.items():
        end = "" if command.help.endswith("?") else "."
        assert f"{command.help[1:]}{end}\n" in text, name
        for flag, *_ in docs.config.describe(docs.load(command.config)):
            assert f"| `{flag}` |" in text, f"{name}: {flag}"


def test_every_command_says_which_artifacts_it_makes_or_reads() -> None:
    told = {name for kind in KINDS.values() for name in (*kind.made_by, *kind.read_by)}
    said = told | {*docs_layout.EVERY} | docs_layout.NO_ARTIFACT
    assert said == set(COMMANDS), "name the command in scripts/docs_layout.py"
    assert not told & docs_layout.NO_ARTIFACT


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("data/shards.py", 'NOTES = "notes.jsonl"', "file name data.shards:NOTES"),
        ("data/shards.py", 'A, B = "a", "notes.jsonl"', "file name data.shards:B"),
        ("training/optim.py", 'KIND = "schedule"', "kind training.optim:KIND"),
        ("data/shards.py", 'MORE_SCHEMA = pa.schema([("a", pa.string())])', "schema data.shards:MORE_SCHEMA"),
    ],
)
def test_a_constant_that_nobody_describes_is_refused(
    module: str, line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in docs_code.PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(docs_code.PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text() + (f"\n{line}\n" if copy == tmp_path / module else ""))
    monkeypatch.setattr(docs_code, "PACKAGE", tmp_path)
    docs_code.forget()
    try:
        with pytest.raises(LookupError, match=f"{said} is in the code"):
            docs_layout.page()
    finally:
        monkeypatch.undo()
        docs_code.forget()


@pytest.mark.parametrize("schema", ["SCHEMA", "DROPPED_SCHEMA"])
def test_a_column_that_nobody_describes_is_refused(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from ibidem.data import shards

    before = getattr(shards, schema)
    monkeypatch.setattr(shards, schema, before.append(pa.field("mood", pa.string())))
    with pytest.raises(LookupError, match=r"column of .*\.parquet mood is in the code"):
        docs_layout.page()
    monkeypatch.setattr(shards, schema, before.remove(0))
    with pytest.raises(LookupError, match="is no longer in the code"):
        docs_layout.page()


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of the patterns, in which `<...>` is any name."""
    shown = (re.sub(r"<\w+>", "[^/]+", re.escape(docs_layout.filled(pattern))) for pattern in patterns)
    return any(re.fullmatch(pattern, name) for pattern in shown)


def check_described(folder: Path) -> artifacts.Artifact:
    """Every file and count of an artifact is described, and every file that is promised is there."""
    artifact = artifacts.verify(folder)
    kind = KINDS[artifact.kind]
    for name in artifact.files:
        assert matches(name, [*kind.files, *kind.sometimes]), f"{artifact.kind}: {name} is not described"
    for pattern in kind.files:
        assert any(matches(name, [pattern]) for name in artifact.files), f"{artifact.kind}: {pattern} is not there"
    for key in artifact.counts:
        assert matches(key, kind.counts), f"{artifact.kind}: count {key} is not described"
    manifest = json.loads((folder / artifacts.MANIFEST).read_text())
    assert manifest.keys() == docs_layout.MANIFEST.keys()
    assert manifest["volatile"].keys() | {"mark", "stamps"} == docs_layout.VOLATILE.keys()
    for columns in kind.columns:
        check_columns(columns, [folder / name for name in artifact.files if matches(Path(name).name, [columns.file])])
    return artifact


def check_run(run: Path) -> None:
    """Every path and event of a run is described."""
    known = [name.rstrip("/") for name in (*docs_layout.RUN, *docs_layout.RUN_SOMETIMES)]
    artifacts_of = [path for name in ("checkpoints", "tokens", "data", "problems") for path in (run / name).glob("*")]
    for path in [*run.iterdir(), *artifacts_of]:
        name = path.relative_to(run).as_posix()
        assert any(each.startswith(f"{name}/") for each in known) or matches(name, known), f"{name} is not described"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert {event["event"] for event in events} <= docs_layout.EVENTS.keys()


def check_columns(columns: docs_layout.Columns, paths: list[Path]) -> None:
    for path in paths:
        if path.suffix == ".parquet":
            found = {field.name: docs_layout.shown(field.type) for field in pq.read_schema(path)}
            assert found == columns.types, f"{path.name}: {found}"
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                assert json.loads(line).keys() == columns.types.keys(), path.name


def test_every_file_of_a_dataset_is_described(dataset: Path) -> None:
    check_described(dataset)


def test_every_file_of_a_dataset_with_removals_is_described(source_folder: Path, tmp_path: Path) -> None:
    from ibidem.data.filters.removals import RemovalPolicy
    from ibidem.data.preprocess import PreprocessConfig, preprocess

    (tmp_path / "requests.jsonl").write_text('{"kind": "path", "value": "README.md"}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": "x = 1"}\n{"text": \n')
    config = PreprocessConfig(
        dataset=(f"{source_folder}:train:text", f"{tmp_path / 'broken.jsonl'}:train:text"),
        output_dir=tmp_path / "data",
        removals=RemovalPolicy(requests=(tmp_path / "requests.jsonl",)),
    )
    preprocess(config)
    artifact = check_described(tmp_path / "data")
    assert artifact.counts["quarantined"] == 1
    assert {"removals.jsonl", "project/train/removed-00000.npy"} <= artifact.files.keys()


def test_every_file_of_a_blend_is_described(dataset: Path, tmp_path: Path) -> None:
    from ibidem.data.blend import BlendConfig, Ingredient, blend

    blend(
        BlendConfig(
            datasets={"mine": Ingredient(path=dataset, category="code")},
            shares={"code": 1.0},
            output_dir=tmp_path / "blend",
        )
    )
    check_described(tmp_path / "blend")


def test_every_file_of_a_tokenizer_is_described(tokenizer_dir: Path) -> None:
    check_described(tokenizer_dir)


def test_every_file_of_a_run_is_described(checkpoint: Path) -> None:
    check_described(checkpoint)
    run = checkpoint.parents[1]
    (tokens,) = (run / "tokens").iterdir()
    check_described(tokens)
    check_run(run)


def test_every_file_of_a_run_on_executed_tests_is_described(checkpoint: Path, tmp_path: Path) -> None:
    from ibidem.config import build
    from ibidem.training.rlhf.config import GrpoConfig
    from ibidem.training.rlhf.grpo_trainer import grpo

    tests = {n: [f"assert f({x}) == {x + n}" for x in (11, 12)] for n in range(1, 13)}
    rows = [{"task_id": n, "text": f"Add {n}.", "test_list": listed} for n, listed in tests.items()]
    (tmp_path / "problems.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run = tmp_path / "run"
    settings = {
        "initial": checkpoint,
        "problems": tmp_path / "problems.jsonl",
        "output_dir": run,
        "held_out_share": 0.3,
        "training": {"steps": 1, "batch_sequences": 64, "mixed_precision": "no"},
        "rollout": {"max_tokens": 16, "temperature": 1.5},
        "grpo": {"kl": 0.1, "no_end_penalty": 1},  # some answers end and others do not: there is something to learn
        "validation": {"sample_tokens": 4},
    }
    grpo(build(GrpoConfig, settings))
    made = check_described(run / "checkpoints" / "step-000001")
    assert "objective.safetensors" in made.files
    assert {"score", "kl", "length", "ended", "passed", "hidden_passed", "gap"} <= made.counts.keys()
    (problems,) = (run / "problems").iterdir()
    counts = check_described(problems).counts
    assert counts["kept"] == 12, counts
    check_run(run)


def test_every_event_of_a_training_is_described() -> None:
    sources = "".join(path.read_text() for path in sorted((docs_code.PACKAGE / "training").rglob("*.py")))
    logged = set(re.findall(r'"((?:train|checkpoint|reward)\.[a-z_]+)"', sources))
    assert logged <= docs_layout.EVENTS.keys(), "describe it in scripts/docs_layout.py"


def test_every_file_of_responses_and_of_their_ratings_is_described(checkpoint: Path, tmp_path: Path) -> None:
    from ibidem.evaluation.chat import chat
    from ibidem.evaluation.config import ChatConfig, RatingsConfig
    from ibidem.evaluation.ratings import ratings

    prompts, form, responses = tmp_path / "prompts.jsonl", tmp_path / "form.csv", tmp_path / "responses"
    prompts.write_text('{"id": "a", "prompt": "How?"}\n{"id": "b", "prompt": "Why?"}\n')
    chat(ChatConfig(checkpoint=checkpoint, prompts=prompts, output_dir=responses, max_tokens=2))
    check_described(responses)
    with (responses / "ratings.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(docs_layout.FORM)
    with form.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "rater": f"Rater {rater}", "score": 1} for row in rows for rater in (1, 2))
    ratings(RatingsConfig(responses=responses, ratings=(form,), output_dir=tmp_path / "ratings"))
    check_described(tmp_path / "ratings")


def test_every_file_of_an_evaluation_of_answers_is_described(tmp_path: Path) -> None:
    from ibidem.evaluation.config import DocQaConfig
    from ibidem.evaluation.doc_qa import doc_qa

    question = {"id": "a", "question": "Which?", "answers": ["red"], "passages": [{"id": "1", "text": "It is red."}]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "answer": "It is red. [1]"}\n')
    doc_qa(
        DocQaConfig(
            data=tmp_path / "questions.jsonl",
            predictions=tmp_path / "answers.jsonl",
            output_dir=tmp_path / "doc-qa",
        )
    )
    check_described(tmp_path / "doc-qa")


def quotes() -> list[tuple[str, str, str]]:
    """Blocks of code that the pages quote: page, file, lines."""
    return [
        (page.name, file, code)
        for page in sorted((REPOSITORY / "docs").glob("*.md"))
        for file, code in re.findall(r'^```python title="(\S+)"\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)
    ]


def is_quoted(code: str, source: str) -> bool:
    """Whether the parts of a block, separated by lines of dots, occur in a source in their order, however wrapped."""
    source = "".join(source.split())
    for part in re.split(r"^\.\.\.\n", code, flags=re.MULTILINE):
        _, found, source = source.partition("".join(part.split()))
        if not found:
            return False
    return True


def test_code_that_a_page_quotes_is_the_code() -> None:
    assert {page for page, *_ in quotes()} >= {"grpo.md"}
    for page, file, lines in quotes():
        assert is_quoted(lines, (REPOSITORY / file).read_text()), f"{page} quotes what {file} no longer has:\n{lines}"


@pytest.mark.parametrize(
    ("code", "is_in"),
    [
        ("b = 2\n", True),
        ("if a:\n    b = 2\n", True),
        ("b = 3\n", False),
        ("a = 1\n...\nc(\n    d\n)\n", True),
        ("c(d)\n...\nb = 2\n", False),
    ],
)
def test_a_quote_has_the_words_of_the_code_in_their_order(code: str, is_in: bool) -> None:
    assert is_quoted(code, "a = 1\nif a:\n    b = 2\nc(d)\n") == is_in


def test_the_pages_of_the_site_exist() -> None:
    import yaml

    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    named = [path for item in site["nav"] for path in item.values()]
    assert {"README.md", "docs/configuration.md", "docs/layout.md"} <= set(named)
    assert all((REPOSITORY / path).exists() for path in named)
