"""Requests that match nothing: a typing error or a document that was never here; either way somebody has to look."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem.artifacts import Artifact
from ibidem.data import shards
from ibidem.data.filters.removals import Kind, Request, owners_of, repo_at

CUTOFF = 0.6
"""Similarity from which a name is suggested: the default of difflib."""
MOST_COMPARED = 20_000
"""Names, of the most similar lengths, that are compared letter by letter: a second of work."""
MOST_SUGGESTIONS = 100
"""Requests for which a name is suggested."""
LIKE: Mapping[Kind, Sequence[Kind]] = {
    "repo": ("repo", "owner"),
    "owner": ("owner", "repo"),
    "path": ("path",),
    "url": ("url", "repo"),
}
"""Kinds of names to suggest for a request; hashes, records and texts have no near ones."""


def idle_requests(found: Iterable[tuple[Artifact, Sequence[Request]]], requests: Sequence[Request]) -> list[Request]:
    """Return the requests that match nothing in any of the datasets, which come with what matches nothing in each.

    Once a text is removed, only its certificate knows how many documents contained it: its request is honored.
    """
    found = list(found)
    texts = {row["id"] for dataset, _ in found for row in shards.read_tombstones(dataset) if row["kind"] == "text"}
    return [r for r in requests if r.id not in texts and all(r in without for _, without in found)]


def lines(idle: Sequence[Request], datasets: Sequence[Artifact]) -> list[str]:
    """Return a line for each of these requests, with the name in the datasets that was probably meant."""
    where = ", ".join(str(dataset.path) for dataset in datasets)
    names = _names(datasets) if any(request.kind in LIKE for request in idle) else {}
    told = []
    for number, request in enumerate(idle):
        meant = _meant(request, names) if number < MOST_SUGGESTIONS else None
        ticket = f" (ticket {request.case['ticket']})" if "ticket" in request.case else ""
        hint = f"; did you mean {meant}?" if meant else ""
        told.append(f"{request}{ticket}: matches nothing in {where}{hint}")
    return told


def _names(datasets: Sequence[Artifact]) -> dict[Kind, set[str]]:
    columns: dict[str, set[str]] = {"repo": set(), "path": set(), "url": set()}
    for path in (path for dataset in datasets for path in shards.shard_paths(dataset.path)):
        table = pq.read_table(path, columns=list(columns))
        for name, values in columns.items():
            values.update(value for value in pc.unique(table[name]).to_pylist() if value)
    repos = columns["repo"] | {repo for url in columns["url"] if (repo := repo_at(url))}
    folders = {str(folder) for path in columns["path"] for folder in PurePosixPath(path).parents} - {".", "/"}
    owners = {owner for repo in repos for owner in owners_of(repo)}
    return {"repo": repos, "owner": owners, "path": columns["path"] | folders, "url": columns["url"]}


def _meant(request: Request, names: Mapping[Kind, Collection[str]]) -> str | None:
    if request.kind == "path" and request.repo and request.repo.lower() not in map(str.lower, names["repo"]):
        near = _same(request.repo, names["repo"]) or _near(request.repo, names["repo"])
        return f"repo {near}" if near else None
    kinds = LIKE.get(request.kind, ())
    for find in (_same, _near):
        for kind in kinds:
            name = find(request.value, names[kind])
            if name and (kind, name) != (request.kind, request.value):
                return f"{kind} {name}"
    return None


def _same(value: str, known: Collection[str]) -> str | None:
    """Return the shortest known name with the same last part.

    >>> _same("flask/", ["pallets/click", "pallets/Flask"])
    'pallets/Flask'
    """
    last = _last(value)
    return min((name for name in known if _last(name) == last), key=lambda name: (len(name), name), default=None)


def _near(value: str, known: Collection[str]) -> str | None:
    """Return a known name that is spelled nearly the same, or whose last part is.

    >>> _near("palets/click", ["pallets/click"]), _near("clik", ["pallets/click"])
    ('pallets/click', 'pallets/click')
    """
    plain = value.lower().rstrip("/*")
    ranked = sorted(known, key=lambda name: (abs(len(name) - len(plain)), name))[:MOST_COMPARED]
    for part in (str.lower, _last) if "/" not in plain else (str.lower,):
        spelled = {part(name): name for name in reversed(ranked)}
        if near := get_close_matches(plain, spelled, n=1, cutoff=CUTOFF):
            return spelled[near[0]]
    return None


def _last(name: str) -> str:
    return name.lower().rstrip("/*").rpartition("/")[2]
