"""Conversations in ragged rows: packed is unpacked, and only what the assistant says is a target."""

import random

import numpy as np
import pytest
import torch

from ibidem.conversation import Part, Turn
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.loss import IGNORE
from ibidem.modeling.modeling_custom import Decoder
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.config import LoopConfig
from ibidem.training.order import Order
from ibidem.training.rlhf.batches import encode, pack

WORDS = [
    "the",
    "value",
    "of",
    "a",
    "function",
    "is",
    "returned",
    "when",
    "it",
    "ends",
    "in",
    "time",
    "for",
    "all",
    "lists",
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return Tokenizer.load(tokenizer_dir)


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def talk(rng: random.Random):
    def words():
        return " ".join(rng.choices(WORDS, k=rng.randrange(1, 7)))

    turns = [Turn.of("system", words())] if rng.random() < 0.3 else []
    for _ in range(rng.randrange(1, 3)):
        turns.append(Turn.of("user", words()))
        if rng.random() < 0.3:
            turns += [Turn("assistant", (Part("tool_call", words()),)), Turn.of("tool", words())]
        turns.append(Turn("assistant", (Part("text", words()), Part("cite", "1"))))
    return tuple(turns)


def gradients(model, batch):
    model.zero_grad()
    loss = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N)
    loss.backward()
    return float(loss.detach()), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("context", [2048, 320])  # the rows fit into the context, or are longer
def test_packed_conversations_have_the_loss_and_gradients_of_each_alone(template, tokenizer, context):
    model = Decoder(
        ModelConfig(vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=2, ffn_hidden=64, context=context)
    )
    model.init_weights(0)
    rng = random.Random(1)
    for _ in range(50):
        talks = [encode(template, talk(rng)) for _ in range(rng.randrange(1, 7))]
        assert max(each.num_inputs for each in talks) <= context
        loss, gradient = gradients(model, pack(talks))
        alone = [gradients(model, pack([each])) for each in talks]
        assert loss == pytest.approx(sum(each for each, _ in alone), rel=1e-5)
        together = torch.stack([each for _, each in alone]).sum(0)
        assert (gradient - together).norm() <= 1e-5 * together.norm()


def test_the_targets_are_the_ids_after_each_input_that_the_assistant_says(template, tokenizer):
    rng = random.Random(2)
    for _ in range(100):
        talks = [talk(rng) for _ in range(rng.randrange(1, 5))]
        batch = pack([encode(template, each) for each in talks])
        said = [
            number
            for each in talks
            for turn in each
            if turn.role == "assistant"
            for number in template.answer(turn.parts)
        ]
        targets = batch.targets_BT[0]
        assert targets[targets != IGNORE].tolist() == said
        assert batch.counted_N.tolist() == (targets != IGNORE).nonzero().flatten().tolist()
        assert batch.ids_BT.shape == targets[None].shape
        assert (batch.ids_BT == tokenizer.document_id).sum() == len(talks)


def test_no_target_is_a_marker_of_a_role(template, tokenizer):
    rng = random.Random(3)
    roles = {tokenizer.id_of(name) for name in (special.SYSTEM, special.USER, special.ASSISTANT, special.TOOL)}
    targets = pack([encode(template, talk(rng)) for _ in range(200)]).targets_BT
    assert not roles & set(targets.flatten().tolist())


def test_each_epoch_takes_every_conversation_once_and_processes_share_a_step():
    training = LoopConfig(steps=1, batch_sequences=8, micro_batch_sequences=2)
    orders = [Order(12, training, 2, process) for process in range(2)]
    for step in range(6):
        whole = orders[0].of_step(step)
        parts = [item for micro in range(2) for order in orders for item in order.of_micro_batch(step, micro)]
        assert parts == whole
        assert orders[0].micro_batches == 2
    taken = [item for step in range(3) for item in orders[0].of_step(step)]
    assert sorted(taken[:12]) == sorted(taken[12:]) == list(range(12))
    assert taken[:12] != taken[12:]


def test_an_encoded_conversation_takes_five_bytes_a_token(template):
    encoded = encode(template, (Turn.of("user", "Hi"), Turn.of("assistant", "Hello")))
    assert encoded.ids_S.dtype == np.int32
    assert encoded.is_trained_S.dtype == np.bool_
    assert encoded.untrained.num_targets == 0 < encoded.num_targets
