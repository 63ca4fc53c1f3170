"""Our losses and their gradients equal those of TRL, on the same weights and ids.

Losses of policies have other names and bounds there:

    ours     TRL                                                      sum over tokens, divided by
    grpo     loss_type dr_grpo                                        answers * max_tokens
    gspo     loss_type grpo, importance_sampling_level sequence       tokens of the answer, and then answers
    cispo    loss_type cispo; its epsilon_high is our 1 + clip_high   answers * max_tokens; TRL: tokens of all answers

PEERS_PYTHON names a Python that has it: `pip install -c constraints.txt torch trl==1.16.0`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tests.conftest import REPOSITORY
from tests.modeling.test_modeling_custom import decoder, small
from torch import Tensor

from ibidem.modeling.heads import RewardModel
from ibidem.modeling.log_probabilities import Scoring
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training.rlhf.batches import Encoded, pack
from ibidem.training.rlhf.config import DpoLossConfig, GrpoConfig
from ibidem.training.rlhf.dpo_trainer import judge
from ibidem.training.rlhf.grpo_trainer import Grpo, Signals
from ibidem.training.rlhf.pairs import EncodedPair, answer_of_targets
from ibidem.training.rlhf.preferences import bradley_terry_loss
from ibidem.training.rlhf.reference import log_probs
from ibidem.training.rlhf.reward_model import packed
from ibidem.training.rlhf.rollout import NONE, Answer, Plan, Rollout, Sampler, pack_answers

_SPEC = importlib.util.spec_from_file_location("align_against_trl", REPOSITORY / "benchmarks" / "align_against_trl.py")
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)
PEERS = os.environ.get("PEERS_PYTHON", sys.executable)
VERSION = "1.16"
LOSSES = {
    "sigmoid": {"loss": "sigmoid", "beta": 0.1},
    "sigmoid_norm": {"loss": "sigmoid_norm", "beta": 2.0},
    "robust": {"loss": "sigmoid", "beta": 0.1, "label_smoothing": 0.1},
}
POLICY_LOSSES = {
    "grpo": ({"loss": "grpo"}, {"loss_type": "dr_grpo", "epsilon": 0.2, "epsilon_high": 0.28}),
    "grpo narrow": (
        {"loss": "grpo", "clip_low": 0.05, "clip_high": 0.02},
        {"loss_type": "dr_grpo", "epsilon": 0.05, "epsilon_high": 0.02},
    ),
    "gspo": (
        {"loss": "gspo", "clip_low": 0.05, "clip_high": 0.08},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08},
    ),
    "cispo": ({"loss": "cispo", "clip_high": 0.28}, {"loss_type": "cispo", "epsilon_high": 1.28}),
}
"""Settings of ours and of TRL's that are to be the same."""
MAX_TOKENS, SAMPLES, TEMPERATURE = 30, 3, 1.3
SCRIPT = """
import json, sys
from pathlib import Path
import torch, transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from trl import (
    DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
)

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
words = {f"w{number}": number for number in range(job["shape"]["vocab_size"] - 2)} | {"<pad>": 95, "<eos>": 96}
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="<pad>", eos_token="<eos>"
)

def model(name, kind="ForCausalLM", **more):
    config = getattr(transformers, job["kind"] + "Config")(**job["shape"], **more)
    made = getattr(transformers, job["kind"] + kind)(config)
    weights = load_file(folder / f"{name}.safetensors")
    missing, _ = made.load_state_dict(weights, strict=False)
    assert not missing, missing
    return made

def settings(kind, max_length=None, **more):
    return kind(
        output_dir=str(folder / "out"), report_to=[], use_cpu=True, bf16=False,
        per_device_train_batch_size=len(job["pairs"]), remove_unused_columns=False, max_length=max_length,
        dataloader_pin_memory=False, **more,
    )

def measured(trainer, name):
    (batch,) = trainer.get_train_dataloader()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {key: each.grad for key, each in trainer.model.named_parameters() if each.grad is not None}
    save_file(gradients, folder / f"{name}-gradients.safetensors")
    return float(loss.detach())

def as_they_are(self, dataset, *_):
    return dataset

found = {}
DPOTrainer._prepare_dataset = RewardTrainer._prepare_dataset = as_they_are
talks = Dataset.from_list([{"input_ids": each["ids"], "labels": each["labels"]} for each in job["talks"]])
arguments = settings(SFTConfig, max_length=512, packing=True, loss_type="nll")
trainer = SFTTrainer(model("policy"), arguments, train_dataset=talks, processing_class=tokenizer)
found["sft"] = measured(trainer, "sft")
pairs = Dataset.from_list([
    {"prompt_ids": each["prompt"], "chosen_ids": each["chosen"], "rejected_ids": each["rejected"]}
    for each in job["pairs"]
])
for name, loss in job["losses"].items():
    kind = "robust" if "label_smoothing" in loss else loss["loss"]
    arguments = settings(
        DPOConfig, loss_type=[kind], beta=loss["beta"], label_smoothing=loss.get("label_smoothing", 0.0)
    )
    both = model("policy"), model("reference")
    trainer = DPOTrainer(*both, arguments, train_dataset=pairs, processing_class=tokenizer)
    found[name] = measured(trainer, name)
    found[name + " figures"] = {key: values[0] for key, values in trainer._metrics["train"].items()}
judged = Dataset.from_list([
    {"chosen_ids": each["prompt"] + each["chosen"], "rejected_ids": each["prompt"] + each["rejected"],
     "margin": each["margin"]} for each in job["pairs"]
])
head = model("reward", "ForSequenceClassification", num_labels=1, pad_token_id=95)
trainer = RewardTrainer(head, settings(RewardConfig), train_dataset=judged, processing_class=tokenizer)
found["reward"] = measured(trainer, "reward")
rollout = job["rollout"]

def rows(lists, side, filling, dtype):
    longest = max(map(len, lists))
    filled = [(each, [filling] * (longest - len(each))) for each in lists]
    return torch.tensor([more + each if side == "left" else each + more for each, more in filled], dtype=dtype)

def inputs():
    found = {"advantages": torch.tensor(rollout["advantages"])}
    for name, side in (("prompt", "left"), ("completion", "right")):
        found[name + "_ids"] = rows(rollout[name], side, 95, torch.long)
        found[name + "_mask"] = rows([[1] * len(each) for each in rollout[name]], side, 0, torch.long)
    found["old_per_token_logps"] = rows(rollout["old"], "right", 0.0, torch.float32)
    found["num_items_in_batch"] = found["completion_mask"].sum()
    return found

for name, loss in job["policy_losses"].items():
    arguments = GRPOConfig(
        output_dir=str(folder / "out"), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=len(rollout["prompt"]), num_generations=job["samples"], beta=0.0,
        temperature=job["temperature"], max_completion_length=job["max_tokens"], **loss,
    )
    trainer = GRPOTrainer(
        model("policy"), lambda completions, **_: [0.0] * len(completions), arguments,
        train_dataset=Dataset.from_list([{"prompt": "w1"}]), processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs())
    loss.backward()
    gradients = {key: each.grad for key, each in trainer.model.named_parameters() if each.grad is not None}
    save_file(gradients, folder / f"{name}-gradients.safetensors")
    found[name] = float(loss.detach())
    found[name + " figures"] = {key: values[0] for key, values in trainer._metrics["train"].items()}
(folder / "found.json").write_text(json.dumps(found))
"""


def random_ids(generator: np.random.Generator, low: int, high: int) -> list[int]:
    return generator.integers(0, 94, generator.integers(low, high)).tolist()


def job(model: Decoder) -> dict[str, Any]:
    """Return conversations, pairs and the shape of the models."""
    rng = np.random.default_rng(0)
    pairs = [
        {
            "prompt": random_ids(rng, 2, 20),
            "chosen": [*random_ids(rng, 1, 25), 96],
            "rejected": [*random_ids(rng, 1, 25), 96],
            "margin": float(rng.choice([0.0, 0.5, 2.0])),
        }
        for _ in range(6)
    ]
    talks = []
    for _ in range(6):
        ids = random_ids(rng, 5, 60)
        is_trained = [False, *(rng.random(len(ids) - 1) < 0.4).tolist()]
        talks.append({"ids": ids, "labels": [id_ if on else -100 for id_, on in zip(ids, is_trained, strict=True)]})
    config = model.config
    shape = {
        "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 12,
        "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 64,
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }  # fmt: skip
    kind = "Qwen3" if config.qk_norm else "Llama"
    return {
        "kind": kind, "shape": shape, "pairs": pairs, "talks": talks, "losses": LOSSES, "rollout": rollout(model),
        "policy_losses": {name: theirs for name, (_, theirs) in POLICY_LOSSES.items()},
        "samples": SAMPLES, "max_tokens": MAX_TOKENS, "temperature": TEMPERATURE,
    }  # fmt: skip


def rollout(model: Decoder) -> dict[str, Any]:
    """Return answers, their advantages, and log-probabilities under a policy that differs from the model."""
    rng = np.random.default_rng(1)
    prompts = [random_ids(rng, 2, 20) for _ in range(4)]
    answers = [
        Answer(place // SAMPLES, np.array(random_ids(rng, 1, MAX_TOKENS + 1)), NONE, False) for place in range(12)
    ]
    moved, by_answer = rng.normal(0, 0.3, (12, MAX_TOKENS)), rng.normal(0, 0.1, (12, 1))
    old = []
    for answer, shifts in zip(answers, moved + by_answer, strict=True):
        batch = pack_answers(prompts, [answer])
        with torch.no_grad():
            scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, Scoring(TEMPERATURE))
        old.append((scores.log_probs_N.numpy() - shifts[: len(answer.ids_L)]).astype(np.float32).tolist())
    return {
        "prompts": prompts,
        "prompt": [prompts[answer.prompt] for answer in answers],
        "completion": [answer.ids_L.tolist() for answer in answers],
        "advantages": rng.normal(0, 1, 12).astype(np.float32).tolist(),
        "old": old,
    }


def huggingface_weights(model: Decoder) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in benchmark.named(model)}


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def trl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TRL computes, and the models and data that it computed it from."""
    asked = f"import trl; assert trl.__version__.startswith({VERSION!r})"
    if subprocess.run([PEERS, "-c", asked], capture_output=True, check=False).returncode:
        pytest.skip(f"trl {VERSION} is not installed; name a Python that has it in PEERS_PYTHON")
    folder = tmp_path_factory.mktemp("trl")
    shape = small(qk_norm=request.param == "Qwen3")
    policy, reference = decoder(shape), decoder(shape, seed=1)
    head = RewardModel(decoder(shape, seed=2))
    torch.nn.init.normal_(head.weight_1D, std=0.3, generator=torch.Generator().manual_seed(3))
    for name, model in (("policy", policy), ("reference", reference)):
        weights = huggingface_weights(model)
        save_file(
            {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / f"{name}.safetensors"
        )
    weights = {**huggingface_weights(head.decoder), "score.weight": head.weight_1D.detach()}
    save_file(weights, folder / "reward.safetensors")
    task = job(policy)
    (folder / "job.json").write_text(json.dumps(task))
    environment = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [PEERS, "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((folder / "found.json").read_text())
    return {"folder": folder, "found": found, "task": task, "models": (policy, reference, head)}


def pairs_of(task: dict[str, Any]) -> list[EncodedPair]:
    def encoded(prompt: list[int], answer: list[int]) -> Encoded:
        is_trained = np.repeat([False, True], [len(prompt), len(answer)])
        return Encoded(np.array(prompt + answer, dtype=np.int32), is_trained)

    return [
        EncodedPair(encoded(each["prompt"], each["chosen"]), encoded(each["prompt"], each["rejected"]), each["margin"])
        for each in task["pairs"]
    ]


def assert_same_gradients(model: Decoder, path: Path, most: float = 1e-5) -> None:
    """Compare the gradients of all matrices of the model, as TRL's model names them."""
    theirs = load_file(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    ours = huggingface_weights(model)
    compared = 0
    for name, expected in theirs.items():
        if name in ours:
            compared += 1
            difference = float(((ours[name] - expected).norm() / expected.norm()).detach())
            assert difference < most, f"{name}: {difference}"
    assert compared > 3 * 9


@pytest.mark.peer
def test_sft_on_packed_conversations_equals_trl(trl: dict[str, Any]) -> None:
    policy, _, _ = trl["models"]
    talks = [
        Encoded(np.array(each["ids"], dtype=np.int32), np.array(each["labels"]) >= 0) for each in trl["task"]["talks"]
    ]
    batch = pack(talks)
    policy.zero_grad()
    loss = policy(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N)
    mean = loss / sum(each.num_targets for each in talks)
    mean.backward()
    assert float(mean.detach()) == pytest.approx(trl["found"]["sft"], rel=1e-6)
    assert_same_gradients(decoder_with_gradients(policy), trl["folder"] / "sft-gradients.safetensors")


@pytest.mark.peer
@pytest.mark.parametrize("name", LOSSES)
def test_dpo_equals_trl(name: str, trl: dict[str, Any]) -> None:
    policy, reference, _ = trl["models"]
    answers = [each for pair in pairs_of(trl["task"]) for each in pair.both]
    batch, answer_of_N = pack(answers), answer_of_targets(answers)
    with torch.no_grad():
        reference_P2 = log_probs(reference, batch, answer_of_N, len(answers)).view(-1, 2)
    policy.zero_grad()
    log_probs_P2 = log_probs(policy, batch, answer_of_N, len(answers)).view(-1, 2)
    lengths_P2 = torch.tensor([each.num_targets for each in answers]).view(-1, 2)
    judged = judge(DpoLossConfig(**LOSSES[name]), log_probs_P2, reference_P2, lengths_P2)
    judged.losses_P.mean().backward()
    assert float(judged.losses_P.detach().mean()) == pytest.approx(trl["found"][name], rel=1e-6)
    assert_same_gradients(decoder_with_gradients(policy), trl["folder"] / f"{name}-gradients.safetensors")
    figures = trl["found"][f"{name} figures"]
    assert float(judged.log_probs_P2.mean(dim=0)[0]) == pytest.approx(figures["logps/chosen"], rel=1e-6)
    if name != "sigmoid_norm":  # TRL reports its rewards as sums over tokens there too
        for row, key in zip(judged.figures, ("chosen", "rejected", "accuracies", "margins"), strict=False):
            assert float(row.double().mean()) == pytest.approx(figures[f"rewards/{key}"], rel=1e-4, abs=1e-5)


def policy_objective(task: dict[str, Any], settings: dict[str, Any]) -> Grpo:
    """Return our GRPO in the step that learns from the answers that TRL was given."""
    given = task["rollout"]
    config = GrpoConfig(
        initial=Path(), problems=Path(), output_dir=Path(), grpo=settings,
        training={"steps": 1, "batch_sequences": 12, "micro_batch_sequences": 12},
        rollout={"samples": SAMPLES, "max_tokens": MAX_TOKENS, "temperature": TEMPERATURE},
    )  # fmt: skip
    plan = Plan(config.rollout, config.training, prompts=4)
    sampler = Sampler(plan, given["prompts"], frozenset({96}), lambda answers: answers, Accelerator(cpu=True))
    answers = [
        Answer(place // SAMPLES, np.array(ids, np.int32), np.array(old, np.float32), is_ended=False)
        for place, (ids, old) in enumerate(zip(given["completion"], given["old"], strict=True))
    ]
    sampler.current = Rollout(0, answers)
    advantages = [
        np.full(len(each.ids_L), value, np.float32) for each, value in zip(answers, given["advantages"], strict=True)
    ]
    objective = Grpo(config, sampler, (), None, Signals(advantages, {"objective/contrast": 1.0}))
    objective.begin(torch.nn.Module(), 0)
    return objective


@pytest.mark.peer
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_policy_losses_equal_trl(name: str, trl: dict[str, Any]) -> None:
    policy, _, _ = trl["models"]
    objective = policy_objective(trl["task"], POLICY_LOSSES[name][0])
    policy.zero_grad()
    loss, constant = objective.loss(policy, 0, 0)
    mean = loss / (objective.num_tokens if name == "cispo" else constant)
    mean.backward()
    assert float(mean.detach()) == pytest.approx(trl["found"][name], rel=1e-6)
    assert_same_gradients(decoder_with_gradients(policy), trl["folder"] / f"{name}-gradients.safetensors", most=3e-6)
    figures, theirs = objective.figures(), trl["found"][f"{name} figures"]
    assert figures["val/ratio_var"] > (0.001 if name == "gspo" else 0.05), "the ratios are away from 1"
    if name.startswith("grpo"):  # the others count differently: gspo by answers, cispo only above the mean
        assert float(figures["policy/clipfrac"]) == pytest.approx(theirs["clip_ratio/region_mean"])
    assert 0.1 < figures["policy/clipfrac"] < 0.9


@pytest.mark.peer
def test_reward_with_margin_equals_trl(trl: dict[str, Any]) -> None:
    _, _, head = trl["models"]
    pairs = pairs_of(trl["task"])
    batch = packed(pairs)
    head.zero_grad()
    rewards_P2 = head(batch.ids_BT, batch.documents, batch.counted_N).view(-1, 2)
    margins_P = torch.tensor([pair.margin for pair in pairs])
    loss = bradley_terry_loss(rewards_P2[:, 0], rewards_P2[:, 1], margins_P).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(trl["found"]["reward"], rel=1e-6)
    theirs = load_file(trl["folder"] / "reward-gradients.safetensors")
    torch.testing.assert_close(head.weight_1D.grad, theirs["score.weight"], rtol=1e-4, atol=1e-6)
    assert_same_gradients(decoder_with_gradients(head.decoder), trl["folder"] / "reward-gradients.safetensors")


def decoder_with_gradients(model: Decoder) -> Decoder:
    """Return a copy that has the model's gradients."""
    copy = Decoder(model.config)
    for mine, other in zip(copy.parameters(), model.parameters(), strict=True):
        mine.grad = other.grad.clone()
    return copy
