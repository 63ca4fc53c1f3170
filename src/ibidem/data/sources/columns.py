"""Turn rows of public datasets into documents, by the names of their columns.

| dataset | columns besides the text |
|---|---|
| The Stack v1 | `hexsha`, `lang`, `max_stars_repo_name`, `max_stars_repo_path`, `max_stars_repo_licenses` (a list) |
| The Stack v2 | `blob_id`, `repo_name`, `path`, `language`, `detected_licenses` (a list) |
| StarCoderData | `id`, `max_stars_repo_name`, `max_stars_repo_path`; no license |
| The Pile, SlimPajama | `meta.pile_set_name`, `meta.redpajama_set_name` identify code; no license |
| openwebtext | none |
| chats, instructions | a list of messages, or an instruction and its answer: see `conversations` |
| your own | `id`, `license`, `repo`, `path`, `language`, `revision`, or any of the names below |
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ibidem.data.sources import conversations
from ibidem.data.text import language
from ibidem.records import Category, Document

# For each document field, the columns that may contain it; the first one present is used.
RECORD = ("hexsha", "id", "blob_id", "sha", "uuid")
REPO = ("repo", "max_stars_repo_name", "repo_name", "repository_name", "package")
PATH = ("path", "max_stars_repo_path", "file_path", "filename")
URL = ("url", "source_url")
LICENSE = ("license", "licenses", "max_stars_repo_licenses", "detected_licenses", "repo_license")
LANGUAGE = ("language", "lang", "programming_language")
REVISION = ("revision", "max_stars_repo_head_hexsha", "revision_id", "version")
META = ("meta",)
SET_NAME = ("pile_set_name", "redpajama_set_name")
CODE_SETS = ("Github", "RedPajamaGithub")
_PLAIN_TEXT = (str, bytes)


@dataclass(frozen=True)
class Columns:
    """The column of a source for each document field; None if there is none, and rows then have None there."""

    text: str
    record: str | None
    repo: str | None
    path: str | None
    url: str | None
    license: str | None
    language: str | None
    revision: str | None
    meta: str | None
    context: str | None = None
    answer: str | None = None
    """Input and answer of an instruction; only if the text is an instruction."""

    @classmethod
    def find(cls, present: Collection[str], *, text: str) -> "Columns":
        """Match the columns of a source.

        >>> Columns.find({"content", "hexsha", "lang"}, text="content").record
        'hexsha'
        """
        fields = {
            "record": RECORD,
            "repo": REPO,
            "path": PATH,
            "url": URL,
            "license": LICENSE,
            "language": LANGUAGE,
            "revision": REVISION,
            "meta": META,
        }
        if text in conversations.ASKED:
            fields |= {"context": conversations.CONTEXT, "answer": conversations.ANSWER}
        matched = {
            field_name: next((name for name in names if name in present and name != text), None)
            for field_name, names in fields.items()
        }
        return cls(text=text, **matched)

    @property
    def wanted(self) -> list[str]:
        """The columns to read."""
        return [name for name in vars(self).values() if name is not None]

    def document(self, row: Mapping[str | None, Any], *, source: str, revision: str | None, place: str) -> Document:
        """Convert a row to a document.

        Raises:
            ValueError: the text is missing, is not text, or is not valid Unicode.
        """
        text = row.get(self.text)
        conversation = self._conversation(row, text)
        text = text if conversation is None else conversation
        raw = text.encode() if isinstance(text, str) else text
        if not isinstance(raw, bytes):
            kind = "missing" if text is None else type(text).__name__
            raise ValueError(f"column {self.text!r} is {kind}, not text")  # noqa: TRY004 - a fact about the data
        license_raw = row.get(self.license)
        str(license_raw).encode()
        path = _string(row.get(self.path))
        name = _string(row.get(self.language)) or (language.by_name(path) if path else None)
        return Document(
            raw=raw,
            source=source,
            revision=_string(row.get(self.revision)) or revision,
            record=_string(row.get(self.record)) or place,
            repo=_string(row.get(self.repo)),
            path=path,
            url=_string(row.get(self.url)),
            category=self._category(row, name, path) if conversation is None else "instruction",
            language=name,
            license_raw=license_raw,
            license_stated=self.license is not None,
        )

    def _conversation(self, row: Mapping[str | None, Any], text: object) -> str | None:
        if not isinstance(text, _PLAIN_TEXT):
            return conversations.conversation(text) if isinstance(text, list | Mapping) else None
        if self.answer is None:
            return None
        asked = text.decode() if isinstance(text, bytes) else text
        return conversations.pair(asked, row.get(self.context), row.get(self.answer))

    def _category(self, row: Mapping[str | None, Any], name: str | None, path: str | None) -> Category:
        meta = row.get(self.meta)
        if isinstance(meta, str):
            meta = _parsed(meta)
        if isinstance(meta, Mapping):
            names = [meta[key] for key in SET_NAME if key in meta]
            if names:
                return "code" if names[0] in CODE_SETS else "text"
        return language.category(name, path)


def _string(value: Any) -> str | None:
    if value is None or value == "" or value != value:  # noqa: PLR0124 - NaN
        return None
    text = value if isinstance(value, str) else str(value)
    text.encode()
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
