"""Ask llama.cpp for ids, texts and logits. It runs in the Python that has it, and imports nothing of ibidem.

Standard input is JSON: `model`, path of a GGUF file; `texts`; `rows`, lists of ids; `logits`, path of a file, in which
the logits of the rows are written as float32. Standard output is JSON: `version` of llama.cpp; `ids` of each text, not
searched for special tokens; `decoded`, their bytes as hexadecimal.
"""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

PACKAGE = "llama_cpp_py_sync"
"""Carries llama.cpp compiled, and its C functions under their own names."""
_F32 = 0
"""GGML_TYPE_F32, of the cache of keys and values."""


class Model:
    """A GGUF file, as llama.cpp has it."""

    def __init__(self, path: str, length: int) -> None:
        loaded: Any = importlib.import_module(f"{PACKAGE}.llama")
        self._lib, self._ffi = loaded.get_lib(), loaded.get_ffi()
        self._lib.llama_backend_init()
        settings = self._lib.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(path.encode(), settings)
        if self._model == self._ffi.NULL:
            sys.exit("the file is refused")
        shape = self._lib.llama_context_default_params()
        shape.n_ctx = shape.n_batch = shape.n_ubatch = length
        shape.n_threads = shape.n_threads_batch = 1
        shape.type_k = shape.type_v = _F32
        shape.flash_attn_type = 0
        self._context = self._lib.llama_init_from_model(self._model, shape)
        self._vocab = self._lib.llama_model_get_vocab(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text."""
        raw = text.encode()
        ids = self._ffi.new("llama_token[]", len(raw) + 8)
        number = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, len(raw) + 8, False, False)
        return list(ids[0:number])

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of ids, one after the other, as programs print them."""
        return b"".join(map(self._piece, ids))

    def _piece(self, number: int) -> bytes:
        size = 1 << 10
        buffer = self._ffi.new("char[]", size)
        written = self._lib.llama_token_to_piece(self._vocab, number, buffer, size, 0, False)
        return bytes(self._ffi.buffer(buffer, written))

    def logits(self, ids: Sequence[int]) -> Iterator[bytes]:
        """Yield the logits at each of some ids, as float32."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        batch = self._lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, number in enumerate(ids):
            batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.logits[place] = number, place, 1, 1
            batch.seq_id[place][0] = 0
        if self._lib.llama_decode(self._context, batch) != 0:
            sys.exit("the ids are refused")
        size = 4 * self._lib.llama_vocab_n_tokens(self._vocab)
        for place in range(len(ids)):
            yield bytes(self._ffi.buffer(self._lib.llama_get_logits_ith(self._context, place), size))
        self._lib.llama_batch_free(batch)


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    model = Model(asked["model"], max(map(len, asked["rows"])))
    ids = [model.tokenize(text) for text in asked["texts"]]
    with open(asked["logits"], "wb") as file:
        for row in asked["rows"]:
            file.writelines(model.logits(row))
    version = importlib.import_module(PACKAGE).__llama_cpp_tag__
    json.dump({"version": version, "ids": ids, "decoded": [model.decode(row).hex() for row in ids]}, sys.stdout)


if __name__ == "__main__":
    main()
