"""What all pages share: a frame around them, the files that they load, and refusals in one line.

A page is made here and escaped by `ibidem.page`. Nothing in it is inline, so the server's Content-Security-Policy can
permit the style sheet and the scripts of this package and nothing else. The files that the login page needs are also
below /login/, where nobody has to be known.
"""

from collections.abc import Awaitable, Callable
from functools import cache
from importlib import resources
from pathlib import PurePath
from string import Template
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ibidem.errors import AccessDenied, AuditError, IbidemError
from ibidem.page import Html, join, show, tag
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.service import Service
from ibidem.serving.server.tokens import Caller

Endpoint = Callable[[Request], Awaitable[Response]]

NOT_THERE = "There is no such passage, or you may not read it."
"""What is said of every passage that is not shown, whatever the reason."""
NOT_RECORDED = "This cannot be recorded in the audit log, so it is not shown."
MAX_FIELDS = 8
MAX_DIGITS = 15
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = frozenset({"page.css", "icon.svg", "login.js", "chat.js"})
_OPEN_FILES = frozenset({"page.css", "icon.svg", "login.js"})


def routes() -> list[Route]:
    """Return the routes of the files that pages load."""
    return [Route("/static/{file}", _file(_FILES)), Route("/login/{file}", _file(_OPEN_FILES))]


def page(
    request: Request, service: Service, title: str, *body: object, script: str = "", status: int = 200
) -> Response:
    """Return a page for a caller who is known.

    Args:
        request: whose page it is.
        service: decides which other pages there are.
        title: its name, which the body repeats as a heading.
        body: what stands on it.
        script: a file of `static`.
        status: of the response.
    """
    links = [_link(name, address, request) for name, address in _others(service, request.state.caller)]
    account = filled("account.html", principal=request.state.caller.principal)
    top = join(tag("nav", *links, **{"aria-label": "Pages"}), account)
    module = tag("script", type="module", src=f"/static/{script}") if script else ""
    return framed(title, top, join(*body), files="/static", script=module, status=status)


def framed(title: str, top: Html, body: Html, *, files: str, script: object = "", status: int = 200) -> Response:
    """Return a page with a top line, whose files are below the address `files`."""
    text = filled("page.html", title=title, top=top, body=body, files=files, script=script)
    return HTMLResponse(text, status)


def filled(name: str, **values: object) -> Html:
    """Return one of this package's pieces of HTML, with values escaped."""
    return Html(Template(_text(name)).substitute({key: show(value) for key, value in values.items()}))


def line(request: Request, service: Service, title: str, message: str, status: int) -> Response:
    """Return a page that says one line."""
    return page(request, service, title, tag("h1", title), tag("p", message, role="alert"), status=status)


def explained(service: Service, endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers refusals with a page of one line, without paths of this machine."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ApiError as error:
            return line(request, service, _heading(error.status), str(error), error.status)
        except AccessDenied:
            return line(request, service, _heading(404), NOT_THERE, 404)
        except AuditError:
            return line(request, service, _heading(503), NOT_RECORDED, 503)
        except IbidemError:
            return line(request, service, _heading(500), "Something is wrong with the server; tell its owner.", 500)

    return answered


async def fields_of(request: Request) -> dict[str, str]:
    """Return the fields of a form that was sent; none if it is malformed."""
    try:
        return dict(parse_qsl((await request.body()).decode(), max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}


def number_of(text: str | None) -> int | None:
    """Return the number in an address; None if it is none, or longer than any of ours.

    >>> number_of("12"), number_of("-1"), number_of("9" * 5000), number_of(None)
    (12, None, None, None)
    """
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def _heading(status: int) -> str:
    return {403: "Not permitted", 404: "Not found"}.get(status, "Not possible")


def _others(service: Service, caller: Caller) -> list[tuple[str, str]]:
    pages = [("Chat", "/")]
    if service.reviews and service.documents is not None:
        pages.append(("Review", "/review"))
    if caller.is_admin and service.audit is not None:
        pages.append(("Audit", "/audit"))
    return pages


def _link(name: str, address: str, request: Request) -> Html:
    path = request.url.path
    is_here = path == address or (address != "/" and path.startswith(f"{address}/"))
    return tag("a", name, href=address, **{"aria-current": "page" if is_here else ""})


def _file(names: frozenset[str]) -> Endpoint:
    async def sent(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in names:
            return Response(status_code=404)
        return Response(_text(f"static/{name}"), media_type=_TYPES[PurePath(name).suffix])

    return sent


@cache
def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
