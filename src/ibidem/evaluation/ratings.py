"""People's ratings of responses, and how far the raters agree: `ibidem evaluate ratings`.

A rating counts if it names the exact model and prompts; a rater rates a response only once by the same criterion. In a
review of a grounding head (`ibidem ground review`) it names head, base and index instead, and says which of two
statements holds: a pair is good if people clearly say that it is the one which the head prefers.
A response is judged if two people have rated it, or a judge model that agrees with people wherever both have rated.
Raters are replaced by pseudonyms.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.config import settings
from ibidem.errors import DataError
from ibidem.evaluation import chat, evidence
from ibidem.evaluation.chat import digest_of, read_responses, read_table
from ibidem.evaluation.config import RatingsConfig
from ibidem.evaluation.task import Demand, Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import NOT_MEASURED, counted
from ibidem.grounding import review
from ibidem.jsonl import Row
from ibidem.rating_form import CRITERIA, FORM, REQUIRED, SealedTexts, check_texts, plain_row, sealed_texts
from ibidem.runs import newest
from ibidem.statistics import krippendorff_alpha
from ibidem.trackers import check

NAME = "ratings"
PEOPLE = 2
UNDECIDED = 0.5
REVIEWED = (review.HEAD, review.INDEX)
"""Roles of what a review is of; responses have none."""
MODEL, HUMAN = "model", "human"


class Rating(NamedTuple):
    """One score of one rater."""

    id: str
    criterion: str
    rater: str
    kind: str
    score: float


class Sealed(NamedTuple):
    """What ratings are compared with: the sealed responses."""

    model: str
    """Digest of the model; of a review, of head, base and index."""
    prompts: str
    """Digest of the prompts."""
    criteria: Mapping[str, Sequence[str] | None]
    """By id, what the response is rated by; None for any criterion."""
    texts: SealedTexts


def ratings(config: RatingsConfig) -> str:
    """Import ratings, and return the figures as a line.

    Raises:
        ConfigError: a tracker is not installed.
        DataError: a rating is of another model, of other prompts, of an unknown response, out of range or a duplicate.
    """
    check(config.trackers)
    responses, rows, order = _read_sealed(config.responses)
    sealed = Sealed(
        review.bound(responses) if order else digest_of(responses, "checkpoint"),
        digest_of(responses, "prompts"),
        {str(row["id"]): row.get("criteria") for row in rows},
        sealed_texts(_read_form(responses.path / FORM)),
    )
    all_ratings, num_unrated = read_ratings(config, sealed)
    trusted = trusted_judges(all_ratings, config.least_agreement, config.least_calibration)
    due = criteria_due(rows, all_ratings)
    items = [
        item(str(row["id"]), criterion, all_ratings, trusted, config.good_from, order.get(str(row["id"])))
        for criterion in sorted({rating.criterion for rating in all_ratings})
        for row in rows
        if criterion in due[str(row["id"])]
    ]
    judges = {rating.rater for rating in all_ratings if rating.kind == MODEL}
    evidence.write(
        config.output_dir,
        NAME,
        config=settings(config) | {role: responses.digest_of(role) for role in REVIEWED},
        inputs=[
            responses.as_input("responses", of=config.output_dir),
            _checkpoint(responses, config.output_dir),
            next(each for each in responses.inputs if each.role == "prompts"),
        ],
        items=items,
        metrics=measure(items),
        notes={
            "raters": len({rating.rater for rating in all_ratings if rating.kind == HUMAN}),
            "judges_refused": sorted(judges - trusted),
        },
        trials=_trials,
    )
    evaluation = evidence.read(config.output_dir)
    track(evaluation, config.trackers)
    results = evaluation.results
    names = [key for key in results if key.startswith(("good.", "alpha.", "unrated."))]
    skipped = f"{counted(num_unrated, 'row')} without a score skipped; " if num_unrated else ""
    if results["raters"] < PEOPLE:
        people = counted(results["raters"], "person", "people")
        skipped += f"rated by {people}, while a response counts only if {PEOPLE} have rated it; "
    return f"ratings: {', '.join(f'{name} {_shown(results[name])}' for name in names)}; {skipped}{config.output_dir}"


def _read_sealed(folder: Path) -> tuple[Artifact, list[Row], dict[str, int]]:
    """Return what people rate: responses, or the pairs of a review and which statement of each the head prefers."""
    if artifacts.load(folder).kind != review.KIND:
        return *read_responses(folder), {}
    sealed, rows = review.read_review(folder)
    return sealed, rows, review.read_order(sealed)


def criteria_due(rows: Sequence[Row], all_ratings: Sequence[Rating]) -> dict[str, set[str]]:
    """Return by which criteria each response has to be rated: its own; or those of the form, and whatever any response
    without criteria of its own was rated by.
    """
    open_ids = {str(row["id"]) for row in rows if not row.get("criteria")}
    of_open = {*CRITERIA, *(rating.criterion for rating in all_ratings if rating.id in open_ids)}
    return {str(row["id"]): set(row.get("criteria") or of_open) for row in rows}


def read_ratings(config: RatingsConfig, sealed: Sealed) -> tuple[list[Rating], int]:
    """Read and check the ratings, with pseudonyms for the raters' names.

    Returns:
        The ratings, and the number of rows that have no score.

    Raises:
        DataError: a rating is not of the sealed responses, or no row has a score.
    """
    ratings_by_key: dict[tuple[str, str, str], Rating] = {}
    pseudonyms: dict[tuple[str, str], str] = {}
    num_unrated = 0
    for path in config.ratings:
        for number, row in enumerate(_read_form(path), 2):  # as a spreadsheet counts: the first has the names
            where = f"ratings {path}: row {number}"
            if "score" in row and not str("" if row["score"] is None else row["score"]).strip():
                num_unrated += 1
                continue
            rating = _rating(row, sealed, where)
            named = (rating.kind, rating.rater.strip().lower())
            rating = rating._replace(rater=pseudonyms.setdefault(named, f"{rating.kind}-{len(pseudonyms) + 1}"))
            if (key := rating[:3]) in ratings_by_key:
                raise DataError(f"{where}: the same rater has already rated {rating.id!r} by {rating.criterion!r}")
            ratings_by_key[key] = rating
    if not ratings_by_key:
        raise DataError(f"ratings {config.ratings[0]}: the form has not been filled in")
    return list(ratings_by_key.values()), num_unrated


def _read_form(path: Path) -> Sequence[Row]:
    rows = read_table(path, "ratings")
    return [plain_row(row) for row in rows] if path.suffix.lower() == ".csv" else rows


def _rating(row: Row, sealed: Sealed, where: str) -> Rating:
    if missing := [name for name in REQUIRED if row.get(name) in (None, "")]:
        raise DataError(f"{where} lacks {missing[0]}")
    if row["model_digest"] != sealed.model:
        raise DataError(f"{where} is of another model or head: {row['model_digest']}, not of {sealed.model}")
    if row["prompts_digest"] != sealed.prompts:
        raise DataError(f"{where} is of other prompts: {row['prompts_digest']}, not {sealed.prompts}")
    if str(row["id"]) not in sealed.criteria:
        raise DataError(f"{where}: there is no response {row['id']!r}")
    if (due := sealed.criteria[str(row["id"])]) and str(row["criterion"]).strip() not in due:
        raise DataError(f"{where}: {row['id']} is not rated by {row['criterion']!r}, but by {', '.join(due)}")
    check_texts(row, sealed.texts, where)
    kind = str(row.get("rater_kind") or HUMAN)
    if kind not in {HUMAN, MODEL}:
        raise DataError(f"{where}: rater_kind must be {HUMAN} or {MODEL}, not {kind!r}")
    criterion, rater = str(row["criterion"]).strip(), str(row["rater"])
    return Rating(str(row["id"]), criterion, rater, kind, _score(row["score"], where))


def trusted_judges(given: Sequence[Rating], least_agreement: float, least_calibration: int) -> set[str]:
    """Return the judge models that agree with people on every criterion that they rate."""
    people: dict[tuple[str, str], list[float]] = defaultdict(list)
    for rating in given:
        if rating.kind == HUMAN:
            people[rating.id, rating.criterion].append(rating.score)
    trusted = set()
    for judge in {rating.rater for rating in given if rating.kind == MODEL}:
        pairs: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for rating in given:
            if rating.rater == judge:
                scores = people.get((rating.id, rating.criterion))
                pairs[rating.criterion] |= {rating.id: [rating.score, sum(scores) / len(scores)]} if scores else {}
        alphas = [krippendorff_alpha(rated, "interval") for rated in pairs.values()]
        enough = all(len(rated) >= least_calibration for rated in pairs.values())
        if enough and all(alpha is not None and alpha >= least_agreement for alpha in alphas):
            trusted.add(judge)
    return trusted


def item(
    key: str, criterion: str, given: Sequence[Rating], trusted: set[str], good_from: float, preferred: int | None = None
) -> dict[str, Any]:
    """Judge one response by one criterion; `good` is None where too few have rated it.

    Args:
        key: the id of the response.
        criterion: the criterion.
        given: all ratings.
        trusted: judge models that count.
        good_from: see `is_good`.
        preferred: see `is_good`.
    """
    mine = [rating for rating in given if rating.id == key and rating.criterion == criterion]
    people = {rating.rater: rating.score for rating in mine if rating.kind == HUMAN}
    judges = {rating.rater: rating.score for rating in mine if rating.rater in trusted}
    good = is_good(people, judges, good_from, preferred)
    about = {} if preferred is None else {"preferred": preferred}
    return {"id": key, "criterion": criterion, "good": good, "people": people, "judges": judges, **about}


def is_good(
    people: Mapping[str, float], judges: Mapping[str, float], good_from: float, preferred: int | None = None
) -> bool | None:
    """Decide by two or more people, otherwise by trusted judge models; None if there are neither.

    Args:
        people: scores by rater.
        judges: scores by trusted judge model.
        good_from: the mean from which on a response is good.
        preferred: of a pair, the statement that the head prefers: 1, 2, or 0 for neither. The scores say whether the
            first one holds; where they are undecided, the head is not right.

    >>> scores = {"ann": 0.0, "bob": 0.0}
    >>> [is_good(scores, {}, 0.5, preferred) for preferred in (None, 1, 2, 0)]
    [False, False, True, False]
    """
    average = evidence.mean(list((people if len(people) >= PEOPLE else judges).values()))
    if average is None:
        return None
    if preferred is None:
        return average >= good_from
    agreed = {1: average, 2: 1 - average}.get(preferred, 0.0)
    return agreed > UNDECIDED and agreed >= good_from


def measure(items: Sequence[Row]) -> evidence.Metrics:
    """Compute by criterion the share of good responses, people's agreement, and how many responses lack ratings."""
    metrics: evidence.Metrics = {}
    for criterion in dict.fromkeys(each["criterion"] for each in items):
        mine = [each for each in items if each["criterion"] == criterion]
        judged = [float(each["good"]) for each in mine if each["good"] is not None]
        people = {each["id"]: list(each["people"].values()) for each in mine}
        metrics[f"good.{criterion}"] = evidence.mean(judged)
        metrics[f"alpha.{criterion}"] = krippendorff_alpha(people, "ordinal")
        metrics[f"unrated.{criterion}"] = len(mine) - len(judged)
    return metrics


def _checkpoint(responses: Artifact, output_dir: Path) -> Input:
    """Return the checkpoint of the responses as an input, its path relative to the result."""
    checkpoint = next(each for each in responses.inputs if each.role == "checkpoint")
    if not checkpoint.is_artifact:
        return checkpoint
    place = Path(os.path.normpath(responses.path.resolve() / checkpoint.name))
    return replace(checkpoint, name=os.path.relpath(place, output_dir.resolve()))


def _score(value: object, where: str) -> float:
    try:
        score = float(re.sub(r"^\s*(\d*),(\d+)\s*$", r"\1.\2", str(value)))
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise DataError(f"{where}: score {value!r} is not between 0 and 1")
    return score


def _shown(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    kind, _, criterion = metric.partition(".")
    rated = {item["id"]: item["good"] for item in items if item["criterion"] == criterion}
    return {key: float(good) for key, good in rated.items() if good is not None} if kind == "good" and rated else None


def _doubt(evaluation: evidence.Evidence, demand: Demand) -> str | None:
    """Require ratings of every response, and raters who agree."""
    kind = demand.metric.partition(".")[2]
    metrics = measure(evaluation.items)
    if unrated := metrics.get(f"unrated.{kind}"):
        return f"ratings by two people are missing for {counted(int(unrated), 'response')}"
    alpha = metrics.get(f"alpha.{kind}")
    if alpha is None:
        return "all ratings are the same, so their agreement means nothing: add responses that are known to be bad"
    if alpha < demand.least_agreement:
        return f"the raters' agreement (Krippendorff's alpha) is {alpha:.3f}; {demand.least_agreement:g} is required"
    return None


def _differs(evaluation: evidence.Evidence, asked: Sequence[Row], _settings: Settings) -> str | None:
    """Require an item for every prompt that is to be rated by a criterion; a review draws some of the questions."""
    is_review = evaluation.artifact.config[review.HEAD] is not None
    if is_review and not all("preferred" in item for item in evaluation.items):
        return "it does not say which statements the head prefers"
    for criterion in sorted({item["criterion"] for item in evaluation.items}):
        due = {row["id"] for row in asked if criterion in (row["criteria"] or (criterion,))}
        rated = {item["id"] for item in evaluation.items if item["criterion"] == criterion}
        if other := sorted(rated - due if is_review else due ^ rated):
            return f"the response {other[0]} has no ratings by {criterion}, or is not in the benchmark"
    return None


TASK = Task(
    name=NAME,
    key=("id", "criterion"),
    measure=lambda evaluation: measure(evaluation.items),
    trials=_trials,
    benchmark=lambda file: chat.prompt_rows(Path(file)),
    asks=lambda row: row["turns"],
    settings=defaults(RatingsConfig, "good_from", "least_agreement", "least_calibration") | dict.fromkeys(REVIEWED),
    digests=dict.fromkeys(REVIEWED, lambda place: artifacts.load(newest(Path(place))).digest),
    differs=_differs,
    follows=lambda item, config: (
        item["good"] is is_good(item["people"], item["judges"], config["good_from"], item.get("preferred"))
    ),
    doubt=_doubt,
)
