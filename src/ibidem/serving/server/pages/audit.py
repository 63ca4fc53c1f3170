"""The audit log, for administrators: its events, whether it is consistent, and proofs.

    GET /audit?kind=query&before=900      events, the latest first
    POST /audit                           the whole tree read again, and held against the head that was signed last
    GET /audit/899                        an event, and the hashes that lead from it to the root as it is now
    POST /audit/899                       a signed proof, which `ibidem audit verify --proof` checks without the log

The log holds keyed hashes instead of texts, and so do these pages.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ibidem.errors import AuditError, IbidemError
from ibidem.figures import counted
from ibidem.grounding.audit import commands, log, merkle
from ibidem.grounding.audit.head import base64_of
from ibidem.grounding.config import AuditProveConfig
from ibidem.page import Html, join, tag
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.pages import layout
from ibidem.serving.server.service import Service
from ibidem.signatures import state_folder

T = TypeVar("T")

PER_PAGE = 50
KINDS: tuple[str, ...] = get_args(log.Kind)
HASH_CHARS = 8
"""A longer value is shortened, and whole in its title."""
ADMINISTRATORS = "The audit log is for administrators; a token becomes one with ibidem token create --admin."


class Listed(NamedTuple):
    """A page of events."""

    events: Sequence[Mapping[str, Any]]
    size: int
    """Number of events of the log."""
    is_last: bool


class Included(NamedTuple):
    """An event, and why it is in the log."""

    event: Mapping[str, Any]
    size: int
    root: bytes
    hashes: Sequence[bytes]


def routes(service: Service) -> list[Route]:
    """Return the routes of the audit."""

    async def events(request: Request) -> Response:
        kind, before = _asked(request)
        listed = await _from_log(_events, _folder(service, request), kind, before)
        return layout.page(request, service, "Audit", *_overview(listed, kind, before))

    async def verify(request: Request) -> Response:
        folder = _folder(service, request)
        try:
            tree = await run_in_threadpool(commands.verified, folder)
            about = f"{counted(tree.size, 'event')}, consistent; root {base64_of(tree.root)}"
            verdict = tag("p", about, cls="good verdict", role="status")
        except IbidemError as error:
            verdict = tag("p", f"Not verified: {_without_paths(str(error), folder)}", cls="bad verdict", role="alert")
        listed = await _from_log(_events, folder, "", None)
        return layout.page(request, service, "Audit", *_overview(listed, "", None, verdict))

    async def event(request: Request) -> Response:
        included = await _from_log(_included, _folder(service, request), _number(request))
        return layout.page(request, service, "Event", *_proven(included))

    async def prove(request: Request) -> Response:
        number = _number(request)
        proof = await _from_log(_signed, _folder(service, request), number)
        name = {"content-disposition": f'attachment; filename="event-{number}.proof"'}
        return PlainTextResponse(f"{proof}\n", headers=name)

    return [
        Route("/audit", layout.explained(service, events)),
        Route("/audit", layout.explained(service, verify), methods=["POST"]),
        Route("/audit/{event}", layout.explained(service, event)),
        Route("/audit/{event}", layout.explained(service, prove), methods=["POST"]),
    ]


def _folder(service: Service, request: Request) -> Path:
    """Return the folder of the log, if the caller may read it."""
    if not request.state.caller.is_admin:
        raise ApiError(403, ADMINISTRATORS)
    if service.audit is None:
        raise ApiError(404, "This server has no documents, and so no audit log.")
    return service.audit


def _number(request: Request) -> int:
    number = layout.number_of(request.path_params["event"])
    if number is None:
        raise ApiError(404, "There is no such event.")
    return number


async def _from_log(read: Callable[..., T], folder: Path, *arguments: object) -> T:
    """Return what is read from a log, in a thread."""
    try:
        return await run_in_threadpool(read, folder, *arguments)
    except ApiError:
        raise
    except IbidemError as error:
        raise ApiError(500, f"The log cannot be read: {_without_paths(str(error), folder)}") from None


def _without_paths(message: str, folder: Path) -> str:
    """Return a message about a log without the folders of this machine."""
    for place in (f"audit log {folder / log.FILE}: ", f"{folder}/", f"{state_folder()}/"):
        message = message.replace(place, "")
    return message


def _asked(request: Request) -> tuple[str, int | None]:
    kind, before = (request.query_params.get(name, "") for name in ("kind", "before"))
    return (kind if kind in KINDS else ""), layout.number_of(before)


def _events(folder: Path, kind: str, before: int | None) -> Listed:
    with log.reading(folder) as database:
        size = log.size_of(database)
        limit = size if before is None else before
        rows = database.execute(
            "SELECT event FROM events WHERE number < ? AND (? = '' OR json_extract(event, '$.kind') = ?)"
            " ORDER BY number DESC LIMIT ?",
            (limit, kind, kind, PER_PAGE + 1),
        ).fetchall()
        return Listed([_parsed(event) for (event,) in rows[:PER_PAGE]], size, is_last=len(rows) <= PER_PAGE)


def _parsed(text: object) -> Mapping[str, Any]:
    try:
        event = json.loads(str(text))
        _when(event)
        return {"number": int(event["number"]), "kind": str(event["kind"]), **event}
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        raise AuditError("an event is not what was written; verifying says more") from None


def _included(folder: Path, number: int) -> Included:
    with log.reading(folder) as database:
        size = log.size_of(database)
        if number >= size:
            raise ApiError(404, f"There is no event {number}.")

        def subtrees(level: int, position: int) -> merkle.Hash:
            return log.subtree(database, level, position)

        text, root = log.event_of(database, number), merkle.root(size, subtrees)
        hashes = merkle.inclusion_proof(number, size, subtrees)
        if not merkle.includes(merkle.leaf_hash(text.encode()), number, size, hashes, root):
            raise AuditError("its hashes contradict one another; verifying says more")
        return Included(_parsed(text), size, root, hashes)


def _signed(folder: Path, number: int) -> str:
    with log.reading(folder) as database:
        if number >= log.size_of(database):
            raise ApiError(404, f"There is no event {number}.")
    return commands.prove_command(AuditProveConfig(audit=folder, event=number))


def _overview(listed: Listed, kind: str, before: int | None, verdict: object = "") -> list[Html]:
    verify = tag("form", tag("button", "Verify now", cls="main"), method="post", action="/audit")
    head = tag("div", tag("div", tag("h1", "Audit log"), _count(listed.size)), verify, cls="heading")
    kinds = tag("nav", *(_kind(each, each == kind) for each in ("", *KINDS)), cls="kinds", **{"aria-label": "Kind"})
    names = ("Number", "Time (UTC)", "Kind", "Principal", "What")
    table = tag(
        "table",
        tag("caption", "Events, the latest first", cls="unseen"),
        tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names))),
        tag("tbody", *map(_row, listed.events)),
    )
    scrolled = tag("div", table, cls="scroll", tabindex=0, role="region", **{"aria-label": "Events"})
    rows = scrolled if listed.events else tag("p", "No events.")
    return [head, join(verdict), kinds, rows, _pager(listed, kind, before)]


def _count(size: int) -> Html:
    return tag("p", f"{counted(size, 'event')}; texts and paths are in it as keyed hashes only", cls="note")


def _kind(kind: str, is_chosen: bool) -> Html:
    address = f"/audit?kind={kind}" if kind else "/audit"
    return tag("a", _words(kind) or "all", href=address, **{"aria-current": "true" if is_chosen else ""})


def _row(event: Mapping[str, Any]) -> Html:
    number = event["number"]
    cells = (
        tag("a", str(number), href=f"/audit/{number}"),
        tag("time", _when(event), cls="keep"),
        _words(event["kind"]),
        event.get("principal", ""),
        tag("ul", *(tag("li", _words(name), " ", value) for name, value in _details(event)), cls="details"),
    )
    return tag("tr", *(tag("td", cell) for cell in cells))


def _details(event: Mapping[str, Any]) -> list[tuple[str, Html]]:
    """Return what an event says beside the common columns."""
    return [(name, _value(event[name])) for name in event if name not in {"number", "time", "kind", "principal"}]


def _value(value: object) -> Html:
    if isinstance(value, list):
        return tag("span", counted(len(value), "id"), title=" ".join(map(str, value)))
    text = str(value)
    kind, colon, rest = text.rpartition(":")
    if len(rest) <= HASH_CHARS or " " in text:
        return join(text)
    return tag("code", f"{kind}{colon}{rest[:HASH_CHARS]}…", title=text)


def _pager(listed: Listed, kind: str, before: int | None) -> Html:
    chosen = f"kind={kind}&" if kind else ""
    first = f"/audit?{chosen}".rstrip("?&")
    older = f"/audit?{chosen}before={listed.events[-1]['number']}" if listed.events else ""
    links = [
        tag("a", "Latest", href=first) if before is not None else "",
        tag("a", "Older", href=older) if not listed.is_last else "",
    ]
    return tag("nav", *links, cls="pager", **{"aria-label": "More events"}) if any(links) else join()


def _proven(included: Included) -> list[Html]:
    event = included.event
    number = event["number"]
    known = [("time", join(_when(event))), ("principal", join(event.get("principal", "")))]
    rows = [(name, value) for name, value in known if value] + [
        (name, _whole(event[name])) for name, _ in _details(event)
    ]
    fields = tag("dl", *(join(tag("dt", _words(name)), tag("dd", value)) for name, value in rows), cls="fields")
    led = tag("p", f"These {len(included.hashes)} hashes lead from the event to the root of {included.size:,} events.")
    hashes = tag("ol", *(tag("li", tag("code", base64_of(each))) for each in included.hashes), cls="hashes")
    root = tag("p", "Root: ", tag("code", base64_of(included.root)))
    note = tag("p", "The download is signed with the server's key; ibidem audit verify --proof checks it.", cls="note")
    download = tag("form", tag("button", "Download the proof", cls="main"), method="post", action=f"/audit/{number}")
    head = (
        tag("p", tag("a", "All events", href="/audit"), cls="note"),
        tag("h1", f"Event {number}: {_words(event['kind'])}"),
    )
    proof = tag("section", tag("h2", "Proof"), led, hashes, root, download, note)
    return [tag("article", *head, fields, proof, cls="event")]


def _whole(value: object) -> Html:
    if isinstance(value, list):
        return tag("ul", *(tag("li", tag("code", each)) for each in value))
    return tag("code", str(value))


def _when(event: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(event["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")


def _words(name: str) -> str:
    return name.replace("_", " ")
