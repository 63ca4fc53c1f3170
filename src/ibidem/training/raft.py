"""Retrieval-augmented fine-tuning (RA-FT): a checkpoint learns to answer from private documents, and to cite them.

    index, principal -> training set (recorded in the audit log, private) -> the loop of SFT -> checkpoints with readers

The checkpoints are documents too: whoever may not read all that they were tuned on is refused (see `readers`).
Source: Zhang et al. 2024, arXiv:2403.10131 (RAFT).
"""

from collections import Counter
from functools import partial

from accelerate import PartialState

from ibidem.artifacts import Artifact, load
from ibidem.conversation import Conversation
from ibidem.grounding.config import IndexChoice
from ibidem.grounding.training_set import KIND, Recipe, open_training_set, read_chunks, read_conversations
from ibidem.modeling.checkpoint import TOKENIZER_DIR, model_config
from ibidem.runs import steps_of
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import lora, session
from ibidem.training.contrastive import Contrast
from ibidem.training.rlhf.config import RaftConfig
from ibidem.training.rlhf.setup import Setup, set_up_with
from ibidem.training.rlhf.sft_pipeline import split_conversations, train

TRAINING_SET = "training-set"
"""Folder of the training set in a run's folder."""


def raft(config: RaftConfig) -> str:
    """Fine-tune; say where the last checkpoint is."""
    return session.summary(run(config), config)


def run(config: RaftConfig) -> Artifact:
    """Make the training set, build or resume, run the loop; return the last checkpoint.

    Raises:
        AccessDenied: the principal may not read what the initial checkpoint was tuned on, or the rules changed.
        AuditError: the audit log cannot be written; nothing is trained on then.
        ConfigError: the principal may read nothing, no passage fits into the context, the documents or permissions are
            no longer those of the run, or batch sizes or processes do not fit together.
        DataError: there is no question to learn from.
        CheckpointError: no intact checkpoint to resume from, or it belongs to another run.
    """
    lora.check(config.lora, config.optim)
    setup = set_up_with(config, partial(_training_set, config))
    conversations, left_out = read_conversations(setup.dataset), Counter[str]()
    data = split_conversations(conversations, left_out, config, setup, setup.dataset.path)
    return train(config, setup, data, _contrast(config, setup) if config.contrast.weight else None)


def _contrast(config: RaftConfig, setup: Setup) -> Contrast:
    """Return contrastive batches on the chunks of the training set."""
    texts, context = [chunk.text for chunk in read_chunks(setup.dataset)], setup.shape.context
    of = f"training set {setup.dataset.path}"
    return Contrast(texts, setup.tokenizer, context, config.contrast, config.training, setup.accelerator, of=of)


def _training_set(config: RaftConfig, initial: Artifact) -> Artifact:
    """Make the training set, or open it; on the main process, which is the first to come here."""
    output = config.output_dir / TRAINING_SET
    if not PartialState().is_main_process:
        return load(output, kind=KIND)
    config.output_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # its events hold answers
    choice = IndexChoice(index=config.index, acl=config.acl, audit=config.audit, key=config.key, encoder=config.encoder)
    resumes = config.training.resume_from is not None and bool(steps_of(config.output_dir))
    return open_training_set(choice, _recipe(config, initial), output, resumes=resumes)


def _recipe(config: RaftConfig, initial: Artifact) -> Recipe:
    template = ChatTemplate(Tokenizer.load(initial.path / TOKENIZER_DIR))
    context = model_config(initial).context

    def fits(turns: Conversation) -> bool:
        return len(template.render(turns).ids) <= context + 1  # the last id is no input

    tokenizer = initial.digest_of("tokenizer") or ""
    return Recipe(config.principal, config.questions, config.examples, config.training.seed, fits, context, tokenizer)
