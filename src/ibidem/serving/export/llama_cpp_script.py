"""Ask llama.cpp for ids, texts and logits. It runs in the Python that has llama_cpp, and imports nothing of ibidem.

Standard input is JSON: `model`, path of a GGUF file; `texts`; `rows`, lists of ids; `logits`, path of a file, in which
the logits of the rows are written as float32. Standard output is JSON: `version` of llama-cpp-python; `ids` of each
text; `decoded`, their bytes as hexadecimal.
"""

import importlib
import json
import sys
from typing import Any

_F32 = 0
"""GGML_TYPE_F32, of the cache of keys and values."""


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    llama_cpp: Any = importlib.import_module("llama_cpp")
    length = max(map(len, asked["rows"]))
    model = llama_cpp.Llama(
        asked["model"],
        n_ctx=length,
        n_batch=length,
        n_gpu_layers=0,
        logits_all=True,
        flash_attn=False,
        type_k=_F32,
        type_v=_F32,
        verbose=False,
    )
    ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
    decoded = [b"".join(model.detokenize([number]) for number in row).hex() for row in ids]
    with open(asked["logits"], "wb") as file:
        for row in asked["rows"]:
            model.reset()
            model.eval(row)
            file.write(model.scores[: len(row)].astype("float32").tobytes())
    model.close()
    json.dump({"version": llama_cpp.__version__, "ids": ids, "decoded": decoded}, sys.stdout)


if __name__ == "__main__":
    main()
