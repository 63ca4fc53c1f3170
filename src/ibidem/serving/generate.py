"""`ibidem generate`: complete prompts with a checkpoint."""

from ibidem import artifacts, jsonl
from ibidem.figures import counted
from ibidem.files import write_file
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.generate import Sampling, complete, room_for
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.runs import newest
from ibidem.serving.config import DEFAULT_TOKENS, GenerateConfig
from ibidem.tokenization.tokenizer import Tokenizer


def generate(config: GenerateConfig) -> str:
    """Complete every prompt; return the texts, or the file they were written to."""
    if config.output is not None:
        artifacts.check_outside(config.output)
    model, checkpoint = load_model(newest(config.checkpoint))
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_DIR)
    fitting = max(1, min(DEFAULT_TOKENS, room_for(model.config.context, tokenizer.encode, config.prompt)))
    sampling = Sampling(config.max_tokens or fitting, config.temperature, config.top_p, config.seed)
    completions = complete(FrozenDecoder(model, config.weights), tokenizer, config.prompt, sampling, config.stop)
    if config.output is None:
        separator = "\n" + "-" * 40 + "\n"
        return separator.join(p + c.text for p, c in zip(config.prompt, completions, strict=True))
    rows = [
        {"prompt": prompt, "completion": done.text, "finish": done.finish, "checkpoint": checkpoint.digest}
        for prompt, done in zip(config.prompt, completions, strict=True)
    ]
    write_file(config.output, jsonl.dumps(rows))
    return f"{config.output}: {counted(len(rows), 'completion')}"
