"""Turn rows of public datasets into documents, by the names of their columns.

| dataset | columns besides the text |
|---|---|
| The Stack v1 | `hexsha`, `lang`, `max_stars_repo_name`, `max_stars_repo_path`, `max_stars_repo_licenses` (a list) |
| The Stack v2 | `blob_id`, `repo_name`, `path`, `language`, `detected_licenses` (a list) |
| StarCoderData | `id`, `max_stars_repo_name`, `max_stars_repo_path`; no license |
| The Pile, SlimPajama | `meta.pile_set_name`, `meta.redpajama_set_name` identify code; no license |
| openwebtext | none |
| chats, instructions, preference pairs | see `conversations` |
| your own | `id`, `license`, `repo`, `path`, `language`, `revision`, or any of the names below |
"""

import json
from collections.abc import Collection, Iterable, Mapping
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
_OF_PAIRS = ("chosen", "rejected", "margin", "score_chosen", "score_rejected")
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
    answer: str | None = None
    """Answer of an instruction; only if the text is an instruction."""
    input: str | None = None
    context: str | None = None
    system: str | None = None
    system_prompt: str | None = None
    tools: str | None = None
    functions: str | None = None
    """Columns that add to a prompt; only if the text is one, or a conversation."""
    asked: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    margin: str | None = None
    score_chosen: str | None = None
    score_rejected: str | None = None
    """Columns of a preference pair; only if the text is its prompt or its chosen answer."""
    tests: str | None = None
    """Tests of a programming problem; only if the text is its statement."""

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
        alone: tuple[str, ...] = (*conversations.SYSTEM, *conversations.TOOLS)
        if text in conversations.ASKED:
            fields |= {"answer": conversations.ANSWER}
        if text in (*conversations.ASKED, conversations.CHOSEN):
            alone += (*conversations.CONTEXT, *_OF_PAIRS)
        if text == conversations.CHOSEN:
            fields |= {"asked": conversations.ASKED}
        if text in conversations.STATEMENT and conversations.TESTS in present:
            fields |= {"tests": (conversations.TESTS,), "answer": (conversations.CODE, *conversations.ANSWER)}
        fields |= {name: (name,) for name in alone}
        matched = {
            field_name: next((name for name in names if name in present and name != text), None)
            for field_name, names in fields.items()
        }
        return cls(text=text, **matched)

    @property
    def wanted(self) -> list[str]:
        """The columns to read."""
        return [name for name in vars(self).values() if name is not None]

    def rows(self, row: Mapping[str | None, Any], trees: conversations.Trees) -> list[Mapping[str | None, Any]]:
        """Return the rows that become documents: several if the text is a tree of replies, otherwise the row alone."""
        text = row.get(self.text)
        if not isinstance(text, Mapping):
            return [row]
        return [{**row, self.text: value} for value in conversations.expand(text, trees)]

    def document(self, row: Mapping[str | None, Any], *, source: str, revision: str | None, place: str) -> Document:
        """Convert a row to a document.

        Raises:
            ValueError: the text is missing, is not text, is not valid Unicode, or is no conversation.
        """
        text = row.get(self.text)
        said = self._said(row, text)
        text = text if said is None else said.text
        raw = text.encode() if isinstance(text, str) else text
        if not isinstance(raw, bytes):
            kind = "missing" if text is None else type(text).__name__
            raise ValueError(f"column {self.text!r} is {kind}, not text")  # noqa: TRY004 - a fact about the data
        license_raw = row.get(self.license)
        str(license_raw).encode()
        path = _string(row.get(self.path))
        name = _string(row.get(self.language)) or (language.by_name(path) if path else None)
        document = Document(
            raw=raw,
            source=source,
            revision=_string(row.get(self.revision)) or revision,
            record=_string(row.get(self.record)) or place,
            repo=_string(row.get(self.repo)),
            path=path,
            url=_string(row.get(self.url)),
            category=self._category(row, name, path) if said is None else "instruction",
            language=name,
            license_raw=license_raw,
            license_stated=self.license is not None,
        )
        if said is not None:
            document.messages, document.rejected, document.margin = said
        return document

    def _said(self, row: Mapping[str | None, Any], text: object) -> conversations.Said | None:
        is_problem = self.tests is not None
        if isinstance(text, bytes) and (is_problem or self.text in (*conversations.ASKED, conversations.CHOSEN)):
            text = text.decode()
        is_pair = self.chosen is not None or self.rejected is not None or self.text == conversations.CHOSEN
        answer = row.get(self.answer)
        if isinstance(text, _PLAIN_TEXT) and self.answer is None and not is_pair and not is_problem:
            return None
        context = conversations.only_text(self._values(row, conversations.CONTEXT))
        preface = conversations.Preface(
            conversations.only_text(self._values(row, conversations.SYSTEM)),
            conversations.listed_tools(self._values(row, conversations.TOOLS)),
        )
        if is_pair:
            return self._pair(row, text, context, preface)
        if is_problem and isinstance(text, str):
            return conversations.problem(text, row.get(self.tests), answer, context=context, preface=preface)
        if isinstance(text, str):
            return conversations.instruction(text, context, answer, preface)
        return conversations.conversation(text, answer, context=context, preface=preface)

    def _values(self, row: Mapping[str | None, Any], fields: Iterable[str]) -> dict[str, Any]:
        return {name: row.get(getattr(self, name)) for name in fields}

    def _pair(
        self, row: Mapping[str | None, Any], text: object, context: str | None, preface: conversations.Preface
    ) -> conversations.Said:
        of_text = self.text == conversations.CHOSEN
        asked, chosen = (row.get(self.asked), text) if of_text else (text, row.get(self.chosen))
        margin = conversations.margin_of(row.get(self.margin), row.get(self.score_chosen), row.get(self.score_rejected))
        return conversations.pair(asked, chosen, row.get(self.rejected), margin, context=context, preface=preface)

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
