"""What people rated in the browser: a file for each form and rater, as `ibidem evaluate ratings` reads it.

    STATE/ratings/DIGEST OF THE FORM/PRINCIPAL.csv        id, rater, criterion, score, model_digest, prompts_digest

It holds no text, so that a passage that is forgotten is not in it. What a spreadsheet would take for a formula is
protected, as in the form.
"""

import csv
import hashlib
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ibidem.files import is_file, write_file
from ibidem.grounding.review import CRITERION
from ibidem.rating_form import REQUIRED, plain_row, protected

MAX_NAME_BYTES = 200


class Bound(NamedTuple):
    """What ratings belong to, as a form names it."""

    form: str
    """Digest of the sealed form."""
    model: str
    prompts: str


class RatingFiles:
    """The ratings of all forms, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def scores(self, of: Bound, rater: str) -> dict[str, str]:
        """Return by pair what a rater has said so far."""
        file = self._file(of, rater)
        if not is_file(file):
            return {}
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [plain_row(row) for row in csv.DictReader(lines)]
        return {row["id"]: row["score"] for row in rows}

    def save(self, of: Bound, rater: str, pair: str, score: str) -> None:
        """Write what a rater says of a pair, instead of what they said before."""
        file = self._file(of, rater)
        with self._lock:
            scores = self.scores(of, rater) | {pair: score}
            for folder in (self._folder, file.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(file, written(of, rater, scores))

    def _file(self, of: Bound, rater: str) -> Path:
        return self._folder / of.form.removeprefix("sha256:") / f"{file_name(rater)}.csv"


def written(of: Bound, rater: str, scores: Mapping[str, str]) -> str:
    """Return ratings as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(REQUIRED)
    for pair, score in scores.items():
        writer.writerow(map(protected, (pair, rater, CRITERION, score, of.model, of.prompts)))
    return text.getvalue()


def file_name(rater: str) -> str:
    """Return a file name for a rater, another one for each.

    >>> file_name("ada"), file_name("../ada"), file_name("x" * 300)[:8]
    ('ada', '..%2Fada', 'sha256-0')
    """
    name = quote(rater, safe="", errors="surrogatepass")
    if len(name) <= MAX_NAME_BYTES:
        return name
    return f"sha256-{hashlib.sha256(name.encode()).hexdigest()}"
