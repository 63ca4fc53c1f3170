"""Contrastive batches beside a language-model loss: they reach the policy, resume, and are off by default."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tests.conftest import REPOSITORY
from tests.training.passage_data import passage, prose_dataset
from tests.training.rlhf.preference_data import figures
from tests.training.test_resume import Settings, changed, losses, torchrun
from tests.training.test_sft import LAUNCHER, talk, write

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import ConfigError, DataError
from ibidem.grounding.encoder import open_encoder
from ibidem.modeling.checkpoint import load_model, load_weights, model_config
from ibidem.modeling.grounded_decoder import GroundedDecoder
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import contrastive
from ibidem.training.config import ContrastConfig, LoopConfig, OptimConfig
from ibidem.training.contrastive import Contrast, losses_of, new_grounded_decoder, unread
from ibidem.training.optim import HEAD_LR, make_optimizer, set_learning_rate
from ibidem.training.rlhf.config import SftConfig
from ibidem.training.rlhf.sft_pipeline import sft

NAMES = ("contrast/loss", "contrast/wins", "contrast/temperature")


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prose_dataset(tmp_path_factory.mktemp("prose") / "prose", [passage(seed) for seed in range(20)])


@pytest.fixture
def settings(checkpoint: Path, prose: Path, tmp_path: Path) -> Settings:
    rows = [{"messages": talk(f"What is {number}?", f"It is {number + 1}.")} for number in range(40)]
    return {
        "initial": checkpoint,
        "data": write(tmp_path / "talks.jsonl", rows),
        "output_dir": tmp_path / "run",
        "contrast": {"weight": 0.5, "data": prose, "passage_chars": 120},
        "training": {"steps": 6, "batch_sequences": 4, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 3e-3, "warmup_steps": 1},
        "validation": {"every": 6, "sample_tokens": 4},
        "checkpoints": {"every": 3},
    }


def run(settings: Settings, **changes: object) -> str:
    return sft(build(SftConfig, changed(settings, **changes)))


def contrast_of(checkpoint: Path) -> Contrast:
    """Questions on passages that the context holds."""
    people = ("Ada", "Grace", "Alan", "Edsger", "Barbara")
    passages = [f"{name} built it in {1850 + 7 * n}, sold it in {1900 + n}." for n, name in enumerate(people)]
    training = LoopConfig(steps=1, batch_sequences=4, micro_batch_sequences=4)
    tokenizer, context = Tokenizer.load(checkpoint / "tokenizer"), model_config(artifacts.load(checkpoint)).context
    return Contrast(
        passages, tokenizer, context, ContrastConfig(weight=1.0), training, Accelerator(cpu=True), of="passages"
    )


def grounded(checkpoint: Path) -> GroundedDecoder:
    """The checkpoint's decoder with a head whose weights are none of them zero."""
    model = new_grounded_decoder(
        model_config(artifacts.load(checkpoint)), LoopConfig(steps=1, batch_sequences=1, mixed_precision="no")
    )
    load_weights(model, checkpoint)
    for parameter in model.grounding.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    return model


def test_the_loss_is_that_of_the_targets_and_the_weighted_mean_of_the_questions(
    settings: Settings, tmp_path: Path
) -> None:
    run(settings, training__steps=1)
    run(settings, training__steps=1, output_dir=tmp_path / "plain", contrast={})
    (both,), (plain,), (contrast,) = (
        figures(tmp_path / "run", "loss"), figures(tmp_path / "plain", "loss"), figures(tmp_path / "run", NAMES[0])
    )  # fmt: skip
    assert both == pytest.approx(plain + 0.5 * contrast, rel=1e-5)
    assert contrast > 0.1
    assert figures(tmp_path / "run", "contrast/lm_loss") == pytest.approx([plain], rel=1e-5)


def test_the_policy_reads_what_its_checkpoint_reads_as_an_encoder(checkpoint: Path) -> None:
    contrast, model = contrast_of(checkpoint), grounded(checkpoint)
    rows, encoder = contrast.material.rows(contrast.items(0, 0)), open_encoder(checkpoint)
    texts = (*rows.questions, *rows.passages)
    states = {text: encoder.states(text) for text in texts}
    located = unread(rows, lambda text: states[text].spans_T2, contrast.material.known)
    scores_R = model.grounding(located.read(torch.cat([states[text].states_TD for text in texts])))
    expected = losses_of(scores_R, rows, model.grounding.temperature)
    contrast.begin()
    assert float(contrast.loss(model, 0, 0).detach()) == pytest.approx(float(expected.detach().mean()), rel=1e-4)
    assert float(contrast.figures()["contrast/loss"]) == pytest.approx(float(expected.detach().mean()), rel=1e-4)


def test_the_gradients_of_the_questions_reach_the_policy(checkpoint: Path) -> None:
    contrast, model = contrast_of(checkpoint), grounded(checkpoint)
    contrast.loss(model, 0, 0).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_questions_are_learned(settings: Settings) -> None:
    run(settings, training__steps=30, validation__every=30, checkpoints__every=30)
    loss, wins, temperature = (figures(settings["output_dir"], name) for name in NAMES)
    assert sum(loss[-10:]) < 0.9 * sum(loss[:10])
    assert sum(wins[-10:]) > sum(wins[:10])
    assert all(0.01 <= each <= 1 for each in temperature)


def test_stopping_and_resuming_changes_no_bit_and_the_head_is_kept(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "whole")
    run(settings, output_dir=tmp_path / "parts", training__stop_at_step=3)
    run(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    lasts = [tmp_path / name / "checkpoints" / "step-000006" for name in ("whole", "parts")]
    assert artifacts.load(lasts[0]).digest == artifacts.load(lasts[1]).digest
    assert load_file(lasts[0] / "model.safetensors")["grounding.out.weight"].any()


@pytest.mark.slow
def test_two_processes_train_what_one_does(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    two = changed(settings, training__num_processes=2)
    done = torchrun(two, tmp_path, "--output-dir", str(tmp_path / "two"), launcher=LAUNCHER)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("loss", *NAMES):
        one, other = (figures(tmp_path / folder, name) for folder in ("one", "two"))
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_without_a_weight_nothing_differs_from_plain_sft(settings: Settings) -> None:
    run(settings, contrast={})
    made = artifacts.load(settings["output_dir"] / "checkpoints" / "step-000006")
    assert {item.role for item in made.inputs} == {"data", "tokenizer", "initial"}
    assert not [name for name in load_file(made.path / "model.safetensors") if name.startswith("grounding")]
    assert "contrast/loss" not in (settings["output_dir"] / "events.jsonl").read_text()


def test_the_passages_are_an_input_and_the_result_is_a_plain_checkpoint(settings: Settings, prose: Path) -> None:
    run(settings)
    last = settings["output_dir"] / "checkpoints" / "step-000006"
    assert artifacts.load(last).digest_of("contrast") == artifacts.load(prose).digest
    model, _ = load_model(last)
    assert not [name for name, _ in model.named_parameters() if name.startswith("grounding")]
    again = changed(settings, initial=last, output_dir=settings["output_dir"].parent / "again")
    run(again, training__steps=1)
    run(again, training__steps=1, contrast={}, output_dir=settings["output_dir"].parent / "plain")


def test_passages_that_cannot_be_asked_about_are_one_line(settings: Settings, tmp_path: Path) -> None:
    for number, (texts, said) in enumerate([([" "] * 3, "all documents are empty"), (["1889"], "can be asked about")]):
        data = prose_dataset(tmp_path / f"data-{number}", texts)
        with pytest.raises(DataError, match=f"^contrast.data .*: .*{said}"):
            run(settings, contrast__data=data)


@pytest.mark.parametrize("contrast", [{"weight": 0.5}, {"data": REPOSITORY}])
def test_a_weight_needs_data_and_data_a_weight(contrast: dict, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="weight and data go together"):
        run(settings, contrast=contrast)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_head_learns_at_a_rate_of_its_own(name: str, checkpoint: Path) -> None:
    model, config = grounded(checkpoint), OptimConfig(name=name, lr=1e-5)
    groups = make_optimizer(model, config).param_groups
    set_learning_rate(groups, 1e-5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    of_head = {id(parameter) for parameter in model.grounding.parameters()}
    assert {round(rate, 9) for key, rate in rates.items() if key in of_head} == {HEAD_LR}
    assert {round(rate, 9) for key, rate in rates.items() if key not in of_head} == {1e-5}


def test_a_head_beside_a_policy_is_not_sharded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive.sharding, "is_requested", lambda: True)
    with pytest.raises(ConfigError, match="start without FSDP, or leave it 0"):
        contrast_of(checkpoint).check()
