"""Pretraining: the wiring of the stage."""

from functools import partial

from ibidem import artifacts
from ibidem.config import settings
from ibidem.errors import ConfigError
from ibidem.modeling.config import ModelConfig, read_model_config
from ibidem.modeling.modeling_custom import Decoder
from ibidem.runs import folder_of
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import kernels, plan, session
from ibidem.training.config import TrainConfig, TrainLoopConfig
from ibidem.training.curriculum import stages_of, trained_tokens
from ibidem.training.prepared import check_tokens, tokens_of
from ibidem.training.pretraining import Pretraining
from ibidem.training.processes import check_processes, start_accelerator


def train(config: TrainConfig) -> str:
    """Train; say where the last checkpoint is, and whether it was trained before with other settings."""
    return session.summary(run(config), config)


def run(config: TrainConfig) -> artifacts.Artifact:
    """Tokenize once, build or resume, run the loop; return the last checkpoint.

    Raises:
        ConfigError: the shapes, batch sizes or processes do not fit together, or a kernel cannot run here.
        CheckpointError: no intact checkpoint to resume from, or it belongs to another run.
    """
    shape = check(config)
    kernels.check(config.training)
    accelerator = start_accelerator(config)
    check_processes(config, accelerator)
    tokens, tokenizer = tokens_of(config.data, config.output_dir, accelerator)
    objective = Pretraining(config, shape, tokens, tokenizer, accelerator)
    place = folder_of(config.output_dir, 0)
    tokens_per_step = config.training.batch_sequences * (config.data.context or shape.context)
    made = session.Provenance(
        inputs=[
            tokens.as_input("tokens", of=place),
            artifacts.load(config.data.tokenizer).as_input("tokenizer", of=place),
        ],
        tokenizer_dir=config.data.tokenizer,
        shape=shape,
        settings=settings(config),
        initial=session.initial_of(config.initial, accelerator),
        trained_tokens=lambda steps: trained_tokens(objective.stages, steps, tokens_per_step),
    )
    last = session.run(
        objective,
        config,
        accelerator,
        made,
        build=partial(new_decoder, shape, config.training),
        tokens_per_step=tokens_per_step,
    )
    return artifacts.load(last)


def new_decoder(shape: ModelConfig, training: TrainLoopConfig) -> Decoder:
    """Return a decoder with random weights, which the seed decides, and the kernels that the training asks for."""
    return kernels.use(session.new_decoder(shape, training), training)


def check(config: TrainConfig) -> ModelConfig:
    """Fail on whatever is wrong before the dataset is tokenized; return the shape of the model.

    Raises:
        ConfigError: model, tokenizer and context do not fit together.
        CheckpointError: the run has checkpoints, and does not resume.
        ArtifactError: something that is read is not there.
    """
    session.check(config, initial=config.initial)
    shape = read_model_config(config.model)
    check_tokens(config.data)
    check_shape(shape, Tokenizer.load(config.data.tokenizer), config)
    kernels.check_sizes(config.training, shape, context=config.data.context or shape.context)
    return shape


def preview(config: TrainConfig) -> list[str]:
    """Check a training, and return its plan line by line."""
    check(config)
    return plan.preview(config)


def check_shape(shape: ModelConfig, tokenizer: Tokenizer, config: TrainConfig) -> None:
    """Refuse a model that does not fit the tokenizer or the context, and stages that do not fit the training.

    Raises:
        ConfigError: the sizes differ, or a stage is not possible.
    """
    goes_on = config.initial is not None or config.training.resume_from is not None
    has_spare_rows = goes_on and shape.vocab_size > tokenizer.vocab_size  # as some models have that were imported
    if shape.vocab_size != tokenizer.vocab_size and not has_spare_rows:
        raise ConfigError(
            f"model {config.model} has vocab_size={shape.vocab_size}, "
            f"tokenizer {config.data.tokenizer} has {tokenizer.vocab_size}; "
            f"train it with --vocab-size {shape.vocab_size}, or give a model file that has the tokenizer's size"
        )
    if (config.data.context or 0) > shape.context:
        raise ConfigError(f"data.context={config.data.context} exceeds the model's context={shape.context}")
    stages_of(config.data.stages, context=config.data.context or shape.context, steps=config.training.steps)
