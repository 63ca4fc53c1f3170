"""Own a small code assistant outright.

The Python interface is in `ibidem.api`; its names are here too, and imported when one is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibidem.api import (
        Dataset,
        Evaluation,
        ask_documents,
        blend,
        dpo,
        evaluate,
        generate,
        grpo,
        import_model,
        index_documents,
        load_model,
        open_dataset,
        ppo,
        preprocess,
        reward,
        search_documents,
        sft,
        show_progress,
        synthesize,
        train,
        train_tokenizer,
    )
    from ibidem.errors import IbidemError
    from ibidem.tokenization.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Evaluation",
    "IbidemError",
    "Tokenizer",
    "ask_documents",
    "blend",
    "dpo",
    "evaluate",
    "generate",
    "grpo",
    "import_model",
    "index_documents",
    "load_model",
    "open_dataset",
    "ppo",
    "preprocess",
    "reward",
    "search_documents",
    "sft",
    "show_progress",
    "synthesize",
    "train",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("ibidem.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
