"""What every alignment does before it trains: the initial checkpoint, the dataset, the processes."""

from typing import NamedTuple

from accelerate import Accelerator

from ibidem import artifacts
from ibidem.config import settings
from ibidem.modeling.checkpoint import KIND, TOKENIZER_DIR, model_config
from ibidem.modeling.config import ModelConfig
from ibidem.runs import folder_of, newest
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import session
from ibidem.training.processes import check_processes, start_accelerator
from ibidem.training.rlhf.config import AlignConfig
from ibidem.training.rlhf.examples import open_dataset


class Setup(NamedTuple):
    """What an alignment works with."""

    initial: artifacts.Artifact
    shape: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate
    dataset: artifacts.Artifact
    accelerator: Accelerator
    made: session.Provenance
    """What its checkpoints are made from: the dataset and the tokenizer; the session adds the initial checkpoint."""


def set_up(config: AlignConfig, kind: str = KIND) -> Setup:
    """Check the checkpoint, prepare the dataset once, and start the processes.

    Args:
        config: what to train, from what.
        kind: kind of the artifacts that are trained.

    Raises:
        ArtifactError: the initial checkpoint is none, or is damaged.
        CheckpointError: a new run would replace old checkpoints.
        ConfigError: the data are neither a dataset nor a file of conversations, or processes are missing.
    """
    session.check(config, kind)
    initial = artifacts.load(newest(config.initial), kind=KIND)
    tokenizer_dir = initial.path / TOKENIZER_DIR
    tokenizer = Tokenizer.load(tokenizer_dir)
    template = ChatTemplate(tokenizer)
    accelerator = start_accelerator(config)
    check_processes(config, accelerator)
    with accelerator.main_process_first():
        dataset = open_dataset(config.data, config.output_dir, column=config.column, reply_trees=config.reply_trees)
    place, shape = folder_of(config.output_dir, 0), model_config(initial)
    made = session.Provenance(
        inputs=[
            dataset.as_input("data", of=place),
            artifacts.load(tokenizer_dir).as_input("tokenizer", of=place),
        ],
        tokenizer_dir=tokenizer_dir,
        shape=shape,
        settings=settings(config),
        kind=kind,
    )
    return Setup(initial, shape, tokenizer, template, dataset, accelerator, made)
