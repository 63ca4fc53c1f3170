"""What an export must show before it appears: ids, texts, chats and logits are those of the checkpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibidem import log
from ibidem.conversation import Conversation
from ibidem.errors import ArtifactError
from ibidem.figures import visible
from ibidem.modeling.modeling_custom import Decoder
from ibidem.serving.export import hostile
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.unigram_json import Pieces

TEXTS, CONVERSATIONS = 10_000, 500
BATCH = 500
"""Number of texts that are encoded at once."""
ROWS, TOKENS = 2, 128
"""Size of the batch of random ids."""
LOGITS_TOLERANCE = 1e-4
"""Largest difference of two logits, in units of the largest logit if that is more than 1."""
_SHOWN = 60

Ids = Sequence[int]


def check_tokenizer(folder: Path, ours: Tokenizer, pieces: Pieces, alphabet: Alphabet) -> dict[str, int]:
    """Compare the exported tokenizer with ours.

    Args:
        folder: of the export.
        ours: the tokenizer.
        pieces: what it consists of.
        alphabet: the characters that the exported one uses itself.

    Returns:
        Counts: texts and conversations that were compared.

    Raises:
        ArtifactError: the ids of a text or a conversation differ, or do not decode to the text.
    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with log.progress("export.check", TEXTS + CONVERSATIONS, "texts") as bar:
        texts = list(hostile.texts(pieces, alphabet, TEXTS))
        for first in range(0, TEXTS, BATCH):
            _compare_texts(ours, theirs, texts[first : first + BATCH])
            bar.advance(len(texts[first : first + BATCH]))
        conversations = list(hostile.conversations(pieces, alphabet, CONVERSATIONS))
        _compare_conversations(ours, theirs, conversations)
        bar.advance(len(conversations))
    return {"texts": TEXTS, "conversations": CONVERSATIONS}


def difference(what: str, ours: Ids, theirs: Ids) -> str | None:
    """Return where two encodings of a text differ first.

    >>> difference("a b", [5, 6, 7], [5, 8])
    "'a b': from token 1 on ours has [6, 7], the export [8]"
    """
    if list(ours) == list(theirs):
        return None
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    here, there = (list(ids[place : place + 4]) for ids in (ours, theirs))
    return f"{shown(what)}: from token {place} on ours has {here}, the export {there}"


def _compare_ids(kind: str, what: str, ours: Ids, theirs: Ids) -> None:
    if found := difference(what, ours, theirs):
        raise differs(f"{kind} {found}")


def _compare_texts(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    ids_of = theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]
    decoded = theirs.decode(ids_of, skip_special_tokens=True)
    for text, ids, back in zip(texts, ids_of, decoded, strict=True):
        _compare_ids("text", text, ours.encode(text), ids)
        if back != ours.decode(ids):  # an imported tokenizer may change a text, and says so when it is imported
            raise differs(f"text {shown(text)} comes back as {shown(back)}")


def _compare_conversations(ours: Tokenizer, theirs: Any, conversations: Sequence[Conversation]) -> None:
    """Compare prompts; they must be the same where texts are searched for special tokens.

    No text spells the special tokens of an imported tokenizer, so its texts are searched always.
    """
    template = ChatTemplate(ours)
    given = list(map(hostile.messages, conversations))
    searched, plain = (
        theirs.apply_chat_template(
            given,
            add_generation_prompt=True,
            return_dict=False,
            tokenizer_kwargs={"split_special_tokens": splits, "verbose": False},
        )
        for splits in (False, not ours.is_imported)
    )
    for turns, ids, searched_ids in zip(conversations, plain, searched, strict=True):
        _compare_ids("conversation", str(turns), template.prompt(turns), ids)
        if ids != searched_ids:
            raise differs(f"a text of conversation {shown(str(turns))} spells a special token")


def differs(what: str) -> ArtifactError:
    """Return the refusal of an export that is not the same as its checkpoint."""
    versions = " and ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers"))
    return ArtifactError(f"the export differs from the checkpoint, as {versions} read it: {what}; nothing is written")


def shown(text: str) -> str:
    """Return the beginning of a text, in quotes, with what is invisible made visible."""
    return f"'{visible(text[:_SHOWN])}{'...' if len(text) > _SHOWN else ''}'"


def check_logits(folder: Path, decoder: Decoder, seed: int = 0) -> float:
    """Compare the exported model with a decoder, on random ids.

    Args:
        folder: of the export.
        decoder: the model, with the exported weights.
        seed: of the ids.

    Returns:
        The largest difference of two logits.

    Raises:
        ArtifactError: it is too large.
    """
    theirs = load_hf_model(folder).to(decoder.device).eval()
    generator = torch.Generator().manual_seed(seed)
    size = ROWS, min(TOKENS, decoder.config.context)
    ids_BT = torch.randint(decoder.config.vocab_size, size, generator=generator).to(decoder.device)
    with torch.inference_mode():
        return compare_logits(decoder.logits(ids_BT), theirs(ids_BT).logits)


def compare_logits(ours_BTV: Tensor, theirs_BTV: Tensor) -> float:
    """Return the largest difference of two logits.

    Raises:
        ArtifactError: it is too large, or no number.
    """
    difference_BT = (ours_BTV - theirs_BTV).abs().amax(-1)
    largest = float(difference_BT.max())
    allowed = LOGITS_TOLERANCE * max(1.0, float(ours_BTV.abs().max()))
    if not largest <= allowed:  # nan too
        row, place = divmod(int((~(difference_BT <= allowed)).flatten().nonzero()[0]), difference_BT.shape[1])
        raise differs(f"logits at token {place} of row {row} differ by {float(difference_BT[row, place]):.3g}")
    return largest


def load_hf_model(folder: Path) -> Any:
    """Load an export as anyone else does, in float32, without any code of ours."""
    with quiet_transformers():
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing progress of its own."""
    from transformers.utils import logging

    progress: Any = logging
    was_shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            progress.enable_progress_bar()
