"""The certificate of a takedown: a file of in-toto statements, from which no earlier statement is ever withdrawn.

    NAME.json            the statements, one for each dataset
    NAME.html            the same for people
    NAME.intoto.jsonl    with a key: a DSSE envelope for each statement, one a line

What differs between two runs of the same takedown, its times, is in `volatile`.

Source: the in-toto attestation framework v1, https://github.com/in-toto/attestation; spec/v1/bundle.md.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibidem import __version__, artifacts, jsonl
from ibidem.artifacts import Artifact
from ibidem.data.filters import removals
from ibidem.data.filters.removals import CASE, Request, merge_cases, side_by_side
from ibidem.data.provenance.certificate_page import page
from ibidem.data.provenance.exposure import artifacts_in
from ibidem.data.provenance.plan import Plan
from ibidem.errors import ArtifactError, ConfigError, SignatureError
from ibidem.files import write_file
from ibidem.page import is_page
from ibidem.signatures import STATEMENT_TYPE, Envelope, Statement, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PLANNED = "The removal of the documents listed here is planned; this certificate does not confirm it. "
NOTHING = "Nothing had to be removed from the dataset. "
DONE = "The documents listed here were removed from the dataset. "
WEIGHTS = (
    "Weights are not unlearned by a removal: every checkpoint listed here was, or may have been, trained on the "
    "documents and keeps what it learned from them until it is trained again without them."
)


class Certificate:
    """A file of in-toto statements; earlier statements are never withdrawn.

    Raises:
        ConfigError: the file is there and is something else, or is signed and there is no key to sign it again.
    """

    def __init__(self, path: Path, key: "Ed25519PrivateKey | None" = None) -> None:
        self._path, self._page, self._envelopes = path, path.with_suffix(".html"), path.with_suffix(".intoto.jsonl")
        self._key = key
        if path in (self._page, self._envelopes):
            raise ConfigError(f"{path} is the name of the page or of the signatures; choose a name that ends in .json")
        if self._page.exists() and not is_page(self._page):
            raise ConfigError(
                f"{self._page} exists and is not a page of ibidem; choose another path for the certificate"
            )
        if self._envelopes.exists() and key is None:
            raise ConfigError(f"{path} is signed; give --sign-with to sign the additions too")
        self._earlier = _read_envelopes(self._envelopes)
        try:
            statements = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            self._before = {statement["predicate"]["dataset"]["path"]: statement for statement in statements}
            self._hashes = {name: _hashes(statement) for name, statement in self._before.items()}
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} exists and is not a certificate; choose another path") from None

    def write(self, statements: Sequence[dict[str, Any]]) -> None:
        """Write statements, merged with those of an earlier run of the same takedown.

        Raises:
            ConfigError: the certificate belongs to another takedown.
        """
        for statement in statements:
            predicate = statement["predicate"]
            earlier = self._before.get(predicate["dataset"]["path"])
            if earlier is not None:
                before = earlier["predicate"]
                predicate["volatile"] = _times(before, predicate)
                predicate["operator"] = side_by_side(before.get("operator"), predicate["operator"])
                predicate["requests"] = _with_cases(before["requests"], predicate["requests"])
                if _ids(before["requests"]) != _ids(predicate["requests"]):
                    raise ConfigError(f"{self._path} is the certificate of other requests; choose another path")
                predicate["searched"] = _union(before.get("searched", []), predicate["searched"])
                predicate["dataset"]["before"] = before["dataset"]["before"]
                predicate["removed"] = _union(before["removed"], predicate["removed"])
                predicate["seen_by"] = _since(before["seen_by"], predicate["seen_by"])
                idle = before.get("unmatched", predicate["unmatched"])
                predicate["unmatched"] = [key for key in predicate["unmatched"] if key in idle]
                files = before["files"]
                changed = _changed(self._hashes[predicate["dataset"]["path"]], _hashes(statement))
                rewritten = files["rewritten"] | {
                    name: {"before": files["rewritten"].get(name, {"before": old})["before"], "after": new}
                    for name, (old, new) in changed.items()
                }
                untouched = files["untouched"] + len(files["rewritten"]) - len(rewritten)
                predicate["files"] = {"rewritten": dict(sorted(rewritten.items())), "untouched": untouched}
            predicate["statement"] = _sentence(predicate)
        replaced = {statement["predicate"]["dataset"]["path"] for statement in statements}
        kept = [statement for path, statement in self._before.items() if path not in replaced]
        everything = [*statements, *kept]
        write_file(self._path, json.dumps(everything, ensure_ascii=False, indent=1) + "\n")
        write_file(self._page, page(everything))
        if self._key is not None and all(statement["predicate"]["state"] == "done" for statement in everything):
            signed = [_signed(statement, self._key, self._earlier) for statement in everything]
            write_file(self._envelopes, jsonl.dumps(signed))


def _sentence(predicate: Mapping[str, Any]) -> str:
    if predicate["state"] == "planned":
        return PLANNED + WEIGHTS
    return (DONE if predicate["removed"] else NOTHING) + WEIGHTS


def _times(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return when the removal was first planned and when it was completed; a run that removes no more is neither."""
    earlier = before.get("volatile", {})
    was_done = before["state"] == "done" or earlier.get("done") is not None
    is_idle = was_done and all(row in before["removed"] for row in now["removed"])
    done = earlier.get("done") if is_idle else now["volatile"]["done"]
    return {"planned": earlier.get("planned") or now["volatile"]["planned"], "done": done}


def _with_cases(before: Sequence[Mapping[str, Any]], now: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    earlier = {request["id"]: request for request in before}
    return [request | dict.fromkeys(CASE) | merge_cases(earlier.get(request["id"], {}), request) for request in now]


def _read_envelopes(path: Path) -> list[Envelope]:
    try:
        return jsonl.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError:
        raise ConfigError(f"{path}: damaged; move it away to sign the certificate anew") from None


def _signed(statement: Statement, key: "Ed25519PrivateKey", earlier: Sequence[Envelope]) -> Envelope:
    """Sign a statement; signatures of others for the same statement are kept."""
    for envelope in earlier:
        with suppress(SignatureError):  # it is of another statement
            return sign(statement, key, envelope)
    return sign(statement, key)


def _ids(tombstones: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["id"] for row in tombstones}


def _hashes(statement: Mapping[str, Any]) -> dict[str, str]:
    return {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """Return (old hash, new hash or None) of each file that was rewritten or removed."""
    return {name: (old, after.get(name)) for name, old in sorted(before.items()) if after.get(name) != old}


def _since(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the earlier uses, updated with their state now, followed by the uses found for the first time."""
    latest = {(use["path"], use["digest"]): use for use in now}
    updated = []
    for use in before:
        current = latest.pop((use["path"], use["digest"]), use)
        certain = use if current.get("state") == "may have seen" else current  # the first takedown knew more
        updated.append(certain | _became(Path(use["path"]), use["digest"]))
    return updated + list(latest.values())


def _became(path: Path, digest: str) -> dict[str, str]:
    try:
        return {} if artifacts.load(path).digest == digest else {"state": "made again since"}
    except ArtifactError:
        return {"state": "gone since"}


def _union(before: list[Any], more: list[Any]) -> list[Any]:
    return before + [item for item in more if item not in before]


def statement_of(
    plan: Plan,
    after: Artifact,
    requests: Sequence[Request],
    searched: Sequence[Path],
    left: Sequence[dict[str, Any]] | None,
    *,
    operator: str | None,
    planned: str,
) -> dict[str, Any]:
    """Return an in-toto statement (https://in-toto.io/Statement/v1) about one dataset; it contains no text.

    Args:
        plan: what is or was to be removed from the dataset.
        after: the dataset now.
        requests: the requests.
        searched: folders that were searched for what saw the documents.
        left: residuals; None before the removal.
        operator: who carries out the takedown.
        planned: time of the plan.
    """
    before = plan.dataset
    hashes = [{name: file.sha256 for name, file in dataset.files.items()} for dataset in (before, after)]
    touched = _changed(*hashes)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": file.sha256}} for name, file in sorted(after.files.items())],
        "predicateType": "urn:ibidem:takedown:v1",
        "predicate": {
            "dataset": {"path": str(after.path), "before": before.digest, "after": after.digest},
            "operator": operator,
            "requests": [request.tombstone | dict.fromkeys(CASE) | dict(request.case) for request in requests],
            "unmatched": [request.id for request in plan.unmatched],
            "removed": [{"shard": shard, **gone._asdict()} for shard, rows in plan.rows.items() for gone in rows],
            "files": {
                "rewritten": {name: {"before": old, "after": new} for name, (old, new) in touched.items()},
                "untouched": len(before.files) - len(touched),
            },
            "state": "planned" if left is None else "done",
            "residuals": None if left is None else list(left),
            "searched": [str(path.resolve()) for path in searched if path.is_dir()],
            "artifacts_found": len(artifacts_in(searched)),
            "seen_by": [use.as_record() for use in plan.uses],
            "tool": f"ibidem {__version__}",
            "volatile": {"planned": planned, "done": None if left is None else now()},
        },
    }


def now() -> str:
    """Return the time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def beside(dataset: Path, requests: Sequence[Request]) -> Path:
    """Return the default path of the certificate: beside the dataset, named by the requests."""
    key = removals.as_inputs([request.id for request in requests])[0].digest.removeprefix("sha256:")[:12]
    return dataset.parent / f"{dataset.name}.takedown-{key}.json"
