"""The report's section about a training: its curves, what they mean, and its settings."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ibidem.config import flattened
from ibidem.figures import percent
from ibidem.page import Html, Point, join, line_chart, share, table, tag
from ibidem.serving.run_history import Run

Event = Literal["train.step", "train.measured"]
REWARD = "objective/scores"
"""What every training on sampled answers logs, and no other."""


class Curve(NamedTuple):
    """A figure over steps."""

    title: str
    unit: str
    key: str


BITS = Curve("Held-out bits per byte", "never trained on; lower is better", "bits_per_byte")
SCORE = Curve("Held-out reward", "mean score of an answer", "score")
KEY_FIGURES = (
    BITS,
    Curve("Held-out answers that pass the hidden tests", "share that pass all", "hidden_passed"),
    Curve("Held-out answers that pass the tests", "share that pass all", "passed"),
    Curve("Held-out accuracy", "share of pairs whose chosen answer is preferred", "accuracy"),
    SCORE,
)
"""What says most about a run: the first of these that it measured."""
SHARES = {"hidden_passed", "passed", "accuracy"}

LOSS = Curve("Loss", "nats per token, on the training text", "loss")
LM_LOSS = LOSS._replace(key="contrast/lm_loss")
"""The same with contrastive batches, whose loss the other one includes."""
SETTING = (
    Curve("Learning rate", "", "lr"),
    Curve("Gradient norm", "before clipping", "grad_norm"),
    Curve("Speed", "tokens per second", "tokens_per_s"),
)
SAMPLED = (
    Curve("KL divergence", "from the initial checkpoint, nats per answer", "objective/kl"),
    Curve("Length", "tokens per answer", "val/length"),
    Curve("Ended answers", "their number in a rollout", "val/num_eos_tokens"),
    Curve("Visible tests", "share of answers that pass all", "objective/passed"),
    Curve("Hidden tests", "share of answers that pass all", "objective/hidden_passed"),
    Curve("Gap", "visible minus hidden", "objective/gap"),
    Curve("Contrast", "share of problems whose answers earn different rewards", "objective/contrast"),
    Curve("Weight of the KL penalty", "", "objective/kl_coef"),
)
HELD_OUT = (
    SCORE,
    Curve("Held-out KL divergence", "nats per answer", "kl"),
    Curve("Held-out length", "tokens per answer", "length"),
    Curve("Held-out ended answers", "share", "ended"),
    Curve("Held-out visible tests", "share of answers that pass all", "passed"),
    Curve("Held-out hidden tests", "share of answers that pass all", "hidden_passed"),
    Curve("Held-out gap", "visible minus hidden", "gap"),
)
GAP = (
    "The gap is the share of answers that pass all visible tests minus the share that pass all hidden tests, which are "
    "never shown and never rewarded: where it grows, the policy learns the tests and not the task."
)
NO_HIDDEN_TESTS = "No problem has hidden tests, so nothing here tells whether the policy learns the tests or the task."


def training(run: Run) -> Html:
    """Show the curves, the problems of the run, and the settings."""
    history = run.history
    notes: list[Html] = [join("Sessions of training, resumes included: ", history.sessions, ".")]
    notes += [join("Refused at step ", row.get("step"), ": ", row.get("reason"), ".") for row in history.refused]
    notes += [join("Torn lines of events.jsonl, left out: ", run.torn, ".")] if run.torn else []
    settings = [(key, "none" if value is None else value) for key, value in flattened(run.checkpoint.config).items()]
    return join(
        _of_answers(run) if is_on_answers(run) else _of_text(run),
        *(tag("p", note, cls="note") for note in notes),
        tag("details", tag("summary", "All settings", cls="note"), table(("Setting", "Value"), settings)),
    )


def key_figure(run: Run) -> tuple[str, str | None, str]:
    """Return what says most about a run: its name, its first and last value, and a remark."""
    curve = _key(run)
    points = run.history.curve("train.measured", curve.key)
    if not points:
        return curve.title, None, ""
    (_, first), (step, last) = points[0], points[-1]
    shown = (percent(value, digits=1) if curve.key in SHARES else f"{value:.3f}" for value in (first, last))
    if len(points) == 1:
        return curve.title, next(shown), f"measured once, at step {step:,}"
    remark = f"{share(last, first)} of the first" if curve is BITS else f"before training, and at step {step:,}"
    return curve.title, " → ".join(shown), remark


def is_on_answers(run: Run) -> bool:
    """Return whether a run learned from answers that it sampled: PPO, GRPO."""
    return bool(run.history.curve("train.step", REWARD))


def _key(run: Run) -> Curve:
    measured = (curve for curve in KEY_FIGURES if run.history.curve("train.measured", curve.key))
    return next(measured, SCORE if is_on_answers(run) else BITS)


def _of_text(run: Run) -> Html:
    """Show the curves of a training on text or pairs."""
    key = _key(run)
    loss = next(iter(_measured(run, "train.step", (LM_LOSS,))), LOSS)
    return join(
        _chart(run, "train.step", loss, wide=True),
        _chart(run, "train.measured", key, wide=True),
        _charts(run, "train.step", SETTING),
        *(tag("p", note, cls="note") for note in (_guessing(run) if key is BITS else ())),
        *_groups(run),
    )


def _groups(run: Run) -> list[Html]:
    """Show what was measured for each category and language, before training and at last."""
    rows = []
    for key in run.history.keys("train.measured"):
        _, _, group = key.partition(f"{BITS.key}/")
        if group and (points := run.history.curve("train.measured", key)):
            aspect, _, name = group.partition("/")
            (_, first), (_, last) = points[0], points[-1]
            rows.append((aspect, name, f"{first:.3f}", f"{last:.3f}", share(last, first)))
    if not rows:
        return []
    head = ("Group by", "Group", "First", "Last", "Of the first")
    return [tag("h3", "Held-out bits per byte by category and language"), table(head, rows)]


def _of_answers(run: Run) -> Html:
    """Show the curves of a training on sampled answers; those that it did not measure are left out."""
    history = run.history
    is_tested, has_hidden = (bool(history.curve("train.step", f"objective/{key}")) for key in ("passed", "gap"))
    unit = "share of the visible tests that an answer passes" if is_tested else "score of an answer by the reward model"
    held_out = _measured(run, "train.measured", HELD_OUT)
    return join(
        _chart(run, "train.step", Curve("Reward", f"{unit}, mean over a rollout", REWARD), wide=True),
        _charts(run, "train.step", _measured(run, "train.step", SAMPLED)),
        *([tag("p", GAP if has_hidden else NO_HIDDEN_TESTS, cls="note")] if is_tested else []),
        tag("h3", "On held-out prompts, never trained on"),
        _charts(run, "train.measured", held_out) if held_out else tag("p", None),
        tag("h3", "Optimization"),
        _charts(run, "train.step", (LOSS._replace(unit="its size says little: see the reward"), *SETTING)),
    )


def _measured(run: Run, event: Event, curves: Iterable[Curve]) -> list[Curve]:
    return [curve for curve in curves if run.history.curve(event, curve.key)]


def _charts(run: Run, event: Event, curves: Iterable[Curve]) -> Html:
    return tag("div", *(_chart(run, event, curve) for curve in curves), cls="thirds")


def _chart(run: Run, event: Event, curve: Curve, *, wide: bool = False) -> Html:
    points: list[Point] = run.history.curve(event, curve.key)
    return line_chart(curve.title, curve.unit, points, wide=wide, marked=event == "train.measured")


def _guessing(run: Run) -> list[Html]:
    vocab_size = run.checkpoint.config.get("model", {}).get("vocab_size")
    if not isinstance(vocab_size, int) or vocab_size < 1:
        return []
    guess = f"A model that guesses has a loss of {math.log(vocab_size):.2f} nats: ln {vocab_size:,}. "
    return [join(guess, "A bit per byte is the loss in bits, spread over the bytes of the text; 8 is to know nothing.")]
