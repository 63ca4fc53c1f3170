"""The passage behind a citation: GET /passages/CHUNK, as JSON for the conversation, else as a page.

Each passage that is shown is recorded, by `service.documents.show`. One that may not be read, one that was deleted and
one that never was are answered with the same bytes.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ibidem.errors import AccessDenied, AuditError
from ibidem.grounding.store import Chunk
from ibidem.page import Html, join, tag
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.pages import layout
from ibidem.serving.server.service import Service

_TURNING = dict.fromkeys([0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
"""Marks of writing direction. The answer has none, so its evidence must not be read in another order."""


def routes(service: Service) -> list[Route]:
    """Return the route of the passages."""

    async def passage(request: Request) -> Response:
        chunk = await shown(service, request.path_params["chunk"], request.state.caller.principal)
        if _wants_json(request):
            about = {name: getattr(chunk, name) for name in ("path", "title", "start", "end", "text")}
            return JSONResponse({"chunk": chunk.id, **about})
        title = " › ".join(chunk.title) or chunk.path
        text = marked(chunk, request.query_params.get("from"), request.query_params.get("to"))
        body = (tag("h1", title), source_line(chunk), tag("div", text, cls="source", dir="auto"))
        return layout.page(request, service, "Passage", tag("article", *body, cls="reading"))

    page = layout.explained(service, passage)

    async def answered(request: Request) -> Response:
        return await (_as_json(request, passage) if _wants_json(request) else page(request))

    return [Route("/passages/{chunk}", answered)]


async def shown(service: Service, chunk: str, principal: str) -> Chunk:
    """Return a passage, recorded.

    Raises:
        AccessDenied: there is none, or the principal may not read it.
        AuditError: the record cannot be written.
    """
    if service.documents is None:
        raise AccessDenied(layout.NOT_THERE)
    return await service.documents.show(chunk, principal)


def source_line(chunk: Chunk) -> Html:
    """Return where a passage stands."""
    return tag("p", tag("code", chunk.path), f", characters {chunk.start:,} to {chunk.end:,}", cls="note")


def marked(chunk: Chunk, start: str | None, end: str | None) -> Html:
    """Return the text of a passage; what is cited, by its place in the document, is marked."""
    places = (layout.number_of(start), layout.number_of(end))
    first, last = (-1 if place is None else place - chunk.start for place in places)
    text = as_written(chunk.text)
    if not 0 <= first < last <= len(text):
        return join(text)
    return join(text[:first], tag("mark", text[first:last]), text[last:])


def as_written(text: str) -> str:
    r"""Return a text in the order in which it is written: what turns the order around is replaced, at its place.

    >>> as_written("a\u202eb\u202c") == "a\ufffdb\ufffd"
    True
    """
    return text.translate(_TURNING)


async def _as_json(request: Request, endpoint: layout.Endpoint) -> Response:
    try:
        return await endpoint(request)
    except AccessDenied:
        error = ApiError(404, layout.NOT_THERE)
    except AuditError:
        error = ApiError(503, layout.NOT_RECORDED)
    return JSONResponse(error.body(), error.status)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")
