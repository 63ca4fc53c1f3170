"""LoRA in a run of training: what it learns, what is on disk, that it resumes to the bit, and what is refused."""

import importlib.util
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import REPOSITORY
from tests.serving.imports.foreign import make_model
from tests.training.rlhf.preference_data import kill_and_resume
from tests.training.test_resume import Settings, changed, in_two, losses
from tests.training.test_sft import events, run, settings, talks  # noqa: F401 - two are fixtures

from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build, parse
from ibidem.config import settings as settings_of
from ibidem.errors import CheckpointError, ConfigError
from ibidem.lineage import walk
from ibidem.modeling.checkpoint import load_model, weights_of
from ibidem.modeling.tensor_files import Part
from ibidem.serving.export.hf_model import hf_config, save_weights
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import lora, saving
from ibidem.training.rlhf.config import SftConfig
from ibidem.training.rlhf.sft_pipeline import Sft

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks
LAUNCHER = REPOSITORY / "src" / "training" / "rlhf" / "sft_pipeline.py"
LORA = {"rank": 4, "dropout": 0.1}
FILES = ("model.safetensors", "adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors")


@pytest.fixture
def adapted(settings: Settings) -> Settings:  # noqa: F811
    return changed(settings, lora=LORA, optim__lr=3e-2)


def files(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step-{step:06d}"
    return {name: (folder / name).read_bytes() for name in FILES}


def last_of(settings: Settings, step: int = 6) -> Path:  # noqa: F811
    return settings["output_dir"] / "checkpoints" / f"step-{step:06d}"


def test_without_a_rank_nothing_is_recorded(settings: Settings) -> None:  # noqa: F811
    config = build(SftConfig, changed(settings, lora={"rank": 0}))
    assert config == build(SftConfig, settings)
    assert "lora" not in settings_of(config)
    run(settings)
    last = artifacts.load(last_of(settings))
    assert "lora" not in last.config["train"]
    assert not [name for name in last.files if "adapter" in name]
    assert not events(settings["output_dir"], "train.adapters")


def test_adapters_alone_are_trained_and_the_rest_is_the_base_to_the_bit(adapted: Settings, checkpoint: Path) -> None:
    said = run(adapted)
    assert said == f"{last_of(adapted)}: step 6 of 6"
    last = artifacts.verify(last_of(adapted), kind="checkpoint")
    assert {item.role: item.digest for item in last.inputs}["initial"] == artifacts.load(checkpoint).digest
    assert last.config["train"]["lora"]["rank"] == 4
    before, after = load_file(checkpoint / "model.safetensors"), load_file(last.path / "model.safetensors")
    changes = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    matrices = {name for name in before if name.endswith(("qkv.weight", "out.weight", "gate_up.weight", "down.weight"))}
    assert set(after) == set(before)
    assert changes == matrices
    (said_of,) = events(adapted["output_dir"], "train.adapters")
    moments = load_file(last.path / "optimizer.safetensors")
    assert said_of["rank"] == 4
    assert said_of["frozen"] == sum(tensor.numel() for tensor in before.values())
    means = [tensor for name, tensor in moments.items() if name.endswith("/exp_avg")]
    assert sum(tensor.numel() for tensor in means) == said_of["trained"] < said_of["frozen"] / 3


def test_held_out_answers_become_likelier(adapted: Settings) -> None:
    """By no more than the base lets them: its embeddings, which ten steps have hardly moved, are frozen."""
    run(adapted, training__steps=20, validation__every=20, validation__samples=0, validation__windows=8)
    first, last = (event["held_out_loss"] for event in events(adapted["output_dir"], "train.measured"))
    assert last < first - 0.1


def test_a_killed_run_resumes_to_the_bit(adapted: Settings, tmp_path: Path) -> None:
    whole = changed(adapted, training__steps=40, checkpoints__every=5, validation__every=40)
    run(whole, output_dir=tmp_path / "whole")
    kill_and_resume(whole, LAUNCHER, tmp_path, at=5)
    assert files(tmp_path / "killed", 40) == files(tmp_path / "whole", 40)
    digests = [artifacts.load(tmp_path / name / "checkpoints" / "step-000040").digest for name in ("killed", "whole")]
    assert digests[0] == digests[1]


def test_adapters_that_are_written_beside_the_steps_are_those_of_their_step(
    adapted: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint is written when the step after the next one has begun."""
    run(adapted, checkpoints__every=2)
    begun, write, begin = threading.Event(), saving.write, Sft.begin

    def write_late(path: Path, parts: Iterable[Part]) -> str:
        assert begun.wait(60)
        return write(path, parts)

    def begin_and_say(self: Sft, model: torch.nn.Module, step: int) -> None:
        begin(self, model, step)
        if step == 3:
            begun.set()

    monkeypatch.setattr(saving, "write", write_late)
    monkeypatch.setattr(Sft, "begin", begin_and_say)
    run(adapted, output_dir=tmp_path / "beside", checkpoints__every=2, checkpoints__asynchronous=True)
    assert files(tmp_path / "beside", 2) == files(adapted["output_dir"], 2)


@pytest.mark.slow
def test_a_killed_run_of_an_imported_model_of_ten_million_parameters_resumes_to_the_bit(
    adapted: Settings, tmp_path: Path
) -> None:
    wide = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 9}
    (tmp_path / "llama").mkdir()
    assert make_model(tmp_path / "llama", "Llama", **wide).num_parameters() > 10_000_000
    assert main(["import", "--from", str(tmp_path / "llama"), "--output-dir", str(tmp_path / "base")]) == 0
    whole = changed(adapted, initial=tmp_path / "base", training__steps=20, checkpoints__every=5, validation__every=20)
    whole = changed(whole, lora={"rank": 16}, optim__lr=1e-3)
    run(whole, output_dir=tmp_path / "whole")
    kill_and_resume(whole, LAUNCHER, tmp_path, at=5)
    assert files(tmp_path / "killed", 20) == files(tmp_path / "whole", 20)


def test_two_processes_train_what_one_does_and_resume_to_the_bit(adapted: Settings, tmp_path: Path) -> None:
    one = changed(adapted, lora={"rank": 4})  # processes drop different values
    run(one, output_dir=tmp_path / "one")
    two = changed(one, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        in_two(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=LAUNCHER)
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "whole")
    assert list(alone.values()) == pytest.approx(list(together.values()), rel=1e-5)
    assert losses(tmp_path / "parts") == together
    assert files(tmp_path / "whole", 6) == files(tmp_path / "parts", 6)


def test_contrastive_batches_train_their_head_beside_adapters_and_resume_to_the_bit(
    adapted: Settings, dataset: Path, tmp_path: Path
) -> None:
    asked = changed(adapted, contrast={"weight": 0.5, "data": dataset, "passage_chars": 64})
    run(asked, output_dir=tmp_path / "whole")
    run(asked, training__stop_at_step=3)
    first = load_file(last_of(asked, 3) / "model.safetensors")
    run(asked, training__resume_from="latest")
    assert files(asked["output_dir"], 6) == files(tmp_path / "whole", 6)
    after = load_file(last_of(asked) / "model.safetensors")
    heads = [name for name in after if name.startswith("grounding.")]
    assert any(not torch.equal(first[name], after[name]) for name in heads)


def in_transformers(checkpoint: Path, folder: Path) -> torch.nn.Module:
    """A checkpoint as an export has it, without the hostile texts that an export is compared on."""
    from transformers import AutoModelForCausalLM

    model, _ = load_model(checkpoint)
    folder.mkdir()
    save_weights(model, torch.float32, folder / "model.safetensors")
    (folder / "config.json").write_text(
        hf_config(model.config, Tokenizer.load(checkpoint / "tokenizer"), torch.float32)
    )
    return AutoModelForCausalLM.from_pretrained(folder)


def test_peft_opens_the_adapter_on_an_export_of_the_base_and_all_that_is_merged_is_the_same_model(
    adapted: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    run(adapted)
    export = tmp_path / "export"
    assert main(["export", "--checkpoint", str(last_of(adapted)), "--format", "hf", "--output-dir", str(export)]) == 0
    base = in_transformers(checkpoint, tmp_path / "base")
    ids = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))
    ours, _ = load_model(last_of(adapted))
    ours.cpu()
    with torch.no_grad():
        plain = base(ids).logits
        peer = peft.PeftModel.from_pretrained(base, last_of(adapted)).eval()
        unmerged, merged = peer(ids).logits, peer.merge_and_unload()(ids).logits
        whole = AutoModelForCausalLM.from_pretrained(export)(ids).logits
        for logits in (unmerged, merged, whole):
            torch.testing.assert_close(logits, ours.logits(ids), atol=1e-5, rtol=0)
    assert float((plain - unmerged).abs().max()) > 0.1


@pytest.mark.parametrize("targets", [("qkv", "down"), ("out", "gate_up")])
def test_gradients_are_those_that_peft_computes_on_the_parts_of_a_matrix(
    targets: tuple[str, ...], adapted: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    """The parts of a fused matrix share A: its gradient is the sum of theirs, and that of B is theirs, row by row."""
    import peft

    run(adapted, lora={"rank": 2, "targets": targets})
    config = build(SftConfig, changed(adapted, lora={"rank": 2, "targets": targets})).lora
    ids = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))
    model, _ = load_model(checkpoint)
    adapters = lora.attach(config, 0, model.cpu().train())
    with weights_of(last_of(adapted)) as weights:
        adapters.restore(last_of(adapted), weights)
    model(ids[:, :-1], ids[:, 1:]).backward()
    base = in_transformers(checkpoint, tmp_path / "base")
    peer = peft.PeftModel.from_pretrained(base, last_of(adapted), is_trainable=True)
    logits = peer(ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").backward()
    theirs = {
        name.replace(".default", ""): each.grad for name, each in peer.named_parameters() if each.grad is not None
    }
    for place in lora._places(model, targets):
        a_RD = sum(theirs.pop(f"{name}.lora_A.weight") for name in place.rows)
        b_OR = torch.cat([theirs.pop(f"{name}.lora_B.weight") for name in place.rows])
        torch.testing.assert_close(place.adapter.a_RD.grad, a_RD, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(place.adapter.b_OR.grad, b_OR, atol=1e-4, rtol=1e-3)
    assert not theirs


def test_a_checkpoint_of_adapters_is_one_like_any_other(adapted: Settings, tmp_path: Path) -> None:
    run(adapted)
    assert main(["generate", "--checkpoint", str(adapted["output_dir"]), "--prompt", "def", "--max-tokens", "2"]) == 0
    assert main(["verify", str(adapted["output_dir"])]) == 0
    assert {state for _, state, _ in walk(last_of(adapted))} <= {"ok", "source"}
    run(adapted, initial=adapted["output_dir"], output_dir=tmp_path / "next")
    assert main(["verify", str(tmp_path / "next")]) == 0


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            {"rank": 4},
            None,
            r"step-000003 was trained with lora\.rank 4, .* has lora\.rank 0: resume",
        ),
        (None, {"rank": 4}, r"was trained with lora\.rank 0, and this run has lora\.rank 4, lora\.alpha 8\.0"),
        ({"rank": 4}, {"rank": 4, "alpha": 4}, r"lora\.alpha 8\.0, .* has lora\.rank 4, lora\.alpha 4\.0"),
        ({"rank": 4}, {"rank": 4, "targets": ["qkv"]}, r"has lora\.rank 4, lora\.alpha 8\.0, lora\.targets qkv: "),
    ],
)
def test_a_run_does_not_go_on_with_other_adapters(
    before: dict | None,
    after: dict | None,
    said: str,
    settings: Settings,  # noqa: F811
) -> None:
    run(settings, **({"lora": before} if before else {}), training__stop_at_step=3)
    with pytest.raises(CheckpointError, match=said):
        run(settings, **({"lora": after} if after else {}), training__resume_from="latest")


def test_the_same_adapters_said_otherwise_go_on(settings: Settings) -> None:  # noqa: F811
    run(settings, lora={"rank": 4, "targets": ["down", "qkv"]}, training__stop_at_step=3)
    again = {"rank": 4, "alpha": 8, "targets": ["qkv", "down"], "dropout": 0.2}
    run(settings, lora=again, training__resume_from="latest")
    assert last_of(settings).exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lora.rank", "-1"], "--lora.rank: input should be greater than or equal to 0 (got -1)"),
        (
            ["--lora.rank", "1000000000000"],
            "--lora.rank: input should be less than or equal to 4096 (got 1000000000000)",
        ),
        (["--lora.rank", "x"], "--lora.rank must be a whole number, not 'x'"),
        (["--lora.rank", "4", "--lora.alpha", "0"], "--lora.alpha: input should be greater than 0 (got 0)"),
        (["--lora.rank", "4", "--lora.dropout", "1"], "--lora.dropout: input should be less than 1 (got 1)"),
        (["--lora.alpha", "4"], "alpha, dropout and targets are settings of adapters: give lora.rank too"),
        (
            ["--lora.rank", "4", "--lora.targets", "q_proj"],
            "input should be 'qkv', 'out', 'gate_up' or 'down' (got q_proj)",
        ),
        (["--lora.rank", "4", "--lora.targets"], "--lora.targets: give at least one"),
        (["--lora.rank", "4", "--lora.targets", "qkv", "qkv"], "targets: one is named twice"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], said: str) -> None:
    given = ["--initial", "a", "--data", "b", "--output-dir", "c", "--training.steps", "1"]
    with pytest.raises(ConfigError) as caught:
        parse(SftConfig, [*given, *flags])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_train_adapters_is_refused_before_anything_is_written(
    adapted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"muon is for whole matrices, and with lora\.rank none is trained"):
        run(adapted, optim__name="muon")
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_USE_FSDP", "true")
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="adapters are not sharded; start the processes without FSDP"):
            run(adapted)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"adapters need peft: pip install 'ibidem\[lora\]'"):
        run(adapted)
    assert not adapted["output_dir"].exists()
