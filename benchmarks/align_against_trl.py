"""CPU time of a step of SFT, DPO, reward modeling and GRPO, against TRL's trainers.

Same weights, same ids, same optimizer (AdamW, fused), float32, one thread. The data are the first pairs of HH-RLHF's
harmless test file, a word or a mark as an id: real lengths of prompts and answers. Each run is a process of its own,
systems take turns, medians of 3: CPU-seconds of the steps after the first one, with collating, forward and backward
pass, clipping and the optimizer. The first losses show that both compute the same.

    row               ibidem                        TRL 1.16
    sft               ragged rows                   padded, or packed: padding-free rows with a mask of blocks
    dpo               reference computed once       reference computed in each step (its default), or once
    reward            ragged rows                   padded
    grpo              prompts sampled from at once  each sample reads its prompt
    grpo small        the same, with 1.5 M parameters and 2,048 ids instead of 13 M and 32,768

A step of GRPO samples 8 answers of 32 ids to each of 8 prompts, the last 64 ids of HH prompts, scores them by the share
of ids in the lower half of the vocabulary, and learns from them once (Dr. GRPO, no reference). No id ends an answer, so
both sample 2,048 ids; micro batches are 8 answers, TRL's default. TRL's step is that of `GRPOTrainer.train`, ours
that of the training loop.

    python benchmarks/align_against_trl.py HH_TEST.jsonl.gz PYTHON_WITH_TRL benchmarks/results/align_against_trl.json

PYTHON_WITH_TRL has `pip install -c constraints.txt torch trl==1.16.0`.
"""

import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPEATS, WARM_STEPS, STEPS, PAIRS = 3, 1, 3, 4
"""A step takes 4 pairs, or 8 conversations."""
CONTEXT = 1024
LARGE = {"vocab_size": 32_768, "width": 256, "layers": 6, "heads": 4, "ffn_hidden": 704}
SMALL = {"vocab_size": 2_048, "width": 128, "layers": 6, "heads": 4, "ffn_hidden": 352}
END = LARGE["vocab_size"] - 1
SHAPES = {"sft": LARGE, "dpo": LARGE, "reward": LARGE, "grpo": LARGE, "grpo small": SMALL}
GRPO = ("grpo", "grpo small")
PROMPTS, SAMPLES, MICRO_BATCH, MAX_TOKENS, MAX_PROMPT = 8, 8, 8, 32, 64
"""A step of GRPO: prompts, answers to each, answers in a micro batch, ids of an answer and, at most, of a prompt."""
SYSTEMS = {
    "sft": ("ibidem", "trl padded", "trl packed"),
    "dpo": ("ibidem", "trl", "trl reference once"),
    "reward": ("ibidem", "trl"),
    **dict.fromkeys(GRPO, ("ibidem", "trl")),
}
BARS = {"sft": 0.6, "dpo": 0.7, "reward": 0.7, **dict.fromkeys(GRPO, 0.5)}


def main() -> None:
    if sys.argv[1] in SYSTEMS:
        measured = measure_rollouts if sys.argv[1] in GRPO else measure
        print(json.dumps(measured(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
        return
    data, peer, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        row: {name: [] for name in names} for row, names in SYSTEMS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare(data, Path(folder))
        for _ in range(REPEATS):
            for row, systems in runs.items():
                for name, results in systems.items():
                    python = sys.executable if name == "ibidem" else peer
                    results.append(run(python, row, name, folder))
                    print(row, name, results[-1], flush=True)
    write(output, data, runs)


def run(python: str, row: str, system: str, folder: str) -> dict[str, Any]:
    """Measure in a process of its own, with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    command = [python, __file__, row, system, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare(data: Path, folder: Path) -> None:
    """Write the pairs as ids, and weights as Hugging Face names them."""
    from safetensors.torch import save_file

    pairs = []
    with gzip.open(data, "rt", encoding="utf-8") as lines:
        for line in lines:
            pair = encoded(json.loads(line))
            if pair and max(len(pair["prompt"]) + len(pair[name]) for name in ("chosen", "rejected")) <= CONTEXT:
                pairs.append(pair)
            if len(pairs) == 2 * PAIRS * (WARM_STEPS + STEPS):
                break
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    for row in SYSTEMS:
        weights = {name: weight.detach().clone() for name, weight in named(own_model(row))}
        save_file(weights, folder / f"{row}.safetensors")


def encoded(row: dict[str, str]) -> dict[str, list[int]] | None:
    """Return prompt, chosen and rejected answer as ids; None if the prompts differ or an answer is empty."""
    parts = [row[name].rpartition("\n\nAssistant:") for name in ("chosen", "rejected")]
    if parts[0][0] != parts[1][0] or any(not part[2].strip() for part in parts):
        return None
    answers = {name: [*ids(part[2]), END] for name, part in zip(("chosen", "rejected"), parts, strict=True)}
    return {"prompt": ids(parts[0][0] + parts[0][1]), **answers}


def ids(text: str) -> list[int]:
    return [zlib.crc32(word.encode()) % (LARGE["vocab_size"] - 2) for word in re.findall(r"\w+|[^\w\s]", text)]


def measure(row: str, system: str, folder: Path) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    make = own_step if system == "ibidem" else peer_step
    step, parameters = make(row, system, pairs, folder)
    size = 2 * PAIRS if row == "sft" else PAIRS
    losses, seconds, tokens = [], 0.0, 0
    for number in range(WARM_STEPS + STEPS):
        batch = pairs[number * size : (number + 1) * size]
        started = time.process_time()
        losses.append(step(batch))
        if number >= WARM_STEPS:
            seconds += time.process_time() - started
            names = ("chosen",) if row == "sft" else ("chosen", "rejected")
            tokens += sum(len(pair["prompt"]) + len(pair[name]) for pair in batch for name in names)
    return {
        "cpu_s_per_step": seconds / STEPS,
        "cpu_us_per_real_token": 1e6 * seconds / tokens,
        "parameters": parameters,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def own_model(row: str) -> Any:
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder

    model = Decoder(ModelConfig(context=CONTEXT, qk_norm=False, **SHAPES[row])).train()
    model.init_weights(0)
    return model


def own_step(row: str, _system: str, pairs: list[Any], _folder: Path) -> tuple[Callable[..., float], int]:
    """Return a function that takes a step as our objectives do."""
    import torch

    from ibidem.modeling.heads import RewardModel
    from ibidem.training.config import OptimConfig
    from ibidem.training.optim import adamw
    from ibidem.training.rlhf.batches import pack
    from ibidem.training.rlhf.config import DpoLossConfig
    from ibidem.training.rlhf.dpo_trainer import judge
    from ibidem.training.rlhf.pairs import answer_of_targets
    from ibidem.training.rlhf.preferences import bradley_terry_loss
    from ibidem.training.rlhf.reference import log_probs
    from ibidem.training.rlhf.reward_model import packed

    model = RewardModel(own_model(row)) if row == "reward" else own_model(row)
    known: dict[int, Any] = {}
    if row == "dpo":
        for pair in pairs[: PAIRS * (WARM_STEPS + STEPS)]:
            answers = own_answers(pair)
            with torch.no_grad():
                known[id(pair)] = log_probs(model, pack(answers), answer_of_targets(answers), len(answers))

    def loss_of(batch: list[Any]) -> Any:
        if row == "sft":
            talks = [own_answers(pair)[0] for pair in batch]
            packed_talks = pack(talks)
            total = model(
                packed_talks.ids_BT, packed_talks.targets_BT, packed_talks.documents, 0.0, packed_talks.counted_N
            )
            return total / sum(each.num_targets for each in talks)
        if row == "dpo":
            answers = [each for pair in batch for each in own_answers(pair)]
            log_probs_P2 = log_probs(model, pack(answers), answer_of_targets(answers), len(answers)).view(-1, 2)
            lengths_P2 = torch.tensor([each.num_targets for each in answers]).view(-1, 2)
            reference_P2 = torch.stack([known[id(pair)] for pair in batch])
            return judge(DpoLossConfig(), log_probs_P2, reference_P2, lengths_P2).losses_P.mean()
        whole = packed([own_pair(pair) for pair in batch])
        rewards_P2 = model(whole.ids_BT, whole.documents, whole.counted_N).view(-1, 2)
        return bradley_terry_loss(rewards_P2[:, 0], rewards_P2[:, 1]).mean()

    return stepper(loss_of, adamw(model, OptimConfig()), model), sum(each.numel() for each in model.parameters())


def own_pair(pair: dict[str, list[int]]) -> Any:
    from ibidem.training.rlhf.pairs import EncodedPair

    return EncodedPair(*own_answers(pair), 0.0)


def own_answers(pair: dict[str, list[int]]) -> list[Any]:
    import numpy as np

    from ibidem.training.rlhf.batches import Encoded

    return [
        Encoded(
            np.array(pair["prompt"] + pair[name], dtype=np.int32),
            np.repeat([False, True], [len(pair["prompt"]), len(pair[name])]),
        )
        for name in ("chosen", "rejected")
    ]


def named(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield our weights under the names of Hugging Face."""
    config = model.config
    rows = [config.width, *[config.num_kv_heads * config.head_width] * 2]
    yield "model.embed_tokens.weight", model.embedding.weight_VD
    yield "model.norm.weight", model.norm.weight
    for number, block in enumerate(model.blocks):
        layer = f"model.layers.{number}"
        for name, part in zip("qkv", block.attention.qkv.weight.split(rows), strict=True):
            yield f"{layer}.self_attn.{name}_proj.weight", part
        yield f"{layer}.self_attn.o_proj.weight", block.attention.out.weight
        for name, part in zip(("gate", "up"), block.ffn.gate_up.weight.chunk(2), strict=True):
            yield f"{layer}.mlp.{name}_proj.weight", part
        yield f"{layer}.mlp.down_proj.weight", block.ffn.down.weight
        yield f"{layer}.input_layernorm.weight", block.attention_norm.weight
        yield f"{layer}.post_attention_layernorm.weight", block.ffn_norm.weight
        if config.qk_norm:
            yield f"{layer}.self_attn.q_norm.weight", block.attention.q_norm.weight
            yield f"{layer}.self_attn.k_norm.weight", block.attention.k_norm.weight


def peer_model(row: str, folder: Path, kind: str = "ForCausalLM", **more: Any) -> Any:
    import transformers
    from safetensors.torch import load_file

    shape = SHAPES[row]
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["width"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"], tie_word_embeddings=True,
        intermediate_size=shape["ffn_hidden"], max_position_embeddings=CONTEXT, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}, **more,
    )  # fmt: skip
    model = getattr(transformers, f"Llama{kind}")(config).train()
    missing, _ = model.load_state_dict(load_file(folder / f"{row}.safetensors"), strict=False)
    assert set(missing) <= {"lm_head.weight", "score.weight"}, missing
    return model


def peer_trainer(row: str, system: str, pairs: list[Any], folder: Path) -> Any:
    """Return TRL's trainer; it takes the ids as they are."""
    import torch
    import trl
    from datasets import Dataset

    for trainer in (trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer):
        trainer._prepare_dataset = lambda _self, dataset, *_: dataset
    arguments = {**peer_arguments(folder), "per_device_train_batch_size": PAIRS}
    data = {
        "train_dataset": Dataset.from_list([peer_example(row, pair) for pair in pairs]),
        "processing_class": peer_tokenizer(row, END),
    }
    if row == "sft":
        settings = trl.SFTConfig(padding_free="packed" in system, max_length=None, **arguments)
        return trl.SFTTrainer(peer_model(row, folder), settings, **data)
    if row == "dpo":
        settings = trl.DPOConfig(max_length=None, beta=0.1, **arguments)
        return trl.DPOTrainer(peer_model(row, folder), peer_model(row, folder), settings, **data)
    model = peer_model(row, folder, "ForSequenceClassification", num_labels=1, pad_token_id=LARGE["vocab_size"] - 2)
    torch.nn.init.zeros_(model.score.weight)
    return trl.RewardTrainer(model, trl.RewardConfig(max_length=None, **arguments), **data)


def peer_arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"), "report_to": [], "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "remove_unused_columns": False,
    }  # fmt: skip


def peer_tokenizer(row: str, end: int) -> Any:
    """Return a tokenizer whose words are the ids themselves, separated by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {str(number): number for number in range(max(SHAPES[row]["vocab_size"], end + 1))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))  # noqa: S106 - a word of the vocabulary
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad = str(SHAPES[row]["vocab_size"] - 2)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=str(end))


def peer_example(row: str, pair: dict[str, list[int]]) -> dict[str, Any]:
    if row == "sft":
        answer = pair["chosen"]
        return {"input_ids": pair["prompt"] + answer, "labels": [-100] * len(pair["prompt"]) + answer}
    if row == "dpo":
        return {"prompt_ids": pair["prompt"], "chosen_ids": pair["chosen"], "rejected_ids": pair["rejected"]}
    return {f"{name}_ids": pair["prompt"] + pair[name] for name in ("chosen", "rejected")}


def peer_step(row: str, system: str, pairs: list[Any], folder: Path) -> tuple[Callable[..., float], int]:
    """Return a function that takes a step with the loss of TRL's trainer."""
    import torch

    trainer = peer_trainer(row, system, pairs, folder)
    model, known = trainer.model, {}
    if "once" in system:
        trainer.precompute_ref_logps = True
        for pair in pairs[: PAIRS * (WARM_STEPS + STEPS)]:
            collated = trainer.data_collator([peer_example(row, pair)])
            with torch.no_grad():
                values = trainer.compute_ref_log_probs(trainer.ref_model, collated)
            known[id(pair)] = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), map(float, values), strict=True))

    def loss_of(batch: list[Any]) -> Any:
        examples = [peer_example(row, pair) | known.get(id(pair), {}) for pair in batch]
        return trainer.compute_loss(model, trainer.data_collator(examples))

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return stepper(loss_of, optimizer, model), sum(each.numel() for each in model.parameters())


def stepper(loss_of: Callable, optimizer: Any, model: Any) -> Callable[..., float]:
    import torch

    def step(batch: list[Any]) -> float:
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


class Rollout(NamedTuple):
    """What a step of GRPO did."""

    cpu_s: float
    sampling_cpu_s: float
    """Of these for sampling and scoring the answers."""
    lengths: list[int]
    """Numbers of ids sampled."""
    score: float


def measure_rollouts(row: str, system: str, folder: Path) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    known = SHAPES[row]["vocab_size"] - 2
    prompts = [
        [number % known for number in pair["prompt"][-MAX_PROMPT:]] for pair in pairs[: PROMPTS * (WARM_STEPS + STEPS)]
    ]
    rollouts = own_rollouts(row, prompts) if system == "ibidem" else peer_rollouts(row, prompts, folder)
    assert all(rollout.lengths == [MAX_TOKENS] * PROMPTS * SAMPLES for rollout in rollouts), rollouts
    assert len(rollouts) == WARM_STEPS + STEPS
    taken = rollouts[WARM_STEPS:]
    seconds, sampling = (sum(times) / STEPS for times in zip(*(rollout[:2] for rollout in taken), strict=True))
    return {
        "cpu_s_per_step": seconds,
        "cpu_s_per_step_sampling": sampling,
        "cpu_s_per_step_learning": seconds - sampling,
        "ids_sampled_per_step": sum(taken[0].lengths),
        "mean_prompt_ids": sum(map(len, prompts)) / len(prompts),
        "first_score": rollouts[0].score,
    }


def score_of(row: str, ids: list[int]) -> float:
    """Return the share of ids in the lower half of the vocabulary."""
    return sum(number < SHAPES[row]["vocab_size"] // 2 for number in ids) / len(ids)


def own_rollouts(row: str, prompts: list[list[int]]) -> list[Rollout]:
    """Take the steps of our GRPO as the training loop does."""
    import torch
    from accelerate import Accelerator

    from ibidem.training.guard import Guard
    from ibidem.training.loop import Learner, Schedule, update
    from ibidem.training.optim import adamw
    from ibidem.training.rlhf.config import GrpoConfig
    from ibidem.training.rlhf.grpo_trainer import Grpo
    from ibidem.training.rlhf.rollout import Plan, Sampler

    steps = WARM_STEPS + STEPS
    config = GrpoConfig(
        initial=Path(), problems=Path(), output_dir=Path(),
        training={"steps": steps, "batch_sequences": PROMPTS * SAMPLES, "micro_batch_sequences": MICRO_BATCH},
        rollout={"samples": SAMPLES, "max_tokens": MAX_TOKENS},
    )  # fmt: skip
    accelerator, model = Accelerator(cpu=True), own_model(row)
    plan = Plan(config.rollout, config.training, len(prompts))
    asked = [number for step in range(steps) for number in plan.prompts_of(step)]
    by_number = [ids for _, ids in sorted(zip(asked, prompts, strict=True))]

    def scored(answers: Sequence[Any]) -> list[Any]:
        return [answer._replace(score=score_of(row, answer.ids_L.tolist())) for answer in answers]

    objective = Grpo(config, Sampler(plan, by_number, frozenset(), scored, accelerator), (), None)
    guard = Guard(torch.device("cpu"), clip=config.optim.clip, spike_factor=None, scales=False)
    learner = Learner(model, adamw(model, config.optim), guard)
    schedule = Schedule(
        0, steps, steps, PROMPTS * SAMPLES // MICRO_BATCH, 0, 0, most_skipped=1, measure_every=steps, save_every=steps
    )
    done = []
    for step in range(steps):
        started = time.process_time()
        objective.begin(model, step)
        sampled = time.process_time()
        update(schedule, objective, learner, accelerator, step=step, lr=config.optim.lr)
        objective.figures()
        seconds = time.process_time() - started
        answers = objective.rollout.answers
        score = statistics.mean(answer.score for answer in answers)
        done.append(Rollout(seconds, sampled - started, [len(answer.ids_L) for answer in answers], score))
    return done


def peer_rollouts(row: str, prompts: list[list[int]], folder: Path) -> list[Rollout]:
    """Take the steps of TRL's GRPO as its trainer does."""
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    done: list[Rollout] = []
    times: dict[str, float] = {}
    scored: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **_more: Any) -> None:
            times["began"] = time.process_time()

        def on_step_end(self, *_: Any, **_more: Any) -> None:
            done.append(Rollout(time.process_time() - times["began"], times["sampling"], **scored))

    def score(completion_ids: list[list[int]], **_: Any) -> list[float]:
        scores = [score_of(row, ids) for ids in completion_ids]
        scored.update(lengths=[len(ids) for ids in completion_ids], score=statistics.mean(scores))
        return scores

    settings = trl.GRPOConfig(
        loss_type="dr_grpo", scale_rewards="none", epsilon=0.2, epsilon_high=0.28, beta=0.0, num_iterations=1,
        num_generations=SAMPLES, max_completion_length=MAX_TOKENS, per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=PROMPTS * SAMPLES // MICRO_BATCH, max_steps=WARM_STEPS + STEPS,
        shuffle_dataset=False, save_strategy="no", disable_tqdm=True, **peer_arguments(folder),
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        peer_model(row, folder, bos_token_id=None, eos_token_id=None),
        score,
        settings,
        train_dataset=Dataset.from_list([{"prompt": " ".join(map(str, ids))} for ids in prompts]),
        processing_class=peer_tokenizer(row, SHAPES[row]["vocab_size"]),  # an end that the model cannot say
        callbacks=[Watch()],
    )
    sample = trainer._generate_and_score_completions

    def sampled(inputs: Any) -> Any:
        started = time.process_time()
        found = sample(inputs)
        times["sampling"] = time.process_time() - started
        assert found["prompt_mask"].sum() == SAMPLES * sum(map(len, prompts[len(done) * PROMPTS :][:PROMPTS]))
        return found

    trainer._generate_and_score_completions = sampled
    trainer.train()
    return done


def write(path: Path, data: Path, runs: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    from importlib.metadata import version

    median = {
        row: {
            system: {key: statistics.median(run[key] for run in results) for key in results[0]}
            for system, results in systems.items()
        }
        for row, systems in runs.items()
    }
    result = {
        "command": f"python benchmarks/align_against_trl.py {data.name} PYTHON_WITH_TRL {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {"torch": version("torch"), "trl": "1.16.0", "transformers": version("transformers")},
        "bars": BARS,
        "ratios": {row: ratios(systems) for row, systems in median.items()},
        "median": median,
        "runs": runs,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["ratios"], indent=1))


def ratios(median: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return our CPU time over that of each of TRL's ways."""
    return {
        system: median["ibidem"]["cpu_s_per_step"] / values["cpu_s_per_step"]
        for system, values in median.items()
        if system != "ibidem"
    }


if __name__ == "__main__":
    main()
