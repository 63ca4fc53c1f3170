"""Who comes with a token gets a session: GET and POST /login, POST /logout.

http://HOST:PORT/login#TOKEN --> the page's script posts the token, which is in no address from then on
                                                    |
              cookie `ibidem_session`, unreadable for scripts, never sent along from other sites
"""

import json

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ibidem.page import join, tag
from ibidem.serving.server.guard import COOKIE
from ibidem.serving.server.pages import layout
from ibidem.serving.server.service import Service

WRONG = "This token is not valid: it may be mistyped, expired or revoked."


def routes(service: Service) -> list[Route]:
    """Return the routes of the login, which needs no authentication, and of the logout."""

    async def enter(request: Request) -> Response:
        session = await run_in_threadpool(service.tokens.new_session, await _token(request))
        if session is None:
            return _page(WRONG, 401)
        response = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, session, path="/", secure=is_secure, httponly=True, samesite="strict")
        return response

    async def leave(request: Request) -> Response:
        await run_in_threadpool(service.tokens.end_session, request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return [
        Route("/login", _form),
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
    ]


async def _form(_: Request) -> Response:
    return _page()


def _page(message: str = "", status: int = 200) -> Response:
    alert = tag("p", message, cls="bad", role="alert") if message else ""
    script = tag("script", type="module", src="/login/login.js")
    body = layout.filled("login.html", message=alert)
    return layout.framed("Log in", join(), body, files="/login", script=script, status=status)


async def _token(request: Request) -> str:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return (await layout.fields_of(request)).get("token", "").strip()
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        return ""
    token = body.get("token") if isinstance(body, dict) else None
    return token.strip() if isinstance(token, str) else ""
