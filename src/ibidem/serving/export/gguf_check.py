"""What a GGUF file must show before it appears: llama.cpp itself has the ids, texts and logits of the checkpoint."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ibidem import log
from ibidem.errors import ArtifactError, ConfigError
from ibidem.modeling.modeling_custom import Decoder
from ibidem.serving.export import hostile, llama_cpp_script
from ibidem.serving.export.self_test import difference, shown
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.unigram_json import Pieces

TEXTS = 1_000
ROWS, TOKENS = 2, 64
"""Size of the batch of random ids."""
TOLERANCES = {torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.1}
"""Largest difference of two logits by the dtype of the matrices, in units of the largest logit if that is more than 1.
llama.cpp rounds what it multiplies with a matrix to the matrix's dtype; ibidem and transformers do not."""


class Answer(NamedTuple):
    """What llama.cpp says."""

    version: str
    ids: Sequence[Sequence[int]]
    decoded: Sequence[bytes]
    logits_BTV: Tensor


def python_of(given: Path | None) -> Path:
    """Return a Python that has llama.cpp.

    Raises:
        ConfigError: there is none.
    """
    python = given or Path(sys.executable)
    try:
        done = subprocess.run([python, "-c", f"import {llama_cpp_script.PACKAGE}"], capture_output=True, check=False)  # noqa: S603 - the user's
    except OSError as error:
        raise ConfigError(f"--llama-cpp {python}: cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ConfigError(
            f"a GGUF file is compared with llama.cpp, which {python} does not have: pip install llama-cpp-py-sync, or "
            "name a Python that has it by --llama-cpp"
        )
    return python


def ask(python: Path, model: Path, texts: Sequence[str], ids_BT: Tensor) -> Answer:
    """Run llama.cpp.

    Raises:
        ArtifactError: it cannot read the file.
    """
    with tempfile.TemporaryDirectory(prefix="ibidem-") as scratch:
        logits = Path(scratch, "logits")
        asked = {"model": str(model), "texts": texts, "rows": ids_BT.tolist(), "logits": str(logits)}
        done = subprocess.run(  # noqa: S603 - the Python that the user names
            [python, llama_cpp_script.__file__],
            input=json.dumps(asked),
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ArtifactError(f"llama.cpp does not read the export: {said[:300]}; nothing is written")
        answer: dict[str, Any] = json.loads(done.stdout)
        logits_BTV = torch.from_numpy(np.fromfile(logits, np.float32)).reshape(*ids_BT.shape, -1)
    return Answer(answer["version"], answer["ids"], [bytes.fromhex(text) for text in answer["decoded"]], logits_BTV)


def check_gguf(
    model: Path, python: Path, decoder: Decoder, tokenizer: Tokenizer, pieces: Pieces, *, dtype: torch.dtype
) -> dict[str, Any]:
    """Compare a GGUF file with a checkpoint, as llama.cpp reads it.

    Args:
        model: the file.
        python: a Python that has llama.cpp.
        decoder: the model, with the exported weights.
        tokenizer: its tokenizer.
        pieces: what the tokenizer consists of.
        dtype: of the matrices in the file.

    Returns:
        Version of llama.cpp, number of texts, and the largest difference of two logits.

    Raises:
        ArtifactError: the ids of a text differ, do not decode to it, or logits differ.
    """
    with log.progress("export.check", 1, "model") as bar:
        texts = list(hostile.texts(pieces, Alphabet.outside(pieces.texts), TEXTS))
        size = ROWS, min(TOKENS, decoder.config.context)
        ids_BT = torch.randint(decoder.config.vocab_size, size, generator=torch.Generator().manual_seed(0))
        answer = ask(python, model, texts, ids_BT)
        for text, ids, back in zip(texts, answer.ids, answer.decoded, strict=True):
            _compare_text(answer, text, tokenizer.encode(text), ids, back)
        with torch.inference_mode():
            ours_BTV = decoder.logits(ids_BT.to(decoder.device)).float().cpu()
        largest = _compare_logits(answer, ours_BTV, TOLERANCES[dtype])
        bar.advance()
    return {"llama_cpp": answer.version, "texts": TEXTS, "logits_difference": largest}


def _compare_text(answer: Answer, text: str, ours: Sequence[int], theirs: Sequence[int], back: bytes) -> None:
    if found := difference(text, ours, theirs):
        raise _differs(answer, f"text {found}")
    if back != text.encode():
        raise _differs(answer, f"text {shown(text)} comes back as {shown(back.decode(errors='replace'))}")


def _compare_logits(answer: Answer, ours_BTV: Tensor, tolerance: float) -> float:
    largest = float((ours_BTV - answer.logits_BTV).abs().max())
    if not largest <= tolerance * max(1.0, float(ours_BTV.abs().max())):  # nan too
        raise _differs(answer, f"logits differ by {largest:.3g}")
    return largest


def _differs(answer: Answer, what: str) -> ArtifactError:
    return ArtifactError(
        f"the export differs from the checkpoint, as llama.cpp {answer.version} reads it: {what}; nothing is written"
    )
