"""The certificate of a takedown for people: a page that an auditor can read, made from the certificate alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ibidem.page import Html, document, join, table, tag

Record = Mapping[str, Any]

STATES = {
    "holds": "contains them",
    "saw": "was made from what contains them",
    "may have seen": "was made from an earlier state of the dataset",
    "made again since": "saw them, and was made again since",
    "gone since": "saw them, and is no longer there",
}
REASONS = {"removal.requested": "requested", "removal.cluster": "near duplicate"}
DIGITS = 16
"""Digits of a hash on the page; the JSON file has all."""


def page(statements: Sequence[Record]) -> str:
    """Return the page."""
    predicates = [statement["predicate"] for statement in statements]
    done = all(predicate["state"] == "done" for predicate in predicates)
    left = sum(len(predicate["residuals"] or ()) for predicate in predicates)
    removed = sum(len(predicate["removed"]) for predicate in predicates)
    return document(
        f"Takedown: {_documents(removed)}",
        tag("header", tag("h1", _title(removed, left, done=done)), _figures(predicates, removed, left, done=done)),
        tag("section", tag("h2", "Requests"), _requests(predicates)),
        *(_dataset(predicate) for predicate in predicates),
        tag("section", tag("h2", "How this was checked"), *(tag("p", line) for line in _method(predicates))),
    )


def _title(removed: int, left: int, *, done: bool) -> str:
    if not done:
        return f"The removal of {_documents(removed)} is planned and not confirmed."
    found = f", and {left:,} residuals were found." if left else "."
    return f"{_documents(removed)} {'was' if removed == 1 else 'were'} removed{found}"


def _figures(predicates: Sequence[Record], removed: int, left: int, *, done: bool) -> Html:
    first = predicates[0]
    times = [predicate.get("volatile", {}).get("done") for predicate in predicates]
    figures = (
        ("documents removed" if done else "documents to be removed", removed, ""),
        ("documents left over", left if done else None, "by request, hash and MinHash"),
        ("completed", max(filter(None, times), default="not stated") if done else "not confirmed", ""),
        ("operator", first.get("operator") or "not stated", ""),
        ("requests", len(first["requests"]), f"{_num_unmatched(predicates):,} match nothing"),
        ("artifacts that saw the documents", sum(len(predicate["seen_by"]) for predicate in predicates), ""),
    )
    cells = [tag("div", tag("dt", name), tag("dd", value, tag("small", note))) for name, value, note in figures]
    return tag("dl", *cells, cls="figures")


def _num_unmatched(predicates: Sequence[Record]) -> int:
    return len(set.intersection(*(set(predicate["unmatched"]) for predicate in predicates)))


def _requests(predicates: Sequence[Record]) -> Html:
    removed = Counter(row["detail"] for predicate in predicates for row in predicate["removed"])
    idle = set.intersection(*(set(predicate["unmatched"]) for predicate in predicates))
    is_planned = any(predicate["state"] != "done" for predicate in predicates)
    requests = {request["id"]: request for predicate in predicates for request in predicate["requests"]}
    heads = ("Request", "Ticket", "Received", "Requested by", "Legal basis", "Outcome")
    rows = [
        (
            _request(request),
            *(
                request.get(name) or tag("span", "not stated", cls="soft")
                for name in ("ticket", "received", "by", "basis")
            ),
            _outcome(removed[key], is_idle=key in idle, is_planned=is_planned),
        )
        for key, request in requests.items()
    ]
    return table(heads, rows)


def _request(request: Record) -> Html:
    limit = f" in {request['repo']}" if request["repo"] else ""
    return join(request["kind"], " ", tag("code", request["value"]), limit, _small(request["id"]))


def _outcome(count: int, *, is_idle: bool, is_planned: bool) -> Html | str:
    if is_idle:
        return tag("span", "matches nothing", cls="bad")
    if not count:
        return "honored before, by another request, or never in the corpus"
    return f"{_documents(count)} {'to be removed' if is_planned else 'removed'}"


def _dataset(predicate: Record) -> Html:
    facts = predicate["dataset"]
    files = predicate["files"]
    return tag(
        "section",
        tag("h2", facts["path"]),
        tag("p", predicate["statement"]),
        tag("p", "Before ", tag("code", facts["before"]), ", after ", tag("code", facts["after"]), "."),
        tag("p", "Files rewritten or removed: ", len(files["rewritten"]), "; unchanged: ", files["untouched"], "."),
        tag("h3", "Removed documents"),
        _removed(predicate["removed"]),
        *([tag("h3", "Residuals"), _residuals(predicate["residuals"])] if predicate["residuals"] else []),
        tag("h3", "Artifacts that saw them"),
        _seen_by(predicate["seen_by"]),
    )


def _removed(rows: Sequence[Record]) -> Html:
    heads = ("Record", "Path", "Why", "SHA-256")
    cells = [
        (
            join(row.get("record") or "not stated", _small(f"{row['shard']}, row {row['row']}")),
            join(row.get("path") or "", _small(row.get("repo") or "")),
            join(REASONS.get(row["reason"], row["reason"]), _small(row["detail"])),
            tag("code", row["sha256"][:DIGITS]),
        )
        for row in rows
    ]
    return table(heads, cells)


def _small(text: str) -> Html:
    return tag("div", text, cls="soft")


def _documents(count: int) -> str:
    return "1 document" if count == 1 else f"{count:,} documents"


def _residuals(rows: Sequence[Record]) -> Html:
    return table(("Shard", "Row", "Found by"), [(row["shard"], row["row"], row["by"]) for row in rows], right=(1,))


def _seen_by(rows: Sequence[Record]) -> Html:
    heads = ("Artifact", "Kind", "What it did", "Documents", "Digest")
    cells = [
        (
            row["path"],
            row["kind"],
            STATES.get(row["state"], row["state"]),
            len(row["spans"]) or "",
            tag("code", row["digest"][:23]),
        )
        for row in rows
    ]
    return table(heads, cells, right=(3,))


def _method(predicates: Sequence[Record]) -> list[str]:
    places = dict.fromkeys(place for predicate in predicates for place in predicate["searched"])
    count = max(predicate.get("artifacts_found", 0) for predicate in predicates)
    return [
        "What is left was searched for by the requests, by exact hash, by the hash of the words and by MinHash.",
        f"Artifacts that saw the documents were searched for below {', '.join(places) or 'no folder'}: {count:,} "
        "artifacts. What is kept elsewhere is not in this certificate.",
        "The result equals, byte for byte, a run of preprocess that had the requests from the start.",
        f"Written by {predicates[0]['tool']} from the JSON file of the same name, which has every row. A signature, if "
        "there is one, is beside it.",
    ]
