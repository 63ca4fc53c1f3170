"""Sample answers during training, for people to read."""

from collections.abc import Iterable, Sequence
from itertools import islice

from torch import nn

from ibidem import log
from ibidem.conversation import Conversation, Turn, plain
from ibidem.inference.chat import answer, check_fit
from ibidem.modeling.generate import Sampling
from ibidem.training import sharding
from ibidem.training.rlhf.config import AlignConfig
from ibidem.training.rlhf.setup import Setup


def choose_questions(config: AlignConfig, setup: Setup, prompts: Iterable[Conversation]) -> list[Conversation]:
    """Return what is answered at each measurement: what was asked for, or the first prompts that leave room."""
    if config.validation.prompts:
        return [(Turn.of("user", prompt),) for prompt in config.validation.prompts]
    room = setup.shape.context - sample_tokens(config, setup)
    fitting = (prompt for prompt in dict.fromkeys(prompts) if len(setup.template.prompt(prompt)) <= room)
    return list(islice(fitting, config.validation.samples))


def check_questions(questions: Sequence[Conversation], config: AlignConfig, setup: Setup) -> None:
    """Fail early, on all processes, if a question leaves no room for its answer; say if none are answered.

    Raises:
        ConfigError: a question is too long.
    """
    room = setup.shape.context - sample_tokens(config, setup)
    check_fit(questions, lambda turns: len(setup.template.prompt(turns)), room)
    if questions and sharding.is_requested():
        log.event("train.no_samples", reason="the weights are sharded")


def report_answers(
    model: nn.Module, questions: Sequence[Conversation], config: AlignConfig, setup: Setup, *, step: int
) -> None:
    """Answer questions greedily and log the answers, on the main process; nothing with sharded weights."""
    if not questions or sharding.is_requested() or not setup.accelerator.is_main_process:
        return
    decoder = setup.accelerator.unwrap_model(model)
    sampling = Sampling(sample_tokens(config, setup), temperature=0.0)
    for question, said in zip(questions, answer(decoder, setup.template, questions, sampling), strict=True):
        text = plain(question)
        log.event("train.sample", step=step, prompt=text, completion=said.turn.text, finish=said.finish)


def sample_tokens(config: AlignConfig, setup: Setup) -> int:
    """Return the maximum length of the answers to questions: what is asked for, and at most half of the context."""
    return min(config.validation.sample_tokens, setup.shape.context // 2)
