"""Reference log-probabilities: what the initial checkpoint gives to both answers of each pair, computed once.

    <output_dir>/reference/manifest.json              made from these data, this checkpoint and these settings
    <output_dir>/reference/reference.safetensors      train (P, 2) and held_out (P, 2): chosen, rejected; float64

A resumed run, or another one with the same inputs, uses the artifact again, after its files are checked.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.modeling.checkpoint import load_weights
from ibidem.modeling.log_probabilities import Scoring
from ibidem.training import session, sharding
from ibidem.training.loader import Batch
from ibidem.training.processes import compute_dtype
from ibidem.training.rlhf.batches import pack
from ibidem.training.rlhf.config import AlignConfig
from ibidem.training.rlhf.pairs import EncodedPair, Pairs, answer_of_targets, measured
from ibidem.training.rlhf.preferences import sums_by_answer
from ibidem.training.rlhf.setup import Setup

KIND = "reference"
FILE = "reference.safetensors"


def log_probs(model: nn.Module, batch: Batch, answer_of_N: Tensor, answers: int) -> Tensor:
    """Return the log-probability of each packed answer, summed in float64.

    Args:
        model: a decoder.
        batch: the answers, packed, on the model's device.
        answer_of_N: the answer of each target, on that device.
        answers: number of answers.
    """
    scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, Scoring())
    return sums_by_answer(scores.log_probs_N.double(), answer_of_N, answers)


def reference_of(config: AlignConfig, setup: Setup, pairs: Pairs) -> dict[str, Tensor]:
    """Read the log-probabilities of all pairs under the initial checkpoint; compute them if they are not there.

    Returns:
        `train` and `held_out`: chosen and rejected, (P, 2), float64, on the CPU.
    """
    path = config.output_dir / KIND
    inputs = [setup.initial.as_input("initial", of=path), setup.dataset.as_input("data", of=path)]
    about = {"pairs": _digest(pairs), "precision": str(compute_dtype(config.training)).removeprefix("torch.")}
    is_main = setup.accelerator.is_main_process
    present = [is_main and artifacts.finished(path, kind=KIND, config=about, inputs=inputs) is not None]
    if not broadcast_object_list(present)[0]:
        computed = _compute(config, setup, pairs)
        if is_main:
            with artifacts.create(path, kind=KIND, config=about, inputs=inputs) as draft:
                save_file(computed, draft.path / FILE)
                draft.counts |= {"pairs": len(pairs.train), "held_out": len(pairs.held_out)}
        setup.accelerator.wait_for_everyone()
    return load_file(path / FILE)


def _digest(pairs: Pairs) -> str:
    """Return a digest of all ids, in order, and of how they are split."""
    found = sha256(len(pairs.train).to_bytes(8, "little"))
    for pair in (*pairs.train, *pairs.held_out):
        for each in pair.both:
            found.update(len(each.ids_S).to_bytes(8, "little") + each.ids_S.tobytes() + each.is_trained_S.tobytes())
    return f"sha256:{found.hexdigest()}"


def _compute(config: AlignConfig, setup: Setup, pairs: Pairs) -> dict[str, Tensor]:
    device = setup.accelerator.device
    with sharding.without_memory():
        model = session.new_decoder(setup.shape, config.training)
    if sharding.is_requested():
        sharding.divide(model, device, config.training)
    load_weights(model, setup.initial.path)
    model = model.to(device).eval()
    log.event("train.reference", pairs=len(pairs.train), held_out=len(pairs.held_out))
    with torch.no_grad():
        return {name: _of_all(model, found, config, setup) for name, found in pairs.sides.items()}


def _of_all(model: nn.Module, pairs: Sequence[EncodedPair], config: AlignConfig, setup: Setup) -> Tensor:
    def of(items: Sequence[int]) -> Tensor:
        answers = [each for item in items for each in pairs[item].both]
        batch = pack(answers).to(setup.accelerator.device)
        answer_of_N = answer_of_targets(answers).to(setup.accelerator.device)
        return log_probs(model, batch, answer_of_N, len(answers)).view(-1, 2)

    return measured(len(pairs), 2, setup.accelerator, of, config.training.micro_batch_sequences)
