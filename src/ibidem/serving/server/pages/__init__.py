"""The pages of a server, for a browser: login, chat, passages, review and audit."""

from starlette.routing import Route

from ibidem.serving.server.pages import audit, chat, layout, login, passages, review
from ibidem.serving.server.service import Service


def routes(service: Service) -> list[Route]:
    """Return the routes of all pages; all but the login read `request.state.caller`."""
    of_pages = (login, chat, passages, review, audit)
    return [*layout.routes(), *(route for each in of_pages for route in each.routes(service))]
