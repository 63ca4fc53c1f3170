"""Small datasets of prose that can be asked about."""

import random
from pathlib import Path

import pyarrow as pa

from ibidem import artifacts
from ibidem.data import shards
from ibidem.records import Document

COLORS = ("red", "green", "blue", "gray", "white", "black")
THINGS = ("boat", "tower", "engine", "bridge", "wagon", "clock")
FIRST = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald")
LAST = ("Miller", "Stone", "Brown", "Jones", "Smith", "Baker")


def passage(seed: int) -> str:
    """Facts about a thing: years, numbers and names, each in words of its own."""
    draw = random.Random(seed)
    years, people = draw.sample(range(1800, 2020), 3), [f"{draw.choice(FIRST)} {name}" for name in draw.sample(LAST, 3)]
    return (
        f"The {draw.choice(COLORS)} {draw.choice(THINGS)} was built in {years[0]} by {people[0]}. "
        f"It weighs {draw.randrange(100, 9999)} tons and is {draw.randrange(10, 99)} m long. "
        f"{people[1]} repaired it in {years[1]}, and {people[2]} sold it in {years[2]} for {draw.randrange(100, 999)} "
        f"dollars."
    )


def prose_dataset(folder: Path, texts: list[str]) -> Path:
    """Write texts as a preprocessed dataset."""
    documents = [Document(text.encode(), "test", None, str(number)) for number, text in enumerate(texts)]
    table = pa.Table.from_batches([shards.as_batch(documents)] if documents else [], shards.SCHEMA)
    with artifacts.create(folder, kind=shards.KIND, config={}) as draft:
        contents = table.select(list(shards.CONTENT)).to_batches()
        shards.write_shard(draft.path / "shard-00000.parquet", table.select(list(shards.FACTS)), contents)
        draft.counts["kept"] = len(texts)
    return folder
