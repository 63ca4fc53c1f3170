"""`ibidem generate`: complete prompts with a checkpoint."""

from ibidem import artifacts, jsonl, log
from ibidem.attribution.attribute import as_json, report, similar_as_json
from ibidem.attribution.lookup import Attribution
from ibidem.conversation import Conversation, Turn
from ibidem.figures import counted
from ibidem.files import write_file
from ibidem.inference.chat import answer
from ibidem.modeling import flash_attention
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.generate import Completion, Sampling, complete, room_for
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.runs import newest
from ibidem.serving.config import DEFAULT_TOKENS, GenerateConfig
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer


def generate(config: GenerateConfig) -> str:
    """Complete every prompt; return the texts, or the file they were written to."""
    if config.output is not None:
        artifacts.check_outside(config.output)
    index = None if config.attribute is None else Attribution(config.attribute)
    model, checkpoint = load_model(newest(config.checkpoint))
    flash_attention.use(config.flash_attention, "flash_attention", model.device)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_DIR)
    if index is not None and index.tokenizer.digest != tokenizer.digest:
        reason = "it is of another training: the model has another tokenizer; what it repeats of its own is not found"
        log.event("generate.other_index", index=str(config.attribute), reason=reason)
    if config.chat:
        report_untuned(checkpoint)
    frozen = FrozenDecoder(model, config.weights, num_ids=tokenizer.vocab_size, uses_graphs=config.cuda_graphs)
    completions = _answers(config, frozen, tokenizer) if config.chat else _completions(config, frozen, tokenizer)
    if config.output is None:
        between, separator = "\n\n" if config.chat else "", "\n" + "-" * 40 + "\n"
        return separator.join(
            prompt + between + done.text + _attributed(index, done.text)
            for prompt, done in zip(config.prompt, completions, strict=True)
        )
    rows = [
        {"prompt": prompt, "completion": done.text, "finish": done.finish, "checkpoint": checkpoint.digest}
        | ({} if index is None else _attributed_as_json(index, done.text))
        for prompt, done in zip(config.prompt, completions, strict=True)
    ]
    write_file(config.output, jsonl.dumps(rows))
    return f"{config.output}: {counted(len(rows), 'completion')}"


def _attributed(index: Attribution | None, text: str) -> str:
    if index is None:
        return ""
    repetitions = index.of_text(text)
    return "\n\n" + report(text, repetitions, index.similar_to(text, repetitions))


def _attributed_as_json(index: Attribution, text: str) -> dict[str, object]:
    repetitions = index.of_text(text)
    resemblances = index.similar_to(text, repetitions)
    return {"repeats": [*map(as_json, repetitions)], "resembles": [*map(similar_as_json, resemblances)]}


def report_untuned(checkpoint: artifacts.Artifact) -> None:
    """Warn if the checkpoint was not tuned on conversations."""
    if not any(item.role == "data" for item in checkpoint.inputs):
        reason = "it was not tuned on conversations (ibidem sft): its answer may be any text"
        log.event("generate.untuned", checkpoint=str(checkpoint.path), reason=reason)


def _completions(config: GenerateConfig, model: FrozenDecoder, tokenizer: Tokenizer) -> list[Completion]:
    room = room_for(model.config.context, tokenizer.encode, config.prompt)
    return complete(model, tokenizer, config.prompt, _sampling(config, room), config.stop)


def _answers(config: GenerateConfig, model: FrozenDecoder, tokenizer: Tokenizer) -> list[Completion]:
    template = ChatTemplate(tokenizer)
    asked: list[Conversation] = [(Turn.of("user", prompt),) for prompt in config.prompt]
    room = model.config.context - max(len(template.prompt(turns)) for turns in asked)
    answers = answer(model, template, asked, _sampling(config, room))
    return [Completion(each.turn.text, each.num_tokens, each.finish) for each in answers]


def _sampling(config: GenerateConfig, room: int) -> Sampling:
    fitting = max(1, min(DEFAULT_TOKENS, room))
    return Sampling(config.max_tokens or fitting, config.temperature, config.top_p, config.seed)
