"""FSDP computes what one process computes, whatever the precision, and starts as `accelerate launch` starts it."""

import json
import os
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from tests.conftest import REPOSITORY
from tests.processes import together
from tests.training.test_resume import Settings, changed, in_two, losses, train, weights
from torch.nn.parallel import DistributedDataParallel

from ibidem.errors import TrainingError
from ibidem.modeling import tensor_files
from ibidem.modeling.attention import Documents
from ibidem.modeling.checkpoint import load_weights
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.generate import Sample, sample
from ibidem.modeling.heads import ValueDecoder
from ibidem.modeling.log_probabilities import Scoring
from ibidem.modeling.modeling_custom import Decoder
from ibidem.serving.config import GenerateConfig
from ibidem.serving.generate import generate
from ibidem.training import sharding
from ibidem.training.config import OptimConfig
from ibidem.training.loop import _check_finite, gradient_norm
from ibidem.training.optim import make_optimizer

SHAPE = ModelConfig(vocab_size=96, width=32, layers=2, heads=2, ffn_hidden=48, context=16)


def environment_of_the_launcher() -> dict[str, str]:
    """Return what `accelerate launch --config_file configs/accelerate/fsdp.yaml` sets in the environment."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = REPOSITORY / "configs" / "accelerate" / "fsdp.yaml"
    asked = launch_command_parser().parse_args(["--config_file", str(file), "train.py"])
    environment = prepare_multi_gpu_env(_validate_launch_command(asked)[0])
    return {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def test_sharded_training_is_launched_equals_one_process_and_resumes_to_the_bit(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(
        train_settings, training__steps=6, checkpoints__every=3, validation__every=6, training__resume_from="latest"
    )
    settings = changed(settings, training__micro_batch_sequences=1)
    train(settings, output_dir=tmp_path / "one")
    for name, value in environment_of_the_launcher().items():
        monkeypatch.setenv(name, value)
    settings = changed(settings, training__num_processes=2)
    for run, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        in_two(settings, tmp_path, "--output-dir", str(tmp_path / run), *flags)
    one, whole = losses(tmp_path / "one"), losses(tmp_path / "whole")
    assert list(one.values()) == pytest.approx(list(whole.values()), rel=1e-5)
    assert whole == losses(tmp_path / "parts")
    assert weights(tmp_path / "whole", 6) == weights(tmp_path / "parts", 6)
    assert generated(tmp_path / "whole") == generated(tmp_path / "one") != ""
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-000006")
    alone = changed(settings, training__num_processes=1, output_dir=tmp_path / "parts")
    train(alone)
    assert list(losses(tmp_path / "parts").values()) == pytest.approx(list(whole.values()), rel=1e-5)
    said = (tmp_path / "whole" / "events.jsonl").read_text().splitlines()
    assert "the weights are sharded" in [json.loads(line).get("reason") for line in said]


def generated(run: Path) -> str:
    """Complete a prompt as `ibidem generate` does, greedily; its weights may be in two files."""
    return generate(GenerateConfig(checkpoint=run, prompt=("def ",), temperature=0, max_tokens=8))


def sharded_step(rank: int, port: int, out: Path, dtype: torch.dtype) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = Decoder(SHAPE, compute_dtype=dtype)
    model.init_weights(0)
    sharding.shard(model, torch.device("cpu"))
    loss = accumulated(model, [rank, rank + 2], scale=2)
    gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    norm = gradient_norm(model)
    if rank == 0:
        torch.save({"gradients": gradients, "norm": norm, "loss": loss}, out)
    dist.destroy_process_group()


def accumulated(model: Decoder, numbers: list[int], scale: float) -> torch.Tensor:
    """Accumulate the gradients of numbered micro batches; return the last loss."""
    for number in numbers:
        sharding.reduces_when(model, is_last=number == numbers[-1])
        ids = torch.randint(96, (1, 17), generator=torch.Generator().manual_seed(number))
        loss = model(ids[:, :-1], ids[:, 1:], Documents.of(ids[:, :-1] < 12))
        (loss * scale).backward()
    return loss.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sharded_gradients_are_those_of_one_process_in_every_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    out = tmp_path / "gradients.pt"
    together(sharded_step, out, dtype)
    sharded = torch.load(out, weights_only=True)
    model = Decoder(SHAPE, compute_dtype=dtype)
    model.init_weights(0)
    accumulated(model, [0, 1, 2, 3], scale=1)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == sharded["gradients"][name].dtype == torch.float32
        torch.testing.assert_close(sharded["gradients"][name], parameter.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sharded["norm"], gradient_norm(model))
    assert sharded["loss"].dtype == torch.float32
    assert float(sharded["loss"]) != float(sharded["loss"].bfloat16()), "a loss that was rounded to 16 bits"


PROMPTS = [[1, 2, 3], [4]]


def learned(model: torch.nn.Module, numbers: list[int]) -> list[list[Sample]]:
    """Take two steps on policy and values; sample before the first one and after each."""
    optimizer = make_optimizer(model, OptimConfig(name="muon", lr=0.01))
    samples = []
    for step in range(3):
        with torch.no_grad():
            policy_loss(model, 0)  # FSDP leaves some weights gathered after it
        policy = sharding.whole(model)
        samples.append(sample(policy, PROMPTS, [[0, 1, 2], [3]], max_tokens=8, end_ids=(0,)))
        for number in numbers:
            (policy_loss(model, number + step) / len(numbers)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [group for groups in samples for group in groups]


def policy_loss(model: torch.nn.Module, number: int) -> torch.Tensor:
    ids = torch.randint(96, (1, 17), generator=torch.Generator().manual_seed(number))
    scores = model(ids[:, :-1], ids[:, 1:], scoring=Scoring())
    return scores.log_probs_N.square().sum() + (scores.values_N - 1).square().sum()


def value_decoder() -> ValueDecoder:
    model = ValueDecoder(SHAPE)
    model.init_weights(0)
    return model


def sampled_while_training(rank: int, port: int, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    replicated, sharded = value_decoder(), value_decoder()
    sharding.shard(sharded, torch.device("cpu"))
    found = {
        "ddp": learned(DistributedDataParallel(replicated), [10 * rank]),
        "fsdp": learned(sharded, [10 * rank]),
    }
    policy = sharding.whole(sharded)
    assert not any(parameter.requires_grad for parameter in policy.parameters())
    parts = [tensor_files.part_of(name, tensor) for name, tensor in sharded.state_dict().items()]
    tensor_files.write(out / tensor_files.name_of_file("model", rank, of=2), parts)
    torch.save({**found, "weights": policy.state_dict()}, out / f"{rank}.pt")
    dist.destroy_process_group()


def test_every_process_samples_from_the_whole_policy_what_one_process_samples(tmp_path: Path) -> None:
    together(sampled_while_training, tmp_path)
    alone = value_decoder()
    expected = learned(alone, [0, 10])
    assert sharding.whole(alone) is alone
    assert len({tuple(group[0].ids) for group in expected[::2]}) == 3, "the policy moves"
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for wrapper in ("ddp", "fsdp"):
            for mine, theirs in zip(chain(*found[wrapper]), chain(*expected), strict=True):
                assert mine.ids == theirs.ids
                assert mine.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)
        assert found["weights"].keys() == Decoder(SHAPE).state_dict().keys()
    saved = ValueDecoder(SHAPE)
    load_weights(saved, tmp_path)
    torch.testing.assert_close(saved.state_dict(), alone.state_dict(), atol=1e-4, rtol=1e-4)


def test_wrappers_leave_the_layout_of_documents_on_the_host() -> None:
    from torch.distributed.utils import _to_kwargs

    documents = Documents.of(torch.zeros(1, 4, dtype=torch.bool))
    (moved,), _ = _to_kwargs((documents,), {}, torch.device("meta"), use_side_stream_for_tensor_copies=False)
    assert moved[0].layout.device.type == "cpu"


def spoiled_shard(rank: int, port: int, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    model = Decoder(SHAPE)
    model.init_weights(0)
    sharding.shard(model, torch.device("cpu"))
    with torch.no_grad():
        model.embedding.weight_VD.to_local()[0, 0] = float("nan") if rank == 1 else 0.0
    try:
        _check_finite(model, accelerator, 1)
    except TrainingError:
        (out / str(rank)).touch()
    dist.barrier()
    dist.destroy_process_group()


def test_weights_that_are_not_finite_on_one_process_stop_all(tmp_path: Path) -> None:
    together(spoiled_shard, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_sixteen_bits_do_not_reach_rotary_positions_and_the_loss() -> None:
    model = Decoder(SHAPE, compute_dtype=torch.bfloat16)
    model.init_weights(0)
    seen = []
    model.blocks[1].register_forward_pre_hook(lambda _block, args: seen.extend([args[0].dtype, args[1].cos.dtype]))
    ids = torch.randint(96, (2, 17), generator=torch.Generator().manual_seed(0))
    loss = model(ids[:, :-1], ids[:, 1:])
    assert seen == [torch.bfloat16, torch.float32]
    assert loss.dtype == torch.float32
