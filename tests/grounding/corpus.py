"""A small company's documents, who may read them, and an index of them."""

from pathlib import Path

from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.encoder import Encoder
from ibidem.grounding.index import Index
from ibidem.grounding.store import Indexed, Span
from ibidem.signatures import secret_key

DOCUMENTS = {
    "handbook/leave.md": (
        "# Leave\n\nEvery employee has 30 days of paid leave a year. Leave that is not taken by 31 March lapses.\n\n"
        "Special leave of two days is granted for a wedding."
    ),
    "handbook/notice.md": (
        "# Notice\n\nThe notice period is six weeks to the end of a quarter. During probation it is two weeks."
    ),
    "handbook/travel.md": (
        "# Travel\n\nTrains are booked in second class. Flights need the approval of the head of department.\n\n"
        "Use `sys.argv[1]` of the travel script for the destination [see the wiki]."
    ),
    "engineering/deploy.md": (
        "# Deployment\n\nA release is deployed on Tuesday after the tests have passed. A rollback takes four minutes."
    ),
    "salaries/march.md": "# Salaries\n\nThe quokka allowance of the marsupial team is 9137 shillings a month.",
}
CANARIES = ("quokka", "marsupial", "9137", "shillings")
"""Words of the forbidden document alone."""

ACL = """
groups:
  engineering: [dev-1, dev-2]
rules:
  - {path: "handbook/**", read: [everyone]}
  - {path: "engineering/**", read: [engineering]}
  - {path: "salaries/**", read: [hr], deny: [contractor-1]}
"""


def write_documents(folder: Path) -> Path:
    for path, text in DOCUMENTS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def indexed(path: str, text: str) -> Indexed:
    """Each paragraph is a chunk, under the heading of the document."""
    heading, *paragraphs = text.split("\n\n")
    spans, start = [], len(heading) + 2
    for paragraph in paragraphs:
        spans.append(Span((heading.removeprefix("# "),), start, start + len(paragraph)))
        start += len(paragraph) + 2
    return Indexed(path, text, tuple(spans))


def make_index(
    folder: Path, *, without: str | None = None, acl: str = ACL, key: Path | None = None,
    encoder: Encoder | None = None, model: str = "",
) -> Path:  # fmt: skip
    (folder / "acl.yaml").write_text(acl)
    index = Index(folder / "index", secret_key(key), acl=str(folder / "acl.yaml"), encoder=encoder, model=model)
    documents = [indexed(path, text) for path, text in DOCUMENTS.items() if path != without]
    index.update(documents, YamlPermissions(folder / "acl.yaml").current())
    return folder / "index"
