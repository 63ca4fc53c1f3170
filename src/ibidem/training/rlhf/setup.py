"""What every alignment does before it trains: the initial checkpoint, the dataset, the processes."""

from collections.abc import Callable
from typing import NamedTuple

from accelerate import Accelerator

from ibidem import artifacts
from ibidem.config import settings
from ibidem.errors import ArtifactError
from ibidem.modeling.checkpoint import KIND, TOKENIZER_DIR, model_config
from ibidem.modeling.config import ModelConfig
from ibidem.runs import folder_of
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import session
from ibidem.training.processes import check_processes, main_process_first, start_accelerator
from ibidem.training.rlhf.config import AlignConfig, DatasetConfig
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


def set_up(config: DatasetConfig, kind: str = KIND) -> Setup:
    """Set up an alignment with the dataset, or the file, that it names; see `set_up_with`."""
    return set_up_with(config, lambda _: open_dataset(config.data, config.output_dir, config.file), kind)


def set_up_with(
    config: AlignConfig, prepare: Callable[[artifacts.Artifact], artifacts.Artifact], kind: str = KIND
) -> Setup:
    """Check the checkpoint, prepare the dataset once, and start the processes.

    Args:
        config: what to train, from what.
        prepare: loads the dataset, or makes it, for the initial checkpoint; called by the main process first.
        kind: kind of the artifacts that are trained.

    Raises:
        ArtifactError: the initial checkpoint is not a checkpoint, or is damaged.
        CheckpointError: a new run would replace old checkpoints.
        ConfigError: the data are neither a dataset nor a file of conversations, or processes are missing.
    """
    session.check(config, kind, initial=config.initial)
    accelerator = start_accelerator(config)
    check_processes(config, accelerator)
    initial = session.initial_of(config.initial, accelerator, config.reader)
    assert initial is not None, "an alignment always has one"
    tokenizer_dir = initial.path / TOKENIZER_DIR
    tokenizer = Tokenizer.load(tokenizer_dir)
    template = ChatTemplate(tokenizer)
    with main_process_first(accelerator):
        dataset = prepare(initial)
    place, shape = folder_of(config.output_dir, 0), model_config(initial)
    made = session.Provenance(
        inputs=[
            dataset.as_input("data", of=place),
            _tokenizer_of(initial).as_input("tokenizer", of=place),
        ],
        tokenizer_dir=tokenizer_dir,
        shape=shape,
        settings=settings(config),
        initial=initial,
        kind=kind,
    )
    return Setup(initial, shape, tokenizer, template, dataset, accelerator, made)


def _tokenizer_of(checkpoint: artifacts.Artifact) -> artifacts.Artifact:
    """Return the tokenizer that a checkpoint was trained with where it was made, from where its own inputs are found.

    If it is no longer there, it is the checkpoint's copy.
    """
    item = next(item for item in checkpoint.inputs if item.role == "tokenizer")
    try:
        made = artifacts.load(checkpoint.path.resolve() / item.name)
    except ArtifactError:
        made = None
    return made if made is not None and made.digest == item.digest else artifacts.load(checkpoint.path / TOKENIZER_DIR)
