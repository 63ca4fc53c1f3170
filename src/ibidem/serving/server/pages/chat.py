"""The conversation: a page whose script asks /v1/chat/completions and shows the answer as text, with its citations.

    content       "The notice period is six weeks [1]."        as it comes
    annotations   [1] is text[31:34], of this passage          a button, which opens the passage beside the conversation
    grounding     text[0:30] is unsupported                    is marked

The conversation is in the memory of the tab alone.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ibidem.serving.server.pages import layout
from ibidem.serving.server.service import Service

FROM_DOCUMENTS = "Answers come from the documents that you may read. Each claim cites a passage: open it and check."
FROM_A_MODEL = "A model answers from what it has learned. Nothing that it says is checked."


def routes(service: Service) -> list[Route]:
    """Return the route of the conversation."""

    async def chat(request: Request) -> Response:
        about = FROM_A_MODEL if service.documents is None else FROM_DOCUMENTS
        body = layout.filled("chat.html", model=service.model, about=about)
        return layout.page(request, service, "Chat", body, script="chat.js")

    return [Route("/", layout.explained(service, chat))]
