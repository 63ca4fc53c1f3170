"""The certificate of a takedown: a file of in-toto statements, from which no earlier statement is ever withdrawn."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem import __version__, artifacts
from ibidem.artifacts import Artifact
from ibidem.data.filters import removals
from ibidem.data.filters.removals import Request
from ibidem.data.provenance.exposure import artifacts_in
from ibidem.data.provenance.plan import Plan
from ibidem.errors import ArtifactError, ConfigError
from ibidem.files import write_file

WEIGHTS_STATEMENT = (
    "Data were removed from the dataset. Weights are not unlearned: every checkpoint listed here was trained on the "
    "removed documents and keeps what it learned from them until it is trained again without them."
)


class Certificate:
    """A file of in-toto statements; earlier statements are never withdrawn."""

    def __init__(self, path: Path) -> None:
        self._path = path
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
        replaced = {statement["predicate"]["dataset"]["path"] for statement in statements}
        kept = [statement for path, statement in self._before.items() if path not in replaced]
        write_file(self._path, json.dumps([*statements, *kept], ensure_ascii=False, indent=1) + "\n")


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
) -> dict[str, Any]:
    """Return an in-toto statement (https://in-toto.io/Statement/v1) about one dataset; it contains no text.

    `left`: residuals; None before the removal.
    """
    before = plan.dataset
    hashes = [{name: file.sha256 for name, file in dataset.files.items()} for dataset in (before, after)]
    touched = _changed(*hashes)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": file.sha256}} for name, file in sorted(after.files.items())],
        "predicateType": "urn:ibidem:takedown:v1",
        "predicate": {
            "dataset": {"path": str(after.path), "before": before.digest, "after": after.digest},
            "requests": [request.tombstone for request in requests],
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
            "statement": WEIGHTS_STATEMENT,
            "tool": f"ibidem {__version__}",
        },
    }


def beside(dataset: Path, requests: Sequence[Request]) -> Path:
    """Return the default path of the certificate: beside the dataset, named by the requests."""
    key = removals.as_inputs([request.id for request in requests])[0].digest.removeprefix("sha256:")[:12]
    return dataset.parent / f"{dataset.name}.takedown-{key}.json"
