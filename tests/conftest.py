"""What the tests share: small real things, made once a session."""

import os
import random
from collections.abc import Generator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest

hypothesis.settings.register_profile("timeless", deadline=None)  # the first call of a kernel compiles it
hypothesis.settings.load_profile("timeless")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

MAY_SKIP = (
    *("only root can", "needs Linux namespaces", "is switched off on this machine"),
    *(
        "not a git checkout",
        "needs a CUDA device",
        "name a Python that has it in PEERS_PYTHON",
        "the release of EvalPlus is not here",
        "no chromium is installed",
        "moto[server] is not installed",
        "s3fs is not installed",
        "torchao is not",
    ),
)
"""What a machine may lack though data and extras are there."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test fail that skips for want of data or an extra where the shared data stand beside the project."""
    report = yield
    if report.skipped and SHARED_DATA.exists() and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2]
        if not any(words in reason for words in MAY_SKIP):
            report.outcome, report.longrepr = "failed", f"{item.nodeid} skipped: {reason}"
    return report


LONG_FIRST = ("tests/e2e/", "tests/training/", "tests/sandbox/", "tests/data/", "tests/inference/", "tests/test_")
"""Folders whose tests take long: what comes last decides how long one worker waits for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {folder: place for place, folder in enumerate(LONG_FIRST)}
    found = {item: [place for folder, place in places.items() if item.nodeid.startswith(folder)] for item in items}
    items.sort(key=lambda item: (found[item] or [len(LONG_FIRST)])[0])


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the programs under test out of the user's state folder."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.getbasetemp() / "state")


WORDS = ("value", "index", "buffer", "result", "self", "token", "path", "count", "node", "key")


def python_file(seed: int) -> str:
    """Write a small Python module that no other seed writes."""
    rng = random.Random(seed)
    functions = []
    for number in range(rng.randint(3, 8)):
        a, b, c = rng.sample(WORDS, 3)
        functions.append(
            f"def {a}_{b}_{number}({b}, {c}={rng.randint(0, 99)}):\n"
            f'    """Return the {a} of {b}."""\n'
            f"    for {a} in range({c}):\n"
            f"        {b} += {a} * {rng.randint(2, 9)}\n"
            f"    return {b}\n"
        )
    return f'"""Module {seed}."""\n\nimport {rng.choice(["os", "sys", "json"])}\n\n\n' + "\n\n".join(functions)


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 Python files and a few others."""
    folder = tmp_path_factory.mktemp("source") / "project"
    (folder / "pkg").mkdir(parents=True)
    for seed in range(240):
        (folder / "pkg" / f"module_{seed:03d}.py").write_text(python_file(seed))
    (folder / "Makefile").write_text("all:\n\techo done   \n")
    (folder / "README.md").write_text("# Project\n\nText.   \n\n\n\n```python\nx = 1   \n```\n")
    (folder / "logo.png").write_bytes(b"\x89PNG\0\0")
    return folder


@pytest.fixture(scope="session")
def dataset(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, preprocessed."""
    from ibidem.data.preprocess import PreprocessConfig, preprocess

    output = tmp_path_factory.mktemp("dataset") / "data"
    preprocess(PreprocessConfig(dataset=(f"{source_folder}:train:text",), output_dir=output, shard_size=100))
    return output


@pytest.fixture(scope="session")
def tokenizer_dir(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 512 ids, trained on the dataset."""
    from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer

    output = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    train_tokenizer(TrainTokenizerConfig(input=dataset, output_dir=output, vocab_size=512, held_out_share=0.1))
    return output


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of a model that trains in seconds."""
    path = tmp_path_factory.mktemp("model") / "small.py"
    path.write_text(
        "from ibidem.modeling.config import ModelConfig\n"
        "MODEL = ModelConfig(vocab_size=512, width=32, layers=2, heads=2, ffn_hidden=64, context=64)\n"
    )
    return path


@pytest.fixture
def train_settings(dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path: Path) -> dict[str, object]:
    """Settings of a short training, as a YAML file would hold them."""
    return {
        "model": model_file,
        "output_dir": tmp_path / "run",
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 32},
        "training": {"steps": 40, "batch_sequences": 4, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 1e-2, "warmup_steps": 4},
        "validation": {"every": 20, "windows": 4},
        "checkpoints": {"every": 20},
    }


@pytest.fixture(scope="session")
def checkpoint(dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after ten steps."""
    from ibidem.config import build
    from ibidem.training.config import TrainConfig
    from ibidem.training.train import train

    run = tmp_path_factory.mktemp("checkpoint") / "run"
    settings = {
        "model": model_file,
        "output_dir": run,
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 64},
        "training": {"steps": 10, "batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 1e-2, "warmup_steps": 1},
        "validation": {"every": 10, "windows": 2},
    }
    train(build(TrainConfig, settings))
    return run / "checkpoints" / "step-000010"
