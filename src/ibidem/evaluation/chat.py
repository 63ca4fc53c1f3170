"""Responses to scripted support scenarios and red-team prompts, for people to rate: `ibidem evaluate chat`.

The folder contains `responses.jsonl`, and `ratings.csv`, a form with a line for every response and criterion: each
rater fills in a copy, and `ibidem evaluate ratings` reads the copies. `ratings.html` shows the same for reading. The
form names the model and the prompts by digest, so ratings cannot be attributed to another model. A response is the
plain text of the assistant's turn.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibidem import artifacts, jsonl, log, rating_form
from ibidem.artifacts import Input
from ibidem.config import settings
from ibidem.conversation import Conversation, Turn
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence, resume
from ibidem.evaluation.config import ChatConfig, ResponseConfig
from ibidem.figures import counted
from ibidem.inference import models
from ibidem.inference.chat import PROMPT_FORMAT
from ibidem.inference.model_id import identify
from ibidem.jsonl import Row
from ibidem.modeling.generate import Sampling
from ibidem.rating_form import CRITERIA, FORM, PAGE

KIND = "responses"
RESPONSES = "responses.jsonl"


@dataclass(frozen=True)
class Prompt:
    """What a user says, in one or more turns."""

    id: str
    turns: tuple[str, ...]
    more: Mapping[str, Any]
    """Other columns: the label of a red-team prompt, the criteria of a scenario."""


def chat(config: ChatConfig) -> str:
    """Generate the model's responses and seal them.

    Raises:
        DataError: a row is not a prompt.
    """
    everything = read_prompts(config.prompts)
    prompts, limited = everything[: config.limit], evidence.part(config.limit, len(everything))
    model_id, asked = identify(config.checkpoint), benchmark(config.prompts)
    inputs = [model_id.as_input(of=config.output_dir), asked]
    chosen = {key: value for key, value in settings(config).items() if key != "batch"}
    chosen |= {"limit": limited.get("limit"), "prompt_format": PROMPT_FORMAT}
    if not resume.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs):
        model = models.open_model(model_id.path, model_id.digest)
        with artifacts.create(config.output_dir, kind=KIND, config=chosen, inputs=inputs) as draft:
            rows = respond(model, prompts, config)
            (draft.path / RESPONSES).write_text(jsonl.dumps(rows), encoding="utf-8")
            form = rating_form.form(rows, config.criteria, model_id.digest, asked.digest)
            (draft.path / FORM).write_text(form, encoding="utf-8", newline="")
            (draft.path / PAGE).write_text(rating_form.page(rows, config.criteria), encoding="utf-8")
            draft.counts, draft.mark = {"responses": len(rows)}, resume.mark
    of = f" (to {evidence.extent(limited, len(prompts), 'prompt')})" if limited else ""
    return (
        f"{config.output_dir}: {counted(len(prompts), 'response')}{of}; have at least two people read {PAGE} "
        f"and fill in copies of {FORM}"
    )


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from JSON lines or CSV.

    Raises:
        DataError: a row is not a prompt, or an id appears twice.
    """
    prompts: dict[str, Prompt] = {}
    for number, row in enumerate(read_table(path, "prompts"), 1):
        turns = row.get("turns", row.get("prompt", row.get("question")))
        turns = [turns] if isinstance(turns, str) else turns
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
            raise DataError(f"prompts {path}: row {number} needs prompt, turns or question")
        key = str(row.get("id", number))
        if key in prompts:
            raise DataError(f"prompts {path}: row {number}: id {key!r} appears twice")
        more = {name: value for name, value in row.items() if name not in {"id", "turns", "prompt", "responses"}}
        if "criteria" in more:
            more["criteria"] = _criteria(more["criteria"], f"prompts {path}: row {number}")
        prompts[key] = Prompt(key, tuple(turns), more)
    return list(prompts.values())


def _criteria(value: object, where: str) -> list[str]:
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: criteria must be a list of words, such as {' '.join(CRITERIA)}")
    return names


def read_table(path: Path, what: str) -> list[Row]:
    """Read rows from JSON lines, or from CSV with a header line as spreadsheets write it; empty rows are left out.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    if path.suffix.lower() != ".csv":
        return jsonl.read(path, what)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            rows = [dict(row) for row in csv.DictReader(file, delimiter=_delimiter(head), strict=True)]
    except UnicodeDecodeError:
        raise DataError(f"{what} {path}: cannot be read: it is not UTF-8; save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{what} {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    filled = [row for row in rows if any("".join(cell or ()).strip() for cell in row.values())]
    if not filled:
        raise DataError(f"{what} {path}: the file is empty")
    if any(None in row or None in row.values() for row in filled):
        raise DataError(f"{what} {path}: a row has more or fewer cells than there are columns")
    return list(filled)


def _delimiter(head: str) -> str:
    r"""Return the separator of the header line; spreadsheets of some languages write semicolons.

    >>> _delimiter("id;prompt"), _delimiter("id\tprompt"), _delimiter('id,"a;b",prompt')
    (';', '\t', ',')
    """
    return max(",;\t", key=lambda separator: len(next(csv.reader([head], delimiter=separator), ())))


def benchmark(path: Path) -> Input:
    """Return the prompts as an input; the digest covers what they say, not their order or format."""
    return evidence.benchmark_input(prompt_rows(path), path.name, role="prompts")


def prompt_rows(path: Path) -> list[Row]:
    """Read prompts as JSON rows, sorted by id."""
    prompts = sorted(read_prompts(path), key=lambda prompt: prompt.id)
    return [{"id": each.id, "turns": list(each.turns), "criteria": each.more.get("criteria")} for each in prompts]


def respond(model: models.LanguageModel, prompts: Sequence[Prompt], config: ResponseConfig) -> list[dict[str, Any]]:
    """Respond turn by turn, each time to the whole conversation so far.

    Raises:
        ConfigError: a turn of the user does not fit into the model's context; nothing has been generated then.
    """
    model.check_fit([(Turn.of("user", turn),) for prompt in prompts for turn in prompt.turns], config.max_tokens)
    talks: dict[str, Conversation] = {prompt.id: () for prompt in prompts}
    total = sum(len(prompt.turns) for prompt in prompts)
    done = 0
    with log.progress("respond", total, "turns") as bar:
        for turn in range(max(len(prompt.turns) for prompt in prompts)):
            left = [prompt for prompt in prompts if turn < len(prompt.turns)]
            for start in range(0, len(left), config.batch):
                batch = left[start : start + config.batch]
                for prompt in batch:
                    talks[prompt.id] += (Turn.of("user", prompt.turns[turn]),)
                sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed, first=done)
                answers = model.respond([talks[prompt.id] for prompt in batch], sampling)
                for prompt, answer in zip(batch, answers, strict=True):
                    talks[prompt.id] += (answer,)
                done += len(batch)
                bar.advance(len(batch))
    return [
        {**each.more, "id": each.id, "turns": list(each.turns), "responses": _responses(talks[each.id])}
        for each in prompts
    ]


def _responses(talk: Conversation) -> list[str]:
    return [turn.text.strip() for turn in talk if turn.role == "assistant"]


def read_responses(folder: Path) -> tuple[artifacts.Artifact, list[Row]]:
    """Read sealed responses.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    artifact = artifacts.verify(folder, kind=KIND)
    return artifact, jsonl.read(folder / RESPONSES, "responses")


def digest_of(artifact: artifacts.Artifact, role: str) -> str:
    """Return the digest of the model or of the prompts.

    Raises:
        ConfigError: there is no input with this role.
    """
    digest = artifact.digest_of(role)
    if digest is None:
        raise ConfigError(f"{artifact.path}: it names no {role}")
    return digest
