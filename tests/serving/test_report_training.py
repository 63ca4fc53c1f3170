"""The report of a training on sampled answers: rewards, KL divergence, tests passed, and the gap between both kinds."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.serving.test_report import EVENTS, MISSING, STARTED, Reader, make_run, page_of, step

from ibidem import artifacts
from ibidem.config import build
from ibidem.serving.report_training import GAP, HELD_OUT, NO_HIDDEN_TESTS, REWARD, SAMPLED

PROMPT = "User:\nWrite add_7(x): it adds 7 to x.\n\nTests:\nassert add_7(1) == 8\n"
ANSWER = "```python\ndef add_7(x):\n    return x + 7\n```"


def on_tests(number: int, *, hidden: bool = True, kl: bool = True) -> dict[str, Any]:
    """A step of GRPO: visible passes rise by 0.1 a step, hidden ones by 0.04."""
    figures = {REWARD: 0.1 * number, "objective/passed": 0.1 * number, "objective/contrast": 0.5, "val/length": 20.0}
    figures |= {"objective/hidden_passed": 0.04 * number, "objective/gap": 0.06 * number} if hidden else {}
    figures |= {"objective/kl": 0.01 * number} if kl else {}
    return step(number, 103.0 + number, **figures, **{"val/num_eos_tokens": 12.0})


def measured(number: int, **figures: float) -> dict[str, Any]:
    return {"time": 103.0 + number, "event": "train.measured", "step": number, **figures}


def answered(number: int, completion: str) -> dict[str, Any]:
    row = {"time": 103.0 + number, "event": "train.sample", "step": number, "prompt": PROMPT}
    return row | {"completion": completion, "finish": "end"}


HELD = [
    measured(0, score=0.05, passed=0.125, hidden_passed=0.125, gap=0.0, length=30.0, ended=0.5, kl=0.0),
    measured(4, score=0.4, passed=0.5, hidden_passed=0.25, gap=0.25, length=20.0, ended=1.0, kl=0.3),
]
GRPO = [STARTED, HELD[0], answered(0, "return"), *(on_tests(n) for n in range(1, 5)), HELD[1], answered(4, ANSWER)]


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}">(.*?)</section>', page, flags=re.DOTALL)[1]  # type: ignore[index]


def charts(page: str) -> list[str]:
    """The titles of the curves of the training."""
    return re.findall(r'<svg [^>]*aria-label="([^:]*):', section(page, "training"))


def test_bits_per_byte_of_each_category_and_language_are_a_table(tmp_path: Path) -> None:
    groups = {"bits_per_byte/category/code": 4.0, "bits_per_byte/language/C++": 6.0}
    rows = [
        measured(0, bits_per_byte=8.0, **groups),
        measured(4, bits_per_byte=2.0, **{name: value / 4 for name, value in groups.items()}),
    ]
    page = section(page_of(make_run(tmp_path, [STARTED, rows[0], step(1, 104.0), rows[1]])), "training")
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page[page.index("by category and language") :])
    assert cells[5:9] == ["category", "code", "4.000", "1.000"]
    assert cells[10:14] == ["language", "C++", "6.000", "1.500"]


def test_a_run_on_tests_shows_rewards_passes_and_the_gap_as_curves(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, GRPO))
    shown = charts(page)
    for name in ("Reward", "KL divergence", "Length", "Ended answers", "Visible tests", "Hidden tests", "Gap"):
        assert name in shown, name
    for curve in HELD_OUT:
        assert curve.title in shown, curve.title
    text = Reader(page).text
    assert "share of the visible tests that an answer passes, mean over a rollout, from 0.1 to 0.4" in text
    assert "step 4: 0.24" in text
    assert GAP in text
    assert MISSING not in section(page, "training")


def test_the_key_figure_of_a_run_on_tests_is_what_nobody_was_rewarded_for(tmp_path: Path) -> None:
    text = Reader(page_of(make_run(tmp_path, GRPO))).text
    assert "Held-out answers that pass the hidden tests 12.5 % → 25.0 % before training, and at step 4" in text
    assert "Held-out bits per byte" not in text


def test_what_a_run_does_not_measure_is_no_empty_curve(tmp_path: Path) -> None:
    steps = [on_tests(number, hidden=False, kl=False) for number in (1, 2)]
    page = page_of(make_run(tmp_path, [STARTED, measured(0, score=0.5, passed=0.1), *steps]))
    assert "KL divergence" not in charts(page)
    assert "Gap" not in charts(page)
    text = Reader(page).text
    assert NO_HIDDEN_TESTS in text
    assert GAP not in text
    assert "Held-out answers that pass the tests 10.0 % measured once, at step 0" in text


def test_the_loss_of_a_run_with_contrastive_batches_is_shown_without_theirs(tmp_path: Path) -> None:
    steps = [step(n, 103.0 + n, **{"contrast/lm_loss": 0.25 * n}) for n in (1, 2)]
    text = Reader(page_of(make_run(tmp_path, [STARTED, *steps]))).text
    assert "nats per token, on the training text, from 0.25 to 0.5" in text


def test_a_run_with_a_reward_model_shows_no_tests(tmp_path: Path) -> None:
    steps = [step(n, 103.0 + n, **{REWARD: 0.5 * n, "objective/kl": 0.1, "objective/kl_coef": 0.05}) for n in (1, 2)]
    page = page_of(make_run(tmp_path, [STARTED, measured(0, score=-0.5, kl=0.0), *steps, measured(2, score=0.75)]))
    text = Reader(page).text
    assert "score of an answer by the reward model, mean over a rollout, from 0.5 to 1" in text
    assert "Weight of the KL penalty" in charts(page)
    assert "Held-out reward -0.500 → 0.750 before training, and at step 2" in text
    assert "hidden tests" not in text


def test_a_run_whose_answers_were_never_measured_says_so(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, [STARTED, on_tests(1)]))
    assert f"never trained on {MISSING}" in Reader(page).text
    assert f"Held-out reward {MISSING}" in Reader(page).text


def test_a_run_on_text_is_shown_as_before(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, EVENTS))
    assert charts(page) == ["Loss", "Held-out bits per byte", "Learning rate", "Gradient norm", "Speed"]


def test_a_prompt_of_several_lines_is_shown_once_above_its_answers(tmp_path: Path) -> None:
    samples = section(page_of(make_run(tmp_path, GRPO)), "samples")
    assert samples.count("assert add_7(1) == 8") == 1
    assert "\\n" not in samples
    assert f"<pre>{ANSWER}</pre>" in samples
    assert Reader(samples).text.index("assert add_7(1) == 8") < Reader(samples).text.index("step 0")


def test_problems_are_named_as_what_a_run_was_tuned_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, GRPO)
    before, last = run / "checkpoints" / "step-000002", run / "checkpoints" / "step-000004"
    with artifacts.create(run / "problems" / "a", kind="problems", config={}, inputs=[]) as draft:
        (draft.path / "problems.jsonl").write_text("{}\n")
        draft.counts |= {"kept": 1_234}
    made_from = {"data": artifacts.load(run / "problems" / "a"), "initial": artifacts.load(before)}
    inputs = [one.as_input(role, of=last) for role, one in made_from.items()]
    with artifacts.create(last, kind="checkpoint", config={}, inputs=inputs) as draft:
        (draft.path / "model.safetensors").write_bytes(bytes(100))
    assert "Tuned on 1,234 problems" in Reader(page_of(run)).text


@pytest.mark.parametrize("hidden", [0.5, float("nan")])
def test_the_curves_are_figures_that_the_trainers_log(hidden: float) -> None:
    from ibidem.training.rlhf.config import GrpoConfig
    from ibidem.training.rlhf.grpo_trainer import Grpo, passes
    from ibidem.training.rlhf.policy import figures_of
    from ibidem.training.rlhf.rollout import Answer, Rollout

    known = np.zeros(3, np.float32)
    answers = [Answer(0, np.arange(3, dtype=np.int32), known, True, score, hidden, known) for score in (0.0, 1.0)]
    config = {"initial": "a", "problems": "b", "output_dir": "c", "training": {"steps": 1}}
    config |= {"rollout": {"samples": 2}}
    trainer = Grpo(build(GrpoConfig, config), SimpleNamespace(reference=object()), [], None)  # type: ignore[arg-type]
    logged = trainer._signals(Rollout(0, answers)).figures.keys()
    is_of_hidden = {"objective/hidden_passed", "objective/gap", "hidden_passed", "gap"}
    unmeasured = is_of_hidden if np.isnan(hidden) else set()
    assert {curve.key for curve in SAMPLED} - {"objective/kl_coef"} - unmeasured <= logged
    assert not unmeasured & logged
    held_out = figures_of(answers) | passes(answers)
    assert {curve.key for curve in HELD_OUT} - unmeasured == held_out.keys()
    assert json.dumps(held_out)
