"""What the model answers on the way, for people to read."""

from collections.abc import Sequence

from torch import nn

from ibidem import log
from ibidem.conversation import Conversation, plain
from ibidem.modeling.generate import Sampling, generate
from ibidem.training import sharding
from ibidem.training.rlhf.setup import Setup


def report_answers(
    model: nn.Module, questions: Sequence[Conversation], setup: Setup, *, step: int, most_tokens: int
) -> None:
    """Answer questions greedily and log them, on the main process; nothing with sharded weights."""
    if sharding.is_requested() or not setup.accelerator.is_main_process:
        return
    decoder, template = setup.accelerator.unwrap_model(model), setup.template
    for question in questions:
        prompt = template.prompt(question)
        room = setup.shape.context - len(prompt)
        sampling = Sampling(min(most_tokens, room), temperature=0.0)
        (ids,) = generate(decoder, [prompt], sampling, end_ids=template.end_ids)
        answer, ended = template.read(ids), bool(ids) and ids[-1] in template.end_ids
        finish = "end" if ended else "length"
        log.event("train.sample", step=step, prompt=plain(question), completion=answer.text, finish=finish)
