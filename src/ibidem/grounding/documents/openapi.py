"""Read OpenAPI descriptions, YAML or JSON: a section for each operation and for each schema.

The readable text has the keys and values in the order of the file, as plain lines. A `$ref` is shown and not followed.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from ibidem.errors import DataError
from ibidem.grounding.documents.readable import Content, Title, sections_between, title_of

MAX_DEPTH = 64
MAX_GROWTH = 8
"""Maximum length of the readable text, in multiples of the file's: YAML's aliases could make it endless."""
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_YAML_KEY = re.compile(r"^[\"']?(?:openapi|swagger)[\"']?[ \t]*:[ \t]*[\"']?\d", re.MULTILINE)
_JSON_KEY = re.compile(r"\"(?:openapi|swagger)\"\s*:\s*\"\d")
_SCHEMAS = ("schemas", "definitions")


def is_openapi(text: str, language: str | None) -> bool:
    r"""Return whether a YAML or JSON file looks like an OpenAPI description.

    >>> is_openapi('openapi: "3.1.0"\ninfo: {}\n', "YAML"), is_openapi("{}", "JSON")
    (True, False)
    """
    key = {"YAML": _YAML_KEY, "JSON": _JSON_KEY}.get(language or "")
    return key is not None and key.search(text) is not None


def read(text: str, language: str | None) -> Content | None:
    """Return the readable text of an OpenAPI description; None if it is another kind of file.

    Raises:
        DataError: it is malformed, nested too deep, or its aliases make it too long.
    """
    tree = _loaded(text, language)
    if not isinstance(tree, dict) or not {"openapi", "swagger"} & tree.keys():
        return None
    page = _Page(MAX_GROWTH * len(text) + 10_000)
    info = tree.get("info")
    name = title_of(str(info["title"])) if isinstance(info, dict) and info.get("title") else ""
    root: Title = (name,) if name else ()
    rest = {key: value for key, value in tree.items() if key not in {"paths", "webhooks", "components", "definitions"}}
    page.section(root, name or "API", rest)
    for title, value in _parts(tree):
        page.section((*root, title_of(title)), title, value)
    body = "".join(page.parts)
    return Content(body, sections_between(body, page.marks))


def _loaded(text: str, language: str | None) -> Any:
    """Return the tree of a file, every scalar as text."""
    try:
        if language == "JSON":
            return json.loads(text, parse_float=str, parse_int=str)
        _check_nesting(text)
        return yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506 - text only
    except json.JSONDecodeError as error:
        raise DataError(f"OpenAPI, but not JSON: {error.msg} in line {error.lineno:,}") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1:,}" if error.problem_mark else ""
        raise DataError(f"OpenAPI, but not YAML: {error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise DataError(f"OpenAPI, but not YAML: {' '.join(str(error).split())[:100]}") from None
    except RecursionError:
        raise DataError("OpenAPI: nested too deep") from None
    except (TypeError, ValueError):
        raise DataError("OpenAPI, but not YAML: a key is not a word") from None


def _check_nesting(text: str) -> None:
    depth = 0
    for bracket in re.findall(r"[\[\]{}]|(?:[-?:] ){40}", text):
        depth += 1 if bracket in "[{" else -1
        if depth > 10 * MAX_DEPTH or len(bracket) > 1:
            raise DataError("OpenAPI: nested too deep")


def _parts(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the operations, schemas and other components, in the order of the file."""
    for group in ("paths", "webhooks"):
        for path, item in _items(tree.get(group)):
            shared = {key: value for key, value in _items(item) if key not in _METHODS}
            if shared or not isinstance(item, dict):
                yield path, shared or item
            for key, value in _items(item):
                if key in _METHODS:
                    yield f"{key.upper()} {path}", value
    for group, members in (*_items(tree.get("components")), ("definitions", tree.get("definitions"))):
        for name, value in _items(members):
            yield name if group in _SCHEMAS else f"{group} {name}", value


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(str(key), item) for key, item in value.items()] if isinstance(value, dict) else []


class _Page:
    """The readable text so far."""

    def __init__(self, max_chars: int) -> None:
        self.parts: list[str] = []
        self.marks: list[tuple[int, Title]] = []
        self._length, self._max_chars = 0, max_chars

    def section(self, title: Title, name: str, value: Any) -> None:
        self.marks.append((self._length, title))
        self._put(f"{name}\n")
        self._value(value, "", 0)
        self._put("\n")

    def _put(self, text: str) -> None:
        self._length += len(text)
        if self._length > self._max_chars:
            raise DataError(f"OpenAPI: its aliases make it longer than {self._max_chars:,} characters")
        self.parts.append(text)

    def _value(self, value: Any, indent: str, depth: int) -> None:
        """Write a mapping or a list below its key."""
        if depth > MAX_DEPTH:
            raise DataError(f"OpenAPI: nested deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            for key, item in value.items():
                self._entry(f"{indent}{key}:", item, indent + "  ", depth)
        elif isinstance(value, list):
            for item in value:
                self._listed(item, indent, depth)
        else:
            self._put(f"{indent}{_scalar(value)}\n")

    def _listed(self, item: Any, indent: str, depth: int) -> None:
        """Write an item of a list; the first key of a mapping stands on its line."""
        if not isinstance(item, dict) or not item:
            self._entry(f"{indent}-", item, indent + "  ", depth)
            return
        mark = f"{indent}- "
        for key, value in item.items():
            self._entry(f"{mark}{key}:", value, indent + "    ", depth + 1)
            mark = indent + "  "

    def _entry(self, before: str, value: Any, indent: str, depth: int) -> None:
        shown = _scalar(value)
        if isinstance(value, dict | list) and value:
            is_short = isinstance(value, list) and all(not isinstance(item, dict | list) for item in value)
            line = ", ".join(map(_scalar, value)) if is_short else ""
            if is_short and len(line) < 100 and "\n" not in line:
                self._put(f"{before} {line}\n")
            else:
                self._put(f"{before}\n")
                self._value(value, indent, depth + 1)
        elif "\n" in shown.strip():
            lines = "".join(f"{indent}{line}".rstrip() + "\n" for line in shown.strip().split("\n"))
            self._put(f"{before}\n{lines}")
        else:
            self._put(f"{before} {shown}".rstrip() + "\n")


def _scalar(value: Any) -> str:
    if isinstance(value, dict | list):
        return "" if value else ("{}" if isinstance(value, dict) else "[]")
    return {True: "true", False: "false", None: ""}.get(value) or str(value) if value is not None else ""
