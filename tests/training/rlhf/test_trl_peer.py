"""Our losses and their gradients equal those of TRL, on the same weights and ids.

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
from safetensors.torch import load_file, save_file
from tests.conftest import REPOSITORY
from tests.modeling.test_modeling_custom import decoder, small
from torch import Tensor

from ibidem.modeling.heads import RewardModel
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training.rlhf.batches import Encoded, pack
from ibidem.training.rlhf.config import DpoLossConfig
from ibidem.training.rlhf.dpo_trainer import judge
from ibidem.training.rlhf.pairs import EncodedPair, answer_of_targets
from ibidem.training.rlhf.preferences import bradley_terry_loss
from ibidem.training.rlhf.reference import log_probs
from ibidem.training.rlhf.reward_model import packed

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
SCRIPT = """
import json, sys
from pathlib import Path
import torch, transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

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
    return {"kind": kind, "shape": shape, "pairs": pairs, "talks": talks, "losses": LOSSES}


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


def assert_same_gradients(model: Decoder, path: Path) -> None:
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
            assert difference < 1e-5, f"{name}: {difference}"
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
        ours = judged.figures / len(judged.losses_P)
        for place, key in enumerate(("chosen", "rejected", "accuracies", "margins")):
            assert float(ours[place]) == pytest.approx(figures[f"rewards/{key}"], rel=1e-4, abs=1e-5)


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
