"""The review of a grounding head, in the browser: which of two statements does the passage support?

    GET /review            the forms that hold something for the caller to rate, and how far they are
    GET /review/1          the first pair of form 1 that the caller may read and has not rated
    POST /review/1         1, 0, or 0.5 for both or neither: saved at once, then the next pair

A caller sees the pairs whose passage they may read, counts the others in no figure, and each passage that is shown is
recorded. Which statement the head prefers is in a file that no page opens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ibidem.errors import AccessDenied, IbidemError
from ibidem.figures import counted
from ibidem.grounding import review
from ibidem.grounding.store import Chunk
from ibidem.jsonl import Row
from ibidem.page import Html, join, tag
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.pages import layout
from ibidem.serving.server.pages.passages import as_written, source_line
from ibidem.serving.server.pages.ratings import Bound, RatingFiles
from ibidem.serving.server.service import Documents, Service

FOLDER = "ratings"
"""Below the folder of the server's state."""
CHOICES = {"1": "Statement 1", "0": "Statement 2", "0.5": "Both, or neither"}
"""What a rater says, by the score that stands for it."""
QUESTION = "Which statement does the passage support? What you know otherwise does not count."
NOTHING = "There is nothing here for you to rate."
"""What is said of a form that does not exist, and of one of which the caller may read nothing."""


@dataclass(frozen=True)
class Form:
    """What a caller rates of a form."""

    number: int
    name: str
    of: Bound
    pairs: Mapping[str, Row]
    """By a short name for addresses."""
    scores: Mapping[str, str]
    """What the caller said, by the same names."""

    def next(self) -> str | None:
        """Return the first pair without a score."""
        return next((name for name in self.pairs if name not in self.scores), None)


def routes(service: Service) -> list[Route]:
    """Return the routes of the review."""
    files = RatingFiles(service.state / FOLDER)

    async def overview(request: Request) -> Response:
        numbers = range(1, len(service.reviews) + 1)
        forms = [await _form(service, files, number, request.state.caller.principal) for number in numbers]
        rows = [_listed(form) for form in forms if form.pairs]
        body = tag("ul", *rows, cls="forms") if rows else tag("p", NOTHING)
        return layout.page(request, service, "Review", tag("article", tag("h1", "Review"), body, cls="reading"))

    async def pair(request: Request) -> Response:
        principal = request.state.caller.principal
        form = await _opened(service, files, request)
        name = request.query_params.get("pair") or form.next()
        if name is None:
            return layout.page(request, service, "Review", *_finished(form, request))
        if name not in form.pairs:
            raise ApiError(404, NOTHING)
        chunk = await _documents(service).show(form.pairs[name]["chunk"], principal)
        return layout.page(request, service, "Review", *_shown(form, name, chunk, request.query_params.get("last", "")))

    async def rate(request: Request) -> Response:
        form = await _opened(service, files, request)
        name, score = request.query_params.get("pair", ""), (await layout.fields_of(request)).get("score")
        if name not in form.pairs:
            raise ApiError(404, NOTHING)
        if score not in CHOICES:
            raise ApiError(400, f"score: {', '.join(CHOICES)} are the choices")
        pair_id, principal = str(form.pairs[name]["id"]), request.state.caller.principal
        await run_in_threadpool(files.save, form.of, principal, pair_id, score)
        return RedirectResponse(f"/review/{form.number}?last={name}", 303)

    return [
        Route("/review", layout.explained(service, overview)),
        Route("/review/{number}", layout.explained(service, pair)),
        Route("/review/{number}", layout.explained(service, rate), methods=["POST"]),
    ]


async def _opened(service: Service, files: RatingFiles, request: Request) -> Form:
    """Return the form of a request; one that holds nothing for the caller is treated as none."""
    number = layout.number_of(request.path_params["number"])
    if number is None or not 1 <= number <= len(service.reviews):
        raise ApiError(404, NOTHING)
    form = await _form(service, files, number, request.state.caller.principal)
    if not form.pairs:
        raise ApiError(404, NOTHING)
    return form


async def _form(service: Service, files: RatingFiles, number: int, principal: str) -> Form:
    folder = service.reviews[number - 1]
    of, rows = await run_in_threadpool(_read, folder)
    readable = await _documents(service).readable([row["chunk"] for row in rows], principal)
    pairs = {_name(row): row for row in rows if row["chunk"] in readable}
    scores = await run_in_threadpool(files.scores, of, principal)
    said = {name: scores[row["id"]] for name, row in pairs.items() if row["id"] in scores}
    return Form(number, folder.name, of, pairs, said)


def _read(folder: Path) -> tuple[Bound, Sequence[Row]]:
    try:
        sealed, rows = review.read_review(folder)
    except IbidemError:
        raise ApiError(503, "A form cannot be read; tell the server's owner.") from None
    return Bound(sealed.digest, review.bound(sealed), sealed.digest_of(review.PROMPTS) or ""), rows


def _documents(service: Service) -> Documents:
    if service.documents is None:
        raise AccessDenied(NOTHING)
    return service.documents


def _name(row: Row) -> str:
    return hashlib.sha256(str(row["id"]).encode()).hexdigest()[:16]


def _listed(form: Form) -> Html:
    due = len(form.pairs) - len(form.scores)
    verb = "Look again" if not due else "Continue" if form.scores else "Begin"
    link = tag("a", f"{verb}", tag("span", f" {form.name}", cls="unseen"), href=f"/review/{form.number}", cls="main")
    return tag("li", tag("div", tag("h2", form.name), _progress(form)), link)


def _progress(form: Form) -> Html:
    said = f"{len(form.scores):,} of {counted(len(form.pairs), 'pair')} rated"
    bar = tag("progress", value=len(form.scores), max=len(form.pairs), **{"aria-label": said})
    return tag("div", bar, tag("span", said, cls="note"), cls="progress")


def _shown(form: Form, name: str, chunk: Chunk, last: str) -> list[Html]:
    question, statements = review.shown(form.pairs[name])
    said = form.scores.get(name)
    source = tag(
        "section", tag("h2", "Passage"), _titles(chunk), source_line(chunk), _text(as_written(chunk.text), "source")
    )
    both = _button("0.5", CHOICES["0.5"], said)
    cards = [
        tag(
            "div",
            tag("h2", CHOICES[score]),
            _text(text, "statement"),
            _button(score, f"Choose {CHOICES[score].lower()}", said),
        )
        for score, text in zip(("1", "0"), statements, strict=True)
    ]
    choice = tag("form", tag("div", *cards, cls="cards"), both, **_posted(form, name))
    undo = _undo(form, last) if last in form.scores else ""
    asked = tag("p", question, cls="question", dir="auto")
    head = (_heading(form), asked, tag("p", QUESTION, cls="note"))
    return [tag("article", *head, source, choice, undo, cls="pair")]


def _posted(form: Form, name: str) -> dict[str, str]:
    return {"method": "post", "action": f"/review/{form.number}?pair={name}"}


def _button(score: str, words: str, said: str | None) -> Html:
    chosen = said == score
    mark = " (your answer)" if chosen else ""
    return tag("button", words, mark, name="score", value=score, cls="chosen choice" if chosen else "choice")


def _undo(form: Form, last: str) -> Html:
    before = f"Saved: {CHOICES[form.scores[last]]}. "
    return tag("p", before, tag("a", "Change it", href=f"/review/{form.number}?pair={last}"), cls="note", role="status")


def _finished(form: Form, request: Request) -> list[Html]:
    last = request.query_params.get("last", "")
    links = [
        tag("li", tag("a", review.shown(row)[0], href=f"/review/{form.number}?pair={name}"), f": {CHOICES[said]}")
        for name, row in form.pairs.items()
        if (said := form.scores.get(name)) in CHOICES
    ]
    undo = _undo(form, last) if last in form.scores else ""
    thanks = tag("p", "You have rated everything. Thank you.")
    return [tag("article", _heading(form), thanks, undo, tag("ol", *links, cls="rated"), cls="pair")]


def _heading(form: Form) -> Html:
    return join(tag("h1", form.name), _progress(form))


def _titles(chunk: Chunk) -> Html:
    return tag("p", " › ".join(chunk.title), cls="titles") if chunk.title else join()


def _text(text: str, cls: str) -> Html:
    return tag("div", text, cls=cls, dir="auto")
