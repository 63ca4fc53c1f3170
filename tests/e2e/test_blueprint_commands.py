"""The blueprint's commands, word for word, on local data."""

import json
import os
import random
import shlex
import string
import subprocess
import sys
from pathlib import Path

import pytest
from tests import processes
from tests.conftest import REPOSITORY

from ibidem import artifacts, jsonl
from ibidem.cli import main
from ibidem.lineage import walk


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blueprint")
    for name in ("scripts", "src", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def run(project: Path, line: str, **replaced: str) -> str:
    """Run a line of the blueprint where it names a script, or accelerate; return what it says."""
    command, *words = [replaced.get(word, word) for word in shlex.split(line)]
    if command == "python":
        processes.launch(Path(words[0]), words[1:], project.parent, processes=1)
        return (project.parent / "said-0.txt").read_text()
    words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_data_tokenizer_and_training_run_one_after_the_other(
    project: Path, source_folder: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project / "text").mkdir()
    rng = random.Random(0)
    texts = ({"text": " ".join(rng.choices(string.ascii_lowercase, k=9)) + f" is line {n} of it."} for n in range(50))
    (project / "text" / "train.jsonl").write_text(jsonl.dumps(texts))
    said = run(
        project,
        "python scripts/preprocess_public.py --dataset bigcode/the-stack-dedup:v1:train:content "
        "--dataset openwebtext:train:text --output-dir data/public/processed --shard-size 2000",
        **{
            "bigcode/the-stack-dedup:v1:train:content": f"{source_folder}:train:content",
            "openwebtext:train:text": "text:train:text",
        },
    )
    assert "292 of 292 documents kept" in said
    chats = ({"instruction": f"Say {n}.", "response": f"{n}, as you wish, and once more {n}."} for n in range(40))
    (project / "chats.jsonl").write_text(jsonl.dumps(chats))
    instructions = "preprocess --dataset chats.jsonl:train:instruction --output-dir data/public/instructions"
    assert main(shlex.split(f"{instructions} --dedup.near false")) == 0
    assert main(shlex.split("blend --config configs/data/blend.yaml")) == 0
    run(
        project,
        "python src/tokenization/train_tokenizer.py --input data/public/processed --vocab-size 65536 "
        "--output-dir artifacts/tokenizer",
    )
    assert artifacts.verify(project / "artifacts" / "tokenizer").counts["vocab_size"] == 65536
    shape = project / "small.py"
    shape.write_text(model_file.read_text().replace("vocab_size=512", "vocab_size=65536"))
    run(
        project,
        "accelerate launch src/training/train.py --config configs/training/base.yaml --model small.py "
        "--training.steps 2 --training.batch-sequences 2 --training.micro-batch-sequences 1 --validation.windows 2 "
        "--data.held-out-share 0.1",
    )
    checkpoint = project / "artifacts" / "checkpoints" / "step-000002"
    assert {state for _, state, _ in walk(checkpoint)} == {"ok", "source"}
    run(
        project,
        "python src/evaluation/perplexity.py --checkpoint artifacts/checkpoints/step-000002 "
        "--data data/public/processed/text/train/shard-00000.parquet --output perplexity.json",
    )
    assert json.loads((project / "perplexity.json").read_text())["bits_per_byte"] > 0
