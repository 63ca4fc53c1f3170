"""The routes of a server, behind its guard."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ibidem.serving.server import chat_completions, completions, pages
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.guard import Guard
from ibidem.serving.server.responses import dumps, refused
from ibidem.serving.server.service import Service

OWNER = "ibidem"


def application(service: Service) -> Starlette:
    """Return the application of a server."""
    guard = Middleware(Guard, tokens=service.tokens, limits=service.limits, hosts=service.hosts)
    app = Starlette(
        routes=[*_api(service), *pages.routes(service)],
        middleware=[guard],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    return app


def _api(service: Service) -> list[Route]:
    async def models(request: Request) -> Response:
        data = [_described(service)] if service.may_use(request.state.caller) else []
        return _json({"object": "list", "data": data})

    async def model(request: Request) -> Response:
        service.check_model(request.path_params["id"], request.state.caller)
        return _json(_described(service))

    return [
        Route("/v1/models", models),
        Route("/v1/models/{id:path}", model),
        Route("/v1/chat/completions", chat_completions.endpoint(service), methods=["POST"]),
        Route("/v1/completions", completions.endpoint(service), methods=["POST"]),
    ]


def _described(service: Service) -> dict[str, object]:
    return {"id": service.model, "object": "model", "created": 0, "owned_by": OWNER}


def _json(value: object) -> Response:
    return Response(dumps(value), media_type="application/json")


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "no such address" if error.status_code == 404 else f"refused: {error.detail}"
    response = refused(ApiError(error.status_code, message))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
