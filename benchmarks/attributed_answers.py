"""What it costs a server that answers are looked up in the training's index while they are written.

Answers of 500 tokens arrive token by token, as from a model. `own` ones are random pieces of documents, 3 tokens long:
text that repeats nothing. `copied` ones are half documents, in pieces of 100 tokens. Each is passed on as it is; with
spans marked; and with a policy that could block, so that text is held back, and finds nothing to block.

    cpu_us      CPU-microseconds a token, all threads: median over the answers
    held_chars  characters that were said and not yet sent, at each piece that is sent: mean and maximum

    python benchmarks/attributed_answers.py CORPUS benchmarks/results/attributed_answers.json

CORPUS is as for `attribution.py`.
"""

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import attribution  # beside this file

ANSWERS, TOKENS, LEAST = 60, 500, 40


def main() -> None:
    corpus, output = Path(sys.argv[1]), Path(sys.argv[2])
    from ibidem import runtime

    runtime.tune()
    with tempfile.TemporaryDirectory() as name:
        is_made = (corpus / "manifest.json").exists()
        tokens = corpus if is_made else attribution.make_tokens(corpus, Path(name))
        index = attribution.built(tokens, Path(name))
        about_index = {key: index[key] for key in ("documents", "tokens")}
        found = {"index": about_index, "answers": measured(Path(name) / "index")}
    command = f"python benchmarks/attributed_answers.py CORPUS {output.as_posix()}"
    about = {"command": command, "machine": f"{os.cpu_count()} cores", "answers": ANSWERS, "tokens": TOKENS}
    output.write_text(json.dumps({**about, **found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def measured(folder: Path) -> dict[str, Any]:
    """Measure each kind of answer under each policy, in turn."""
    from ibidem.attribution.config import PolicyConfig
    from ibidem.attribution.lookup import Attribution
    from ibidem.serving.server.sources import attributed

    index = Attribution(folder, least_tokens=LEAST, common_documents=10**6)
    marking = PolicyConfig(on_other="mark", on_common="allow", least_tokens=LEAST)
    holding = PolicyConfig(on_other="mark", on_common="block", least_tokens=LEAST)  # no span is common here
    ways: dict[str, Callable[[Any], Any]] = {
        "as it is": lambda pieces: pieces,
        "marked": lambda pieces: attributed(pieces, index, marking),
        "held back": lambda pieces: attributed(pieces, index, holding),
    }
    results = {}
    for kind, answers in {"own": own(index), "copied": copied(index)}.items():
        figures: dict[str, list[tuple[float, list[int]]]] = {way: [] for way in ways}
        for number, answer in enumerate(answers):
            for way, through in ways.items():
                figure = asyncio.run(passed_on(answer, through))
                if number:  # compiled, and in the page cache
                    figures[way].append(figure)
        results[kind] = {way: summary(each) for way, each in figures.items()}
    return results


async def passed_on(answer: list[str], through: Callable[[Any], Any]) -> tuple[float, list[int]]:
    """Return the CPU-seconds of an answer, and how many characters were held back whenever some were sent."""
    from ibidem.serving.server.speech import Delta, Ended

    num_said = num_sent = 0
    held = []

    async def said() -> AsyncGenerator[Delta | Ended]:
        nonlocal num_said
        for text in answer:
            num_said += len(text)
            yield Delta(text)
        yield Ended("stop", 1, len(answer))

    started = time.process_time()
    async for piece in through(said()):
        if isinstance(piece, Delta) and piece.text:
            num_sent += len(piece.text)
            held.append(num_said - num_sent)
    assert num_sent == sum(map(len, answer))
    return time.process_time() - started, held


def summary(figures: list[tuple[float, list[int]]]) -> dict[str, float]:
    held = [each for _, of_answer in figures for each in of_answer]
    return {
        "cpu_us": statistics.median(seconds for seconds, _ in figures) / TOKENS * 1e6,
        "worst_cpu_us": max(seconds for seconds, _ in figures) / TOKENS * 1e6,
        "mean_held_chars": statistics.mean(held),
        "most_held_chars": max(held),
    }


def copied(index: Any) -> list[list[str]]:
    return [pieces(index, ids) for ids in attribution.make_texts(index)[:ANSWERS]]


def own(index: Any) -> list[list[str]]:
    rng = random.Random(1)
    answers = []
    for _ in range(ANSWERS):
        ids: list[int] = []
        while len(ids) < TOKENS:
            part = rng.choice(index._parts)
            start = rng.randrange(len(part.ids_N) - 3)
            ids += map(int, part.ids_N[start : start + 3])
        answers.append(pieces(index, ids[:TOKENS]))
    return answers


def pieces(index: Any, ids: list[int]) -> list[str]:
    """Return the text of each token, as a server says it."""
    from ibidem.serving.server.detokenizer import Detokenizer

    detokenizer = Detokenizer(index.tokenizer.texts_of_V)
    texts = [detokenizer.add(number) for number in ids]
    return [text for text in (*texts, detokenizer.end()) if text]


if __name__ == "__main__":
    main()
