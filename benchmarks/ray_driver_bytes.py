"""What passes through the driver of a cluster for each document: pickled tasks, functions and results of the engine.

    rows      documents of Parquet files, 1,000 in each
    files     source files of a folder, which are listed, hashed and cut into tasks by their names

`ibidem preprocess` runs on a corpus and on one four times as large, and `ibidem blend` on what it made. Each task runs
here, one after another, and is pickled as for a cluster: the function once for all tasks, each task, each result.
`functions` is what a worker unpickles for a task before the task itself. `copies` is what a machine keeps of work files
at a store, if it did all tasks alone. Measured figures count bytes, so they are the same on any machine.

    python benchmarks/ray_driver_bytes.py benchmarks/results/ray_driver_bytes.json [DOCUMENTS]
"""

import json
import pickle
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ibidem import workfiles
from ibidem.data.blend import BlendConfig, Ingredient, blend
from ibidem.data.engine import Engine
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.places import StorePath

DOCUMENTS, TIMES, FILE_ROWS = 4000, 4, 1000
WORDS, SIMILAR = 40, 0.2
STAGES = ("preprocess", "blend")
SHARD = 200
"""Documents of a shard; a tenth of the default, so that a small corpus has many."""


def main() -> None:
    output = Path(sys.argv[1])
    documents = int([*sys.argv[2:], DOCUMENTS][0])
    runs = [
        {"corpus": name, "documents": count, **measured(make, count)}
        for name, make in (("rows", rows), ("files", files))
        for count in (documents, TIMES * documents)
    ]
    figures = {
        "command": f"python benchmarks/{Path(__file__).name} benchmarks/results/{output.name}",
        "documents of a shard": SHARD,
        "bytes a document": runs,
        "largest corpus against smallest": {
            large["corpus"]: {stage: round(large[stage]["sum"] / small[stage]["sum"], 3) for stage in STAGES}
            for small, large in zip(runs[::2], runs[1::2], strict=True)
        },
    }
    output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def measured(make: Callable[[Path, int], None], count: int, shard_size: int = SHARD) -> dict[str, Any]:
    """Return what passes through the driver in each stage, in bytes a document."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "source"), count)
        store = StorePath(f"file://{folder}/store")
        config = PreprocessConfig(
            dataset=(f"{folder}/source:train:text",), output_dir=store / "data", work_dir=store / "work",
            shard_size=shard_size, skip=("licenses", "filters", "scrub", "contamination"), workers=1,
        )  # fmt: skip
        with counting() as of_preprocess:
            preprocess(config)
        mixed = BlendConfig(
            datasets={"a": Ingredient(path=store / "data")}, shares={"text": 1}, output_dir=store / "blend",
            work_dir=store / "work", shard_size=shard_size, workers=1,
        )  # fmt: skip
        with counting() as of_blend:
            blend(mixed)
    return {"preprocess": a_document(of_preprocess, count), "blend": a_document(of_blend, count)}


def a_document(moved: Counter[str], count: int) -> dict[str, float]:
    through = moved["tasks"] + moved["results"] + moved["function"]
    return {"sum": round(through / count, 2)} | {name: round(size / count, 2) for name, size in sorted(moved.items())}


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Run the tasks of every engine here, and count what a cluster would move."""
    moved: Counter[str] = Counter()
    usual, forget = Engine.map, workfiles.forget

    def run(_: Engine, function: Callable[[Any], Any], tasks: Sequence[Any], *, processes: bool) -> Iterator[Any]:  # noqa: ARG001
        content = pickle.dumps(function)
        moved["function"] += len(content)
        for task in tasks:
            sent = pickle.dumps(task)
            result = pickle.dumps((function(pickle.loads(sent)), None))  # noqa: S301
            moved["functions"] += len(content)
            moved["tasks"] += len(sent)
            moved["results"] += len(result)
            moved[f"of {name_of(function)}"] += len(sent) + len(result)
            yield pickle.loads(result)[0]  # noqa: S301

    def counted(folder: Path) -> None:
        below = "/".join(part.strip("/:") for part in folder.parts)
        copies = Path(tempfile.gettempdir()).glob(f"ibidem-copies-*/{below}/**/*")
        moved["copies"] += sum(path.stat().st_size for path in copies if path.is_file())
        forget(folder)

    Engine.map, workfiles.forget = run, counted  # type: ignore[method-assign, assignment]
    try:
        yield moved
    finally:
        Engine.map, workfiles.forget = usual, forget  # type: ignore[method-assign]


def name_of(function: Any) -> str:
    """Return the function that works on a task, without what is bound to it."""
    while isinstance(function, partial):
        is_batch = function.func.__name__ == "_on_batch"
        function = function.args[0] if is_batch else function.func
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def texts(count: int) -> Iterator[str]:
    """Yield random documents, of which some are the one before with another last word."""
    rng, before = random.Random(0), ""
    for _ in range(count):
        words = before.split()[:-1] if before and rng.random() < SIMILAR else []
        words += [f"{rng.getrandbits(32):x}" for _ in range(WORDS - len(words))]
        before = " ".join(words)
        yield before


def rows(folder: Path, count: int) -> None:
    folder.mkdir()
    every = list(texts(count))
    for start in range(0, count, FILE_ROWS):
        pq.write_table(pa.table({"text": every[start : start + FILE_ROWS]}), folder / f"part-{start:08d}.parquet")


def files(folder: Path, count: int) -> None:
    for number, text in enumerate(texts(count)):
        path = folder / f"package_{number % 50:02d}" / f"module_{number:06d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
