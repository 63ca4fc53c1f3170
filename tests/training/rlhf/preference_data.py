"""Small datasets of preference pairs, and runs on them."""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests import processes
from tests.training.test_resume import Settings, changed

from ibidem import artifacts
from ibidem.conversation import Conversation, Part, Turn, plain
from ibidem.data import shards
from ibidem.records import Document

COLORS = ("red", "green", "blue", "gray", "white", "black")
THINGS = ("car", "door", "hat", "lamp", "shoe", "boat", "leaf", "bird")
Row = tuple[str | Conversation, str, str, float | None]
"""Prompt (a question, or the turns so far), chosen answer, rejected answer, margin."""


def rows(margins: bool = False) -> list[Row]:
    """Return 48 pairs: the chosen answer names the color, the rejected one another; lengths differ."""
    rng = random.Random(0)
    found = []
    for color in COLORS:
        for thing in THINGS:
            other = rng.choice([each for each in COLORS if each != color])
            words = [" ".join([name] * rng.randrange(1, 4)) for name in (color, other)]
            margin = rng.choice([None, 0.5, 2.0]) if margins else None
            found.append((f"Which color has the {color} {thing}?", f"Yes, {words[0]}.", f"No, {words[1]}!", margin))
    return found


def pairs_dataset(folder: Path, pairs: Sequence[Row]) -> Path:
    """Write pairs as a preprocessed dataset."""
    documents = []
    for number, (prompt, chosen, rejected, margin) in enumerate(pairs):
        asked = (Turn.of("user", prompt),) if isinstance(prompt, str) else prompt
        turns = (*asked, Turn.of("assistant", chosen))
        text = f"{plain(turns)}\n{rejected}\n"
        document = Document(text.encode(), "test", None, str(number))
        document.messages, document.rejected, document.margin = turns, (Part("text", rejected),), margin
        documents.append(document)
    table = pa.Table.from_batches([shards.as_batch(documents)])
    with artifacts.create(folder, kind=shards.KIND, config={}) as draft:
        contents = table.select(list(shards.CONTENT)).to_batches()
        shards.write_shard(draft.path / "shard-00000.parquet", table.select(list(shards.FACTS)), contents)
    return folder


def events(run: Path, name: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in found if event["event"] == name]


def figures(run: Path, name: str) -> list[float]:
    return [event[name] for event in events(run, "train.step")]


def kill_and_resume(settings: Settings, launcher: Path, tmp_path: Path, *, at: int) -> None:
    """Start a run into tmp_path/killed, kill it when step `at` is saved, and let it go on."""
    file = tmp_path / "config.json"
    settings = changed(settings, training__resume_from="latest", output_dir=tmp_path / "killed")
    file.write_text(json.dumps(settings, default=str))
    process = processes.start(launcher, ["--config", str(file)], tmp_path / "said.txt")
    first = tmp_path / "killed" / "checkpoints" / f"step-{at:06d}" / "manifest.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    steps = settings["training"]["steps"]
    assert not (tmp_path / "killed" / "checkpoints" / f"step-{steps:06d}").exists()
    processes.launch(launcher, ["--config", str(file)], tmp_path, processes=1)
