"""Stages of a training: which windows, how long the sequences, any step at once."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.conftest import python_file
from tests.training.test_resume import changed, in_two, losses, train, weights

from ibidem import artifacts
from ibidem.config import build, parse
from ibidem.data import shards
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.errors import ConfigError, IbidemError
from ibidem.modeling.config import read_model_config
from ibidem.training.config import StageConfig, TrainConfig
from ibidem.training.curriculum import BLOCK, Curriculum, Numbers, Stage, stages_of
from ibidem.training.plan import PlanConfig, plan
from ibidem.training.pretraining import Pretraining
from ibidem.training.tokenize import tokenized
from ibidem.training.tokens import Windows
from ibidem.training.window_groups import WindowGroups, groups_of, samples

Settings = dict[str, Any]
STAGES = {
    "a short": {"until": 12, "context": 8},
    "b mixed": {"until": 28, "context": 16, "shares": {"code": 3, "text": 1}},
    "c decay": {"shares": {"text": 1}},
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of code, of prose and of scripts, in several shards."""
    folder = tmp_path_factory.mktemp("mixed")
    for kind in ("code", "prose"):
        (folder / kind).mkdir()
    for seed in range(90):
        (folder / "code" / f"m{seed:03d}.py").write_text(python_file(seed))
    for seed in range(30):
        (folder / "code" / f"s{seed:03d}.sh").write_text("".join(f"echo {n} {seed * n}\n" for n in range(seed, 60)))
        said = " ".join(f"the {n * seed} sheep of shepherd {n} graze on meadow {n + seed} today," for n in range(25))
        (folder / "prose" / f"t{seed:03d}.txt").write_text(said + "\n")
    specs = tuple(f"{folder / kind}:train:text" for kind in ("code", "prose"))
    output = folder / "data"
    preprocess(PreprocessConfig(dataset=specs, output_dir=output, shard_size=25, skip=("filters", "scrub")))
    return output


@pytest.fixture(scope="module")
def tokens(mixed: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> artifacts.Artifact:
    return tokenized(mixed, tokenizer_dir, tmp_path_factory.mktemp("tokens"), held_out_share=0.2)[0]


@pytest.fixture
def settings(train_settings: Settings, mixed: Path) -> Settings:
    return changed(train_settings, data__dataset=mixed, data__held_out_share=0.2, data__stages=STAGES)


class Fixed:
    """Groups whose windows follow one another."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    def nth(self, group: str, numbers: Numbers) -> Numbers:
        names = list(self.sizes)
        return numbers + sum(self.sizes[name] for name in names[: names.index(group)])


def taken(curriculum: Curriculum, steps: range, batch: int) -> list[tuple[int, int]]:
    return [window for step in steps for window in curriculum.windows(step, range(batch))]


def test_each_block_of_a_stage_has_its_shares_to_a_window() -> None:
    groups = Fixed(code=50_000, text=7_000, rare=3)
    stages = [Stage("a", 0, 2 * BLOCK // 64, 8, {"code": 0.6, "text": 0.4}), Stage("b", 2 * BLOCK // 64, 400, 8, {})]
    curriculum = Curriculum(stages, batch=64, number=57_003, seed=5, groups=groups)
    first = [index for _, index in taken(curriculum, range(2 * BLOCK // 64), 64)]
    assert len(set(first)) == len(first), "no window twice before all of its group were taken"
    for block in (first[:BLOCK], first[BLOCK:]):
        assert abs(sum(index < 50_000 for index in block) - 0.6 * BLOCK) <= 2
    assert not any(index >= 57_000 for index in first)


def test_no_window_of_a_group_comes_again_before_all_of_it_did_across_stages() -> None:
    groups = Fixed(code=3_000, text=900)
    stages = [
        Stage("natural", 0, 3, 8, {}),
        Stage("text", 3, 7, 8, {"text": 1}),
        Stage("both", 7, 40, 8, {"code": 1, "text": 3}),
    ]
    curriculum = Curriculum(stages, batch=50, number=3_900, seed=0, groups=groups)
    seen: Counter[int] = Counter()
    for step in range(40):
        for epoch, index in curriculum.windows(step, range(50)):
            assert seen[index] <= epoch
            seen[index] += 1
    drawn = taken(curriculum, range(3), 50)
    assert all(epoch == 0 for epoch, _ in drawn)
    assert {index for _, index in drawn} & set(range(3_000))
    assert {index for _, index in drawn} & set(range(3_000, 3_900))


def test_a_stage_without_shares_takes_the_windows_as_they_are_when_others_have_shares() -> None:
    sizes = {f"g{number}": 1 + number**2 for number in range(30)}
    number = sum(sizes.values())
    stages = [Stage("all", 0, number // 500, 8, {}), Stage("last", number // 500, number, 8, {"g3": 1})]
    curriculum = Curriculum(stages, batch=500, number=number, seed=1, groups=Fixed(**sizes))
    found = [index for _, index in taken(curriculum, range((number - BLOCK) // 500), 500)]
    assert len(found) > 7 * BLOCK
    assert len(set(found)) == len(found)
    half, first = found[: 4 * BLOCK], 0
    for size in sizes.values():
        own = sum(first <= index < first + size for index in half)
        assert own == pytest.approx(4 * BLOCK * size / number, abs=3)
        first += size


@pytest.mark.parametrize("shares", [{}, {"code": 2.0, "text": 1.0}])
def test_any_step_is_known_at_once_and_however_it_is_shared_out(shares: dict[str, float]) -> None:
    groups = Fixed(code=10**7, text=10**5)
    stages = [Stage("a", 0, 10, 8, {}), Stage("b", 10, 10**6, 8, shares), Stage("c", 10**6, 10**7, 8, {"text": 1.0})]
    new = partial(Curriculum, stages, batch=256, number=10**7 + 10**5, seed=3, groups=groups)
    later = new().windows(9_000_123, range(256))
    walked = new()
    for step in (0, 11, 999_999):
        walked.windows(step, range(256))
    assert later == walked.windows(9_000_123, range(256))
    shared = [window for first in range(0, 256, 64) for window in new().windows(700_001, range(first, first + 64))]
    assert shared == new().windows(700_001, range(256))


def test_windows_are_of_the_group_that_has_most_of_their_tokens(tokens: artifacts.Artifact) -> None:
    assert tokens.counts["shards"] > 3
    rows = places_of(tokens, "train")
    for aspect in ("category", "language"):
        owners = [row[aspect] or "none" for row in rows for _ in range(row["tokens"])]
        for context in (16, 31):
            groups = WindowGroups(tokens, "train", aspect, context=context)
            number = Windows(tokens, "train", context).number
            counts = [Counter(owners[index * context : (index + 1) * context]) for index in range(number)]
            found = {name: groups.nth(name, np.arange(size)) for name, size in groups.sizes.items()}
            assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(number))
            for name, indices in found.items():
                assert indices.tolist() == sorted(indices.tolist())
                assert all(counts[index][name] == max(counts[index].values()) for index in indices.tolist())
            assert set(owners) >= groups.sizes.keys()
            assert len(groups.sizes) > 1


def places_of(tokens: artifacts.Artifact, split: str) -> list[dict[str, Any]]:
    names = sorted((name for name in tokens.files if name.endswith("documents.parquet")), key=lambda n: n.split("/"))
    rows = (row for name in names for row in pq.read_table(tokens.path / name).to_pylist())
    return [row for row in rows if row["split"] == split]


def test_documents_keep_the_category_and_the_language_of_the_dataset(tokens: artifacts.Artifact, mixed: Path) -> None:
    expected = {
        row["sha256"]: (row["category"], row["language"])
        for path in shards.shard_paths(mixed)
        for row in shards.read_rows(path, ["sha256", "category", "language"])
    }
    rows = [*places_of(tokens, "train"), *places_of(tokens, "validation")]
    assert {row["sha256"]: (row["category"], row["language"]) for row in rows} == expected
    assert {category for category, _ in expected.values()} == {"code", "text"}


def test_samples_count_only_the_tokens_of_their_group(tokens: artifacts.Artifact) -> None:
    rows, number = places_of(tokens, "validation"), Windows(tokens, "validation", 16).number
    found = samples(tokens, "validation", context=16, windows=number, count=4)
    assert set(found) >= {"category/code", "category/text", "language/Python", "language/Text"}
    for group, chosen in found.items():
        aspect, name = group.split("/")
        owners = [row[aspect] or "none" for row in rows for _ in range(row["tokens"])] + ["the last document token"]
        assert 1 <= len(chosen) <= 4
        assert len({sample.window for sample in chosen}) == len(chosen)
        for sample in chosen:
            targets = owners[sample.window * 16 + 1 : sample.window * 16 + 17]
            assert sample.counts_T.tolist() == [owner == name for owner in targets]
    spread = [sample.window for sample in found["category/code"]]
    assert spread[-1] - spread[0] > number / 4


@pytest.fixture(scope="module")
def whole(mixed: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a training in three stages, and that training."""
    folder = tmp_path_factory.mktemp("whole")
    settings = {
        "model": model_file,
        "output_dir": folder / "run",
        "data": {
            "dataset": mixed, "tokenizer": tokenizer_dir, "held_out_share": 0.2, "context": 32, "fim_rate": 0.5,
            "cache_dir": folder / "tokens", "stages": STAGES,
        },
        "training": {"steps": 40, "batch_sequences": 4, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 1e-2, "warmup_steps": 4, "schedule": "wsd", "decay_steps": 12},
        "validation": {"every": 20, "windows": 4, "group_windows": 2},
        "checkpoints": {"every": 10},
    }  # fmt: skip
    train(settings)
    return settings


def test_a_run_that_stops_within_a_stage_resumes_to_the_bit_across_the_border(whole: Settings, tmp_path: Path) -> None:
    settings = changed(whole, output_dir=tmp_path / "parts")
    train(settings, training__stop_at_step=9)
    train(settings, training__stop_at_step=28, training__resume_from="latest")
    train(settings, training__resume_from="latest")
    assert losses(whole["output_dir"]) == losses(tmp_path / "parts")
    assert weights(whole["output_dir"], 40) == weights(tmp_path / "parts", 40)
    ends = [artifacts.load(run / "checkpoints" / "step-000040") for run in (whole["output_dir"], tmp_path / "parts")]
    assert ends[0].digest == ends[1].digest
    step = 4 * 32
    assert ends[0].counts["trained_tokens"] == {"a short": 12 * step, "b mixed": 16 * step, "c decay": 12 * step}
    early = artifacts.load(whole["output_dir"] / "checkpoints" / "step-000020")
    assert early.counts["trained_tokens"] == {"a short": 12 * step, "b mixed": 8 * step}


def test_two_processes_take_the_windows_of_one(whole: Settings) -> None:
    batches = {processes: list(micro_batches(whole, processes)) for processes in (1, 2)}
    assert [len(ids_BT[0]) for ids_BT in batches[1]][::8] == [8, 8, 16, 16, 32]
    for one, two in zip(batches[1], batches[2], strict=True):
        assert torch.equal(one, two)


def micro_batches(settings: Settings, processes: int) -> Iterator[torch.Tensor]:
    """Yield the sequences of every step, those of all processes together, in the order of windows."""
    config = build(TrainConfig, changed(settings, training__micro_batch_sequences=2 // processes))
    tokens, tokenizer = tokenized(config.data.dataset, config.data.tokenizer, config.data.cache_dir, held_out_share=0.2)
    shape = read_model_config(config.model)
    ranks = [SimpleNamespace(num_processes=processes, process_index=index) for index in range(processes)]
    objectives = [Pretraining(config, shape, tokens, tokenizer, rank) for rank in ranks]
    for step in range(config.training.steps):
        batches = [objective._micro_batch(step, micro) for micro in range(2) for objective in objectives]
        yield torch.cat([batch.ids_BT for batch in batches])


@pytest.mark.slow
def test_two_processes_train_and_measure_what_one_does(whole: Settings, tmp_path: Path) -> None:
    settings = changed(whole, training__micro_batch_sequences=1, output_dir=tmp_path / "two", training__num_processes=2)
    in_two(settings, tmp_path)
    one, two = losses(whole["output_dir"]), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[step] == pytest.approx(two[step], rel=1e-4) for step in range(1, 15))
    assert all(one[step] == pytest.approx(two[step], rel=1e-2) for step in one)
    measured = [list(measurements(run)) for run in (whole["output_dir"], tmp_path / "two")]
    for one_row, two_row in zip(*measured, strict=True):
        assert one_row.keys() == two_row.keys()
        assert all(one_row[key] == pytest.approx(two_row[key], rel=1e-2) for key in one_row)


def measurements(run: Path) -> Iterator[dict[str, float]]:
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "train.measured":
            yield {key: value for key, value in event.items() if key.startswith("bits_per_byte")}


def test_bits_per_byte_are_measured_by_category_and_language(whole: Settings) -> None:
    first, *_, last = measurements(whole["output_dir"])
    assert set(last) >= {
        "bits_per_byte", "bits_per_byte/category/code", "bits_per_byte/category/text", "bits_per_byte/language/Python"
    }  # fmt: skip
    assert last["bits_per_byte/category/text"] < first["bits_per_byte/category/text"]
    counts = artifacts.load(whole["output_dir"] / "checkpoints" / "step-000040").counts
    assert counts["bits_per_byte/category/code"] == last["bits_per_byte/category/code"]


def test_each_target_is_of_one_category_and_of_one_language(tokens: artifacts.Artifact) -> None:
    number = Windows(tokens, "validation", 32).number
    found = samples(tokens, "validation", context=32, windows=number, count=tokens.counts["tokens"]["validation"])
    for aspect in ("category", "language"):
        counted = np.zeros((number, 32), int)
        for sample in (each for group, chosen in found.items() if group.startswith(aspect) for each in chosen):
            counted[sample.window] += sample.counts_T
        assert counted[:-1].min() == counted.max() == 1


def test_a_decay_begins_from_a_stable_checkpoint_of_another_run_and_names_its_parent(
    whole: Settings, tmp_path: Path
) -> None:
    stable = whole["output_dir"] / "checkpoints" / "step-000030"
    stages = {"before": {"until": 20}, "decay": {"shares": {"code": 1}}}
    settings = changed(
        whole, output_dir=tmp_path / "decay", data__stages=stages, optim__decay_steps=5, training__steps=25,
        training__resume_from=whole["output_dir"] / "checkpoints" / "step-000020",
    )  # fmt: skip
    train(settings, training__stop_at_step=22)
    train(settings, training__resume_from="latest")
    last = artifacts.load(tmp_path / "decay" / "checkpoints" / "step-000025")
    parent = artifacts.load(whole["output_dir"] / "checkpoints" / "step-000020")
    assert last.digest_of("parent") == parent.digest
    (item,) = [item for item in last.inputs if item.role == "parent"]
    assert (last.path / item.name).resolve() == parent.path.resolve()
    rates = [event["lr"] for event in events(tmp_path / "decay", "train.step")]
    assert rates == pytest.approx([1e-2 * (0.1 + 0.9 * left / 5) for left in (5, 4, 3, 2, 1)])
    assert artifacts.load(stable).digest_of("parent") is None
    assert not events(tmp_path / "decay", "train.decays_again")
    with pytest.raises(ConfigError, match="optim.decay_steps=10 is longer than what is left of the run: 5 steps"):
        train(settings, output_dir=tmp_path / "late", optim__decay_steps=10)
    with pytest.raises(ConfigError, match="optim.decay_steps=12 is longer than what is left of the run: 5 steps"):
        train(settings, output_dir=tmp_path / "late", optim__decay_steps=None, optim__decay_share=0.5)


def test_a_decay_from_a_checkpoint_that_has_decayed_says_so(whole: Settings, tmp_path: Path) -> None:
    checkpoints = whole["output_dir"] / "checkpoints"
    settings = changed(whole, output_dir=tmp_path / "again", optim__decay_steps=5, training__steps=45)
    train(settings, training__resume_from=checkpoints / "step-000040", training__stop_at_step=41)
    (event,) = events(tmp_path / "again", "train.decays_again")
    assert event["reason"] == (
        f"the learning rate of {checkpoints / 'step-000040'} fell to 10 % of its peak already; "
        "its run was stable up to step 28: decay from a checkpoint up to there"
    )
    train(settings, training__resume_from="latest", training__stop_at_step=42)
    assert len(events(tmp_path / "again", "train.decays_again")) == 1


def events(run: Path, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__stages": {"a": {"until": 9}, "b": {"until": 5}, "c": {}}}, "stages are out of order: a lasts until"),
        ({"data__stages": {"a": {}, "b": {}}}, "stages.a.until: give the step at which b begins"),
        ({"data__stages": {"a": {"until": 9}}}, "stages.a.until: the last stage lasts until training.steps"),
        ({"data__stages": {"a": {"until": 40}, "b": {}}}, "data.stages.b begins at step 40, but training.steps=40"),
        ({"data__stages": {"a": {"context": 64}}}, "data.stages.a.context=64 exceeds the context of the data, 32"),
        ({"data__stages": {"a": {"context": 12}}}, "data.stages.a.context=12 does not divide the context of the data"),
        ({"data__stages": {"a": {"shares": {"cod": 1}}}}, "shares name 'cod', but no window is mostly of such"),
        ({"data__stages": {"a": {"shares": {"code": 1, "Python": 1}}}}, "by category, or those of all by language"),
        ({"data__stages": {"a": {"shares": {"code": 0}}}}, "data.stages.a.shares.code"),
        ({"optim__decay_steps": 4}, "decay_steps is a setting of schedule wsd"),
        ({"optim__decay_steps": 37, "optim__schedule": "wsd"}, "optim.decay_steps=37 is longer than the run"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: Settings, changes: Settings, said: str) -> None:
    with pytest.raises(IbidemError) as refused:
        train(changed(settings, **changes))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_tokens_without_groups_are_refused(tokens: artifacts.Artifact, tmp_path: Path) -> None:
    (tmp_path / "documents.parquet").touch()
    name = next(name for name in tokens.files if name.endswith("documents.parquet"))
    table = pq.read_table(tokens.path / name).drop_columns(["category", "language"])
    (tmp_path / name).parent.mkdir(parents=True)
    pq.write_table(pa.table(table), tmp_path / name)
    old = artifacts.Artifact(**{**vars(tokens), "path": tmp_path})
    with pytest.raises(IbidemError, match="another version of ibidem; tokenize the dataset again"):
        groups_of(old, ["code"], context=16)


def test_flags_spell_the_names_of_shares_as_they_are(settings: Settings) -> None:
    words = [
        "--data.stages.a.until",
        "5",
        "--data.stages.b-c.shares.Objective-C",
        "2",
        "--data.stages.b-c.context",
        "8",
    ]
    plain = [f"--{key}={settings[key]}" for key in ("model", "output_dir")]
    needed = ["--data.dataset=x", "--data.tokenizer=y", "--training.steps=9", "--training.batch-sequences=1"]
    config = parse(TrainConfig, [*plain, *needed, *words])
    assert config.data.stages == {
        "a": StageConfig(until=5), "b-c": StageConfig(shares={"Objective-C": 2.0}, context=8)
    }  # fmt: skip


def test_the_plan_counts_tokens_and_attention_of_short_stages(settings: Settings) -> None:
    plans = {
        name: plan(build(PlanConfig, changed(settings, data__stages=stages)))
        for name, stages in (("whole", {}), ("staged", STAGES))
    }
    rows = {name: dict(row.strip().split("  ", 1) for row in text.splitlines()) for name, text in plans.items()}
    assert rows["whole"]["total tokens"] == rows["staged"]["total tokens"]
    assert rows["staged"]["stage a short"].strip() == "1,536 in 12 steps of 16 sequences of 8"
    assert rows["staged"]["stage b mixed"].strip() == "2,048 in 16 steps of 8 sequences of 16; 75 % code, 25 % text"
    full, staged = (float(rows[name]["total FLOP, with full attention"]) for name in ("whole", "staged"))
    saved = 4 * 32 * (12 * 2 * 32) * (12 * (32 - 8) + 16 * (32 - 16))
    assert saved == pytest.approx(full - staged, abs=0.01 * full)
    assert saved > 0.03 * full


def test_stages_cover_the_training() -> None:
    configs = {"a": StageConfig(until=3), "b": StageConfig(until=7, context=4), "c": StageConfig()}
    stages = stages_of(configs, context=8, steps=20)
    assert [(stage.first, stage.stop) for stage in stages] == [(0, 3), (3, 7), (7, 20)]
