import json
import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import SHARED_DATA

from ibidem import artifacts
from ibidem.errors import CheckpointError, ConfigError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import MmluConfig
from ibidem.evaluation.mmlu import mmlu, prompt
from ibidem.evaluation.subjects import LETTERS, find_subjects, read

HEAD = "question,choice0,choice1,choice2,choice3,answer\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mmlu"
    (folder / "test").mkdir(parents=True)
    (folder / "dev").mkdir()
    (folder / "test" / "management_test.csv").write_text(
        'What is it?,one,two,"three, or more",four,C\n"Say ""no"".\nTwice",a,b,c,d,A\n'
    )
    (folder / "dev" / "management_dev.csv").write_text(HEAD + "How?,w,x,y,z,1\nWhy?,w,x,y,z,3\n")
    (folder / "test" / "computer_security_test.csv").write_text(HEAD + "Who?,w,x,y,z,0\n")
    (folder / "dev" / "computer_security_dev.csv").write_text("How?,w,x,y,z,B\n")
    return folder


def test_both_forms_of_the_csv_are_read(folder: Path) -> None:
    first, second = read("management", folder / "test" / "management_test.csv")
    assert (first.choices[2], first.answer, second.text, second.answer) == ("three, or more", 2, 'Say "no".\nTwice', 0)
    assert [each.answer for each in read("management", folder / "dev" / "management_dev.csv")] == [1, 3]


def test_the_prompt_is_the_benchmarks(folder: Path) -> None:
    (question, _), examples = (
        read("management", folder / "test" / "management_test.csv"),
        read("management", folder / "dev" / "management_dev.csv"),
    )
    assert prompt(question, examples[:1]) == (
        "The following are multiple choice questions (with answers) about management.\n\n"
        "How?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "What is it?\nA. one\nB. two\nC. three, or more\nD. four\nAnswer:"
    )


@pytest.mark.parametrize("scoring", ["letter", "text"])
@pytest.mark.parametrize(
    ("name", "bos", "start_ids"),
    [
        ("hf_model", "always", [0]),
        ("hf_model", "tokenizer", []),
        ("hf_model", "never", []),
        ("hf_model_with_bos", "always", [0]),
        ("hf_model_with_bos", "tokenizer", [0]),
        ("hf_model_with_bos", "never", []),
    ],
)
def test_scores_equal_a_direct_computation_with_transformers(
    name: str,
    bos: str,
    start_ids: list[int],
    scoring: str,
    folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    import torch
    import transformers

    hf_model = request.getfixturevalue(name)
    mmlu(MmluConfig(checkpoint=hf_model, data=folder, output_dir=tmp_path / "o", shots=1, scoring=scoring, bos=bos))
    found = evidence.read(tmp_path / "o")
    assert found.artifact.config["bos"] == bos
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(hf_model).eval()
    examples = read("management", folder / "dev" / "management_dev.csv")[:1]
    questions = read("management", folder / "test" / "management_test.csv")
    items = [item for item in found.items if item["subject"] == "management"]
    for item, question in zip(items, questions, strict=True):
        text = prompt(question, examples, with_choices=scoring == "letter")
        options = LETTERS if scoring == "letter" else question.choices
        scores = []
        for option in options:
            start = [*start_ids, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            ids = torch.tensor([[*start, *tokenizer(f" {option}", add_special_tokens=False)["input_ids"]]])
            with torch.no_grad():
                logs = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
            each = logs.gather(1, ids[0, 1:, None])[len(start) - 1 :]
            scores.append(float(each.sum()))
        assert item["scores"] == pytest.approx(scores, abs=1e-5)
        lengths = [1 if scoring == "letter" else len(option) + 1 for option in options]
        best = max(range(4), key=lambda place: scores[place] / lengths[place])
        assert item["chosen"] == LETTERS[best]
        assert item["passed"] == (best == question.answer)


def test_figures_are_told_by_group_and_subject(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    mmlu(MmluConfig(checkpoint=checkpoint, data=folder, output_dir=tmp_path / "o", shots=1))
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert {"accuracy", "accuracy.business", "accuracy.security", "accuracy.management"} <= set(results)
    assert results["contamination"]["problems"] == 0
    assert results["items"] == results["trials"]["accuracy"] == 3
    assert results["trials"]["accuracy.management"] == 2
    assert results["chance"] == 0.25


def test_a_prompt_longer_than_the_context_keeps_its_end(checkpoint: Path) -> None:
    from ibidem.inference.models import open_model, option_scores

    model = open_model(checkpoint)
    long = option_scores(model, "import os\n" * 200 + "x = ", ["1", "value"])
    assert all(score < 0 for score in long)
    tail = model.encode("import os\n" * 200 + "x = 1")[-model.context - 1 :]
    assert long[0] == pytest.approx(-model.nll(tail, len(tail) - 1), abs=1e-4)


def test_mistakes_are_one_line(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no law_test"):
        find_subjects(folder, ["law"])
    with pytest.raises(ConfigError, match="no <subject>_test"):
        find_subjects(tmp_path / "mmlu" / "dev", [])
    with pytest.raises(ConfigError, match="has 1 example; give --shots"):
        mmlu(MmluConfig(checkpoint=checkpoint, data=folder, output_dir=tmp_path / "o"))
    for text, said in [
        ("a,b,c\n", "row 1"),
        ("q,a,b,c,d,E\n", "row 1"),
        ("q,a,b,c,d,7\n", "row 1"),
        ("", "no question"),
    ]:
        (tmp_path / "x_test.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            read("x", tmp_path / "x_test.csv")


def test_the_real_subjects_are_read() -> None:
    if not (SHARED_DATA / "mmlu").exists():
        pytest.skip("mmlu is not here")
    files = find_subjects(SHARED_DATA / "mmlu", [])
    assert len(files) == 7
    assert all(read(name, test) and read(name, dev) for name, (test, dev) in files.items())


def test_a_model_that_changed_since_it_was_identified_is_not_opened(checkpoint: Path) -> None:
    from ibidem.inference.models import open_model

    assert open_model(checkpoint, artifacts.load(checkpoint).digest).context
    with pytest.raises(CheckpointError, match="it changed while it was evaluated"):
        open_model(checkpoint, "sha256:" + "0" * 64)


def test_weights_that_are_exchanged_and_put_back_while_they_are_read_are_noticed(
    checkpoint: Path, hf_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibidem.inference import models

    identified = models.identify
    for source in (checkpoint, hf_model):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        weights = folder / "model.safetensors"

        def exchange(path: Path, principal: str | None = None, weights: Path = weights) -> object:
            found = identified(path, principal)
            weights.rename(weights.with_suffix(".aside"))
            shutil.copy(weights.with_suffix(".aside"), weights)
            weights.unlink()
            weights.with_suffix(".aside").rename(weights)
            return found

        assert models.open_model(folder).context
        monkeypatch.setattr(models, "identify", exchange)
        with pytest.raises(CheckpointError, match="it changed while it was read"):
            models.open_model(folder)
        monkeypatch.setattr(models, "identify", identified)


def test_a_pickle_that_would_run_code_is_one_line(hf_model: Path, tmp_path: Path) -> None:
    import pickle

    from ibidem.inference.models import open_model

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    shutil.copytree(hf_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ConfigError, match="checkpoint .*model"):
        open_model(tmp_path / "model")
    assert not (tmp_path / "ran").exists()
