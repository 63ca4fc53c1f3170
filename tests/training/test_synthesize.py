"""Traces become a dataset like any other, with their origin; a bug is one that the judge sees."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.data.test_synthetic import MODULE

from ibidem import artifacts
from ibidem.cli import main
from ibidem.conversation import Conversation, Turn, check, from_rows
from ibidem.data import shards
from ibidem.data.synthetic.self_instruct import ASK
from ibidem.errors import ConfigError, DataError
from ibidem.modeling.generate import Sampling
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.program import Program
from ibidem.training.synthesize import SHARES, SynthesizeConfig, quotas_of, synthesize

needs_judge = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")
UNJUDGED = tuple(kind for kind in SHARES if kind not in {"fix", "run", "instruct"})
BODIES = (
    "total = 0\n    for value in values:\n        if value > {n}:\n            total += value * {n}\n    return total",
    "result = []\n    for value in values:\n        result.append(value + {n})\n    return result",
    "kept = [value for value in values if value >= {n} and value != 7]\n    return len(kept) - 1",
)
DOCS = (
    "Return the weighted sum of large values",
    "Return every value raised by some steps",
    "Count values that matter",
)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preprocessed folder of licensed modules, and one without a license."""
    folder = tmp_path_factory.mktemp("code")
    for number in range(12):
        package = folder / "project" / f"package_{number}"
        package.mkdir(parents=True)
        source = "\n\n\n".join(
            f'def {name}_{number}(values: list[int]):\n    """{doc}, version {number}.\n\n'
            f"    :param values: the numbers of part {number}.\n    :returns: what is left of part {number}.\n"
            f'    """\n    {body.format(n=number + 2)}\n'
            for name, doc, body in zip(("weigh", "raise_all", "count"), DOCS, BODIES, strict=True)
        )
        header = "# SPDX-License-Identifier: MIT\n" if number else ""
        (package / "m.py").write_text(f'{header}"""Module {number}."""\n\n\n{source}')
    (folder / "project" / "package_3" / "other.py").write_text(MODULE)
    spec = f"{folder / 'project'}:train:text"
    assert main(["preprocess", "--dataset", spec, "--output-dir", str(folder / "data"), "--dedup.near", "false"]) == 0
    return folder / "data"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in shards.shard_paths(folder) for row in pq.read_table(path).to_pylist()]


def made(code: Path, output: Path, **settings: Any) -> list[dict[str, Any]]:
    settings = {"number": 60, "kinds": UNJUDGED, "workers": 1} | settings
    synthesize(SynthesizeConfig(from_=code, output_dir=output, **settings))
    artifacts.verify(output, kind=shards.KIND)
    return rows_of(output)


def test_every_trace_has_the_license_and_the_place_of_its_document(code: Path, tmp_path: Path) -> None:
    sources = {row["sha256"]: row for row in rows_of(code)}
    rows = made(code, tmp_path / "out")
    with_source = 0
    for row in rows:
        check(from_rows(row["messages"]))
        assert row["category"] == "instruction"
        facts = dict(word.split("=") for word in row["record"].split()[1:])
        assert facts["seed"] == "0"
        if "sha256" in facts:
            with_source += 1
            source = sources[facts["sha256"]]
            assert [row[name] for name in ("license", "repo", "path")] == [
                source[name] for name in ("license", "repo", "path")
            ]
            assert f"def {facts['function']}" in source["text"]
        else:
            assert (row["license"], row["path"]) == ("Apache-2.0", None)
    assert with_source > len(rows) / 2
    assert len({row["record"] for row in rows}) == len(rows)
    assert {row["license"] for row in rows} == {"MIT", "Apache-2.0", None}
    assert {row["record"].partition(":")[0] for row in rows} == set(UNJUDGED)


def test_counts_add_up_and_the_dataset_knows_what_it_was_made_from(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made(code, tmp_path / "out")
    dataset = artifacts.load(tmp_path / "out")
    counts = dataset.counts
    assert counts["read"] == sum(counts["synthetic"]["made"].values()) == 60
    assert counts["kept"] == len(rows) == 60 - sum(counts["dropped"].values())
    assert counts["synthetic"]["refusals"] == counts["synthetic"]["made"]["refuse"] > 0
    assert dataset.digest_of("dataset") == artifacts.load(code).digest
    assert dataset.config["synthesize"]["number"] == 60
    assert main(["trace", str(tmp_path / "out")]) == 0
    assert "dataset" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_traces(code: Path, tmp_path: Path) -> None:
    made(code, tmp_path / "a")
    made(code, tmp_path / "b" / "c", workers=2)
    one, same = artifacts.load(tmp_path / "a"), artifacts.load(tmp_path / "b" / "c")
    assert one.digest == same.digest
    assert one.files == same.files
    other = {row["text"] for row in made(code, tmp_path / "d", seed=1)}
    assert len(other & {row["text"] for row in rows_of(tmp_path / "a")}) < 10


def test_a_finished_dataset_is_not_made_again(code: Path, tmp_path: Path) -> None:
    made(code, tmp_path / "a")
    before = (tmp_path / "a" / artifacts.MANIFEST).read_bytes()
    made(code, tmp_path / "a")
    assert (tmp_path / "a" / artifacts.MANIFEST).read_bytes() == before


@needs_judge
def test_the_judge_fails_each_bug_and_passes_each_fix_and_runs_are_what_code_returns(
    code: Path, tmp_path: Path
) -> None:
    rows = made(code, tmp_path / "out", number=24, kinds=("fix", "run"), workers=2)
    kinds = [row["record"].partition(":")[0] for row in rows]
    assert kinds.count("fix") >= 10
    assert kinds.count("run") >= 6
    with Judge(1) as judge:
        for kind, row in zip(kinds, rows, strict=True):
            said = {turn.role: turn.text for turn in from_rows(row["messages"])}
            (name,) = re.findall(r"function=(\w+)", row["record"])
            (asked,) = re.findall(r"```python\n(.*?)\n```", said["user"], re.DOTALL)
            if kind == "run":
                call = re.search(rf"`({name}\(.*?\))`", said["user"])
                assert call is not None
                tests = f"assert {call[1]} == {said['tool'].strip()}"
                assert judge.judge(Program((asked,), tests, (name,))).passed, row["text"]
            else:
                (fixed,) = re.findall(r"```python\n(.*?)\n```", said["assistant"], re.DOTALL)
                failing = re.search(rf"`({name}\(.*?\))`", said["user"])
                right = re.search(r"(?:should return|right answer is|expected) `(.*?)`", said["user"], re.DOTALL)
                assert failing is not None
                assert right is not None
                tests = f"assert {failing[1]} == {right[1]}"
                assert not judge.judge(Program((asked,), tests, (name,))).passed, row["text"]
                assert judge.judge(Program((fixed,), tests, (name,))).passed, row["text"]
                assert "mutant=" in row["record"]


@needs_judge
def test_solved_problems_pass_the_tests_that_are_shown_and_no_function_of_a_file_is_among_them(
    code: Path, tmp_path: Path
) -> None:
    rows = made(code, tmp_path / "out", number=80, kinds=("solve",))
    assert len(rows) > 60
    asked, programs, names = [], [], set()
    for row in rows:
        user, assistant = from_rows(row["messages"])
        (program,) = re.findall(r"^```python\n(.*?)\n```$", assistant.text, re.DOTALL)
        statement, tests = user.text.split("\n\nTests:\n")
        (name,) = re.findall(r"def (\w+)\(", program)
        assert f"{name}(" in statement
        assert row["license"] == "Apache-2.0"
        assert row["record"].startswith("solve:")
        names.add(name)
        programs.append(program)
        asked.append((name, tests.split("\n")))
    with Judge(2) as judge:
        verdicts = list(
            judge.verdicts(
                Program((program,), test, (name,))
                for program, (name, tests) in zip(programs, asked, strict=True)
                for test in tests
            )
        )
    assert len(verdicts) == 2 * len(rows)
    assert all(verdict.passed for verdict in verdicts)
    assert main(["problems", "--output", str(tmp_path / "p.jsonl"), "--number", "800"]) == 0
    of_file = {json.loads(line)["task_id"] for line in (tmp_path / "p.jsonl").read_text().splitlines()}
    assert len(of_file) == 800
    assert not of_file & names


def test_families_of_solved_problems_are_picked(code: Path, tmp_path: Path) -> None:
    settings = {"kinds": ("solve",), "number": 12, "families": ("add", "sort"), "steps": (1,)}
    rows = made(code, tmp_path / "out", **settings)
    assert all(re.search(r"def (add_\d+|sort)\(", row["text"]) for row in rows)
    assert artifacts.load(tmp_path / "out").config["synthesize"]["families"] == ["add", "sort"]
    with pytest.raises(ConfigError, match="no two of them can follow one another"):
        made(code, tmp_path / "none", **{**settings, "steps": (2,)})


def test_names_and_secrets_of_a_document_do_not_reach_its_traces(tmp_path: Path) -> None:
    from ibidem.data.preprocess import PreprocessConfig, preprocess
    from ibidem.data.scrub.scrubber import ScrubPolicy

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "m.py").write_text(
        'def greet(name):\n    """Return a greeting of ZOE MUELLER, written by Tim Baker <tim@ibidem.org>."""\n'
        '    # MRN: 00482137\n    text = "Hello, " + name\n    return text\n'
    )
    (tmp_path / "deny.txt").write_text("Zoë Müller\n", encoding="utf-8")
    raw = PreprocessConfig(
        dataset=(f"{tmp_path / 'code'}:train:text",),
        output_dir=tmp_path / "data",
        scrub=ScrubPolicy(personal=False, health=False),
    )
    preprocess(raw)
    kinds = ("explain", "steps", "complete", "write", "docstring", "refuse")
    rows = made(tmp_path / "data", tmp_path / "out", number=20, kinds=kinds, deny=tmp_path / "deny.txt")
    of_document = [row["text"] for row in rows if "sha256=" in row["record"]]
    assert len(of_document) >= 3
    for text in of_document:
        assert not re.search(r"mueller|tim@|tim baker|00482137", text, re.IGNORECASE), text
    counts = artifacts.load(tmp_path / "out").counts["scrubbed"]
    assert {"denied-name", "name", "email", "medical-record"} <= counts.keys()


def test_what_evaluations_ask_is_not_trained(code: Path, tmp_path: Path) -> None:
    kinds = {"kinds": ("near_miss", "refuse"), "number": 40, "dedup": {"near": False}}
    asked = [row["messages"][-2]["parts"][0]["text"] for row in made(code, tmp_path / "a", **kinds)]
    long = next(text for text in asked if len(text.split()) >= 12)
    (tmp_path / "problems.jsonl").write_text(json.dumps({"id": 1, "turns": [long]}) + "\n")
    rows = made(code, tmp_path / "b", contamination={"benchmarks": (str(tmp_path / "problems.jsonl"),)}, **kinds)
    assert long not in [row["messages"][-2]["parts"][0]["text"] for row in rows]
    assert artifacts.load(tmp_path / "b").counts["synthetic"]["rejected"] == {"contaminated": 1}


def test_removals_of_a_document_remove_its_traces(code: Path, tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text('{"kind": "path", "value": "*package_5*"}\n')
    rows = made(code, tmp_path / "out", removals={"requests": (tmp_path / "requests.jsonl",)}, number=90)
    paths = {row["path"] for row in rows if row["path"]}
    assert paths
    assert not any("package_5" in path for path in paths)
    assert artifacts.load(tmp_path / "out").counts["dropped"]["removal.requested"] > 0


def test_takedown_of_a_document_by_its_hash_removes_its_traces(code: Path, tmp_path: Path) -> None:
    rows = made(code, tmp_path / "out")
    source = next(match[1] for row in rows if (match := re.search("sha256=(.*)", row["record"])))
    traces = [row for row in rows if source in row["record"]]
    (tmp_path / "requests.jsonl").write_text(json.dumps({"kind": "sha256", "value": source}) + "\n")
    (tmp_path / "none").mkdir()
    flags = ["--dataset", str(tmp_path / "out"), "--artifacts", str(tmp_path / "none")]
    assert main(["takedown", "apply", str(tmp_path / "requests.jsonl"), *flags]) == 0
    left = rows_of(tmp_path / "out")
    assert len(left) == len(rows) - len(traces) < len(rows)
    assert not any(source in row["record"] for row in left)
    counts = artifacts.load(tmp_path / "out").counts
    assert counts["dropped"]["removal.requested"] == len(traces)
    assert sum(counts["synthetic"]["made"].values()) == counts["read"]


def test_traces_are_blended_like_any_instructions(code: Path, tmp_path: Path) -> None:
    from ibidem.data.blend import BlendConfig, Ingredient, blend

    made(code, tmp_path / "traces")
    datasets = {"code": Ingredient(path=code), "traces": Ingredient(path=tmp_path / "traces")}
    shares = {"code": 0.9, "instruction": 0.1}
    blend(BlendConfig(datasets=datasets, shares=shares, output_dir=tmp_path / "blend"))
    rows = rows_of(tmp_path / "blend")
    assert any(row["messages"] for row in rows)


def test_a_dataset_without_functions_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Notes\n\nThe parser reads lines and keeps every one of them in order.\n")
    spec = f"{tmp_path / 'a.md'}:train:text"
    assert main(["preprocess", "--dataset", spec, "--output-dir", str(tmp_path / "data")]) == 0
    with pytest.raises(DataError, match="no documented, self-contained Python.*--kinds calculate refuse near_miss"):
        made(tmp_path / "data", tmp_path / "out", kinds=("explain",))
    assert not (tmp_path / "out").exists()
    assert len(made(tmp_path / "data", tmp_path / "out")) > 5


def test_nothing_left_is_one_line_with_the_reasons(code: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing is left of 9 documents \(dropped: license.denied 9.*relax"):
        made(code, tmp_path / "out", kinds=("refuse",), number=9, licenses={"allowed": ("MIT",)})
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="instruct needs a model"):
        made(code, tmp_path / "out", kinds=("instruct",))
    with pytest.raises(ConfigError, match="is also the dataset"):
        made(code, code)
    assert main(["synthesize", "--output-dir", "x"]) == 2
    assert "from is required; give --from" in capsys.readouterr().err
    assert main(["synthesize", "--from", str(tmp_path / "none"), "--output-dir", "x"]) != 0
    assert "no such folder" in capsys.readouterr().err


def test_from_is_a_flag_and_a_key_of_a_file(code: Path, tmp_path: Path) -> None:
    flags = ["--number", "6", "--kinds", "refuse", "calculate", "--output-dir", str(tmp_path / "a")]
    assert main(["synthesize", "--from", str(code), *flags]) == 0
    (tmp_path / "c.yaml").write_text(f"from: {code}\nnumber: 6\nkinds: [refuse, calculate]\n")
    assert main(["synthesize", "--config", str(tmp_path / "c.yaml"), "--output-dir", str(tmp_path / "b")]) == 0
    assert artifacts.load(tmp_path / "a").digest == artifacts.load(tmp_path / "b").digest


def test_a_model_writes_instructions_and_what_is_unfit_is_counted(code: Path, checkpoint: Path, tmp_path: Path) -> None:
    settings = {"model": checkpoint, "instructions": 4, "max_tokens": 8, "kinds": ("refuse",), "number": 5}
    made(code, tmp_path / "out", **settings)
    dataset = artifacts.load(tmp_path / "out")
    synthetic = dataset.counts["synthetic"]
    written = synthetic["made"].get("instruct", 0) + sum(synthetic["rejected"].values())
    assert written >= 4
    assert dataset.digest_of("checkpoint") == artifacts.load(checkpoint).digest


class Writer:
    """A model that writes tasks of its own, one after the other, and answers them."""

    def __init__(self) -> None:
        self.tasks = iter(("Name the head of a linked list.", "Explain why recursion always needs some base case."))

    def respond(self, conversations: Sequence[Conversation], _sampling: Sampling) -> list[Turn]:
        return [
            Turn.of("assistant", next(self.tasks, "No") if asked[-1].text == ASK else f"It is node {number}.\n")
            for number, asked in enumerate(conversations)
        ]


@pytest.mark.parametrize("license_", [None, "CC-BY-4.0"])
def test_what_a_model_writes_has_the_license_that_is_stated_and_names_the_model(
    license_: str | None, code: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibidem.inference.models.open_model", lambda *_: Writer())
    settings = {"model": checkpoint, "instructions": 2, "kinds": ("refuse",), "number": 5, "dedup": {"near": False}}
    rows = made(code, tmp_path / "out", instructions_license=license_, **settings)
    written = [row for row in rows if row["record"].startswith("instruct:")]
    assert len(written) == 2
    digest = artifacts.load(checkpoint).digest
    for row in written:
        assert row["license"] == license_
        assert f"model={digest}" in row["record"].split()
    assert {row["license"] for row in rows if row not in written} == {"Apache-2.0"}
    dataset = artifacts.load(tmp_path / "out")
    assert dataset.counts["license_unstated"] == (2 if license_ is None else 0)
    assert dataset.config["synthesize"]["instructions_license"] == license_


def test_a_license_that_is_none_is_one_line(code: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instructions_license 'my own words': not a known license; give an SPDX"):
        made(code, tmp_path / "out", model=checkpoint, instructions_license="my own words")


@pytest.mark.parametrize(("number", "kinds"), [(1, ("explain",)), (7, UNJUDGED), (1000, tuple(SHARES))])
def test_quotas_add_up(number: int, kinds: tuple[Any, ...]) -> None:
    assert sum(quotas_of(number, kinds).values()) == number
