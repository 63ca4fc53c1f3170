"""Special tokens: reserved from the start, so that the first tokenizer already has the ids of every later stage.

They are control symbols: no text ever encodes to them.
"""

UNKNOWN = "<unk>"
DOCUMENT = "<|endoftext|>"
"""Precedes every document, and so also ends the one before it: start and end in one."""
PAD = "<|pad|>"

SYSTEM, USER, ASSISTANT, TOOL, TURN_END = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"
TOOL_CALL, TOOL_CALL_END = "<|tool_call|>", "<|/tool_call|>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"
PASSAGE, PASSAGE_END, CITE, CITE_END = "<|passage|>", "<|/passage|>", "<|cite|>", "<|/cite|>"
REPOSITORY, FILE = "<|repo|>", "<|file|>"

CONTROL = (
    *(SYSTEM, USER, ASSISTANT, TOOL, TURN_END),
    *(TOOL_CALL, TOOL_CALL_END),
    *(FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD),
    *(PASSAGE, PASSAGE_END, CITE, CITE_END),
    *(REPOSITORY, FILE),
)
NUM_BYTES = 256
SMALLEST_VOCABULARY = 3 + len(CONTROL) + NUM_BYTES


def reserved(number: int) -> str:
    """Return the name of an id without a learned piece.

    >>> reserved(0)
    '<|reserved_0|>'
    """
    return f"<|reserved_{number}|>"
