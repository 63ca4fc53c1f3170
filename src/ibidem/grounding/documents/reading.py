"""Choose the reader of a file."""

from ibidem.data.sources import notebooks
from ibidem.errors import DataError
from ibidem.grounding.documents import definitions, markdown, openapi, pdf, plain, webpage
from ibidem.grounding.documents.encoding import decode, decode_html
from ibidem.grounding.documents.readable import Content, Kind


def content_of(raw: bytes, kind: Kind, name: str | None, *, max_bytes: int, max_pages: int) -> tuple[Kind, Content]:
    """Return the kind of a document, which its bytes decide where the name does not, and its content.

    Args:
        raw: the bytes of the file.
        kind: what the name of the file says.
        name: its language, as `ibidem.data.text.language.by_name` returns it.
        max_bytes: of the text of a PDF file, in UTF-8.
        max_pages: of a PDF file.

    Raises:
        DataError: why it cannot be read.
    """
    if kind == "pdf":
        return kind, pdf.read(raw, max_bytes, max_pages)
    if kind == "html":
        return kind, webpage.read(decode_html(raw))
    if name == "Jupyter Notebook":
        return _notebook(raw)
    text = decode(raw)
    if kind == "markdown":
        return kind, markdown.read(text)
    if kind == "text":
        return kind, plain.read(text)
    if openapi.is_openapi(text, name) and (content := openapi.read(text, name)) is not None:
        return "openapi", content
    return kind, definitions.read(text, name)


def _notebook(raw: bytes) -> tuple[Kind, Content]:
    try:
        text, name = notebooks.read(raw)
    except (ValueError, RecursionError):
        raise DataError("a notebook that cannot be read") from None
    return ("markdown", markdown.read(text)) if name == "Markdown" else ("code", definitions.read(text, name))
