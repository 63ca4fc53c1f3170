r"""What public repositories that nobody tuned to lose, and what scrubbing replaces in them, against labels by hand.

`unseen_labeled.jsonl` names, by path, each file of REPOSITORIES that was lost, with the reason and the judgement
whether someone who owns the repository would have wanted it (`wrongly`) or not (`rightly`), and each value that was
scrubbed, by the digest of its bytes. Lost are files that are dropped, cannot be read, or are of an unknown kind; empty
files and exact copies are rightly lost, and need no label. Files of an unknown kind are lost if Linguist knows the
kind as one of programs, markup or prose. Not counted: hidden folders, links, and what is no text.

    before         by another tree of this program, whose `src` is BEFORE
    at first look  by the trees that looked at the groups behind the first one first, before anything was changed
                   because of them

    python benchmarks/unseen_repositories.py FOLDER [--before BEFORE] [--looks FIRST SECOND THIRD] [--groups NAME ...]
        [--result RESULT.json]

Groups that are not named, and trees that are not given, keep what the result has of them.

FOLDER holds the repositories as OWNER/NAME; those that are missing are cloned. Parsers of JavaScript and TypeScript as
in `scrub_leaves_code_that_parses.py`.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from scrub_leaves_code_that_parses import LANGUAGES, MOST_BYTES, Item, compare

from ibidem import artifacts
from ibidem.data import shards

LABELS = Path(__file__).with_name("unseen_labeled.jsonl")
DEFAULT_RESULT = Path("benchmarks/results/unseen_repositories.json")
REPOSITORIES = {
    "twenty": (
        "DaveGamble/cJSON", "apache/commons-lang", "bats-core/bats-core", "encode/httpx", "fmtlib/fmt", "google/gson",
        "gorilla/mux", "guzzle/psr7", "jekyll/jekyll", "libuv/libuv", "marshmallow-code/marshmallow", "nlohmann/json",
        "nvm-sh/nvm", "pmndrs/zustand", "serde-rs/json", "sinatra/sinatra", "sindresorhus/type-fest", "slimphp/Slim",
        "spf13/cobra", "tj/commander.js",
    ),
    "first look": (
        "rack/rack", "go-chi/chi", "sharkdp/fd", "fastify/fastify", "thephpleague/csv", "madler/zlib",
    ),
    "second look": (
        "square/okio", "catchorg/Catch2", "gin-gonic/gin", "sindresorhus/got", "Seldaek/monolog",
        "agronholm/apscheduler",
    ),
    "third look": (
        "apache/commons-cli", "colinhacks/zod", "expressjs/express", "lodash/lodash", "pallets/click", "psf/requests",
        "apache/kafka", "rails/rails",
    ),
}  # fmt: skip
"""The twenty were cured from; then six were looked at and cured from, another six, and eight."""
OWN = Path(__file__).parents[1] / "src"
NEED_NO_LABEL = frozenset({"empty", "duplicate.exact"})
UNREAD, UNREADABLE = "unread", "unreadable"
WRONGLY, RIGHTLY, UNJUDGED = "wrongly", "rightly", "unjudged"
GNU = ("general public license", "gpl-2", "gpl-3", "gplv2", "gplv3")


def main() -> None:
    if sys.argv[1:2] == ["--values"]:
        print(json.dumps(values([Path(line) for line in sys.stdin.read().splitlines()])))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--looks", type=Path, nargs=3, default=(None, None, None))
    parser.add_argument("--groups", nargs="+", choices=REPOSITORIES, default=list(REPOSITORIES))
    parser.add_argument("--result", type=Path, default=DEFAULT_RESULT)
    given = parser.parse_args()
    labels = Labels.read()
    trees = dict(zip(REPOSITORIES, (None, *given.looks), strict=True))
    known = json.loads(given.result.read_text(encoding="utf-8")) if given.result.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        result = known | {
            "command": f"python benchmarks/{Path(__file__).name} FOLDER --before BEFORE --looks FIRST SECOND THIRD",
            "machine": platform.machine(),
            **{
                name: known.get(name, {})
                | report(
                    given.folder,
                    REPOSITORIES[name],
                    labels,
                    {"before": given.before, "at first look": trees[name], "now": OWN},
                    Path(scratch) / name,
                )
                for name in given.groups
            },
        }
    given.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(given.result.read_text(encoding="utf-8"))


class Labels(NamedTuple):
    """Judgements by hand."""

    losses: dict[tuple[str, str], tuple[str, str]]
    """Of (repository, path): the judgement and the cause."""
    values: dict[tuple[str, str], str]
    """Of (kind, digest)."""

    @classmethod
    def read(cls) -> "Labels":
        rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
        return cls(
            {(row["repository"], row["path"]): (row["judgement"], row["cause"]) for row in rows if "path" in row},
            {(row["kind"], row["value"]): row["judgement"] for row in rows if "value" in row},
        )


class Outcome(NamedTuple):
    """What became of the files of one repository."""

    kept: dict[str, dict[str, Any]]
    lost: dict[str, str]
    """The reason, by path."""
    sizes: dict[str, int]


def report(
    folder: Path,
    repositories: tuple[str, ...],
    labels: Labels,
    trees: dict[str, Path | None],
    scratch: Path,
) -> dict[str, Any]:
    places = {name: fetched(folder / name, name) for name in repositories}
    result: dict[str, Any] = {"repositories": {name: revision(folder, name) for name in repositories}}
    for what, tree in trees.items():
        if tree is not None:
            outcomes = {name: preprocess(place, tree, scratch / what / name) for name, place in places.items()}
            result[what] = losses(outcomes, labels) | {"placeholders": placeholders(places, outcomes, labels, tree)}
    result["kept_naming_gnu"] = sorted(naming_gnu(places, outcomes))
    result["parsing"] = compare(sources(places, outcomes), scratch / "scripts.json")
    return result


def fetched(place: Path, name: str) -> Path:
    if not place.exists():
        command = ["git", "clone", "--quiet", "--depth", "1", f"https://github.com/{name}", str(place)]
        subprocess.run(command, check=True)
    return place


def revision(folder: Path, name: str) -> str:
    """Return the commit, from the clone or from a list beside the repositories; empty if it is not known."""
    listed = folder / "revisions.json"
    if listed.exists():
        return str(json.loads(listed.read_text(encoding="utf-8")).get(name, ""))
    command = ["git", "-C", str(folder / name), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def preprocess(place: Path, tree: Path, output: Path) -> Outcome | None:
    """Preprocess a repository with the settings of a newcomer; None if it is refused."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ibidem", "preprocess", "--dataset", f"{place}:train:text"]
    command += ["--output-dir", str(output)]
    done = subprocess.run(command, env=environment(tree), stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        return None
    sizes = {path.relative_to(place).as_posix(): path.stat().st_size for path in visible(place)}
    columns = ["record", "license", "language"]
    kept = {
        row["record"]: row
        for path in output.rglob("shard-*.parquet")
        for row in pq.read_table(path, columns=columns).to_pylist()
    }
    made = artifacts.load(output)
    dropped = [row for table in shards.read_dropped(made, ["record", "reason"]) for row in table.to_pylist()]
    lost = {row["record"]: row["reason"] for row in dropped}
    lost |= {item.file: UNREADABLE for item in shards.read_quarantine(made)}
    lost |= dict.fromkeys(sorted(sizes.keys() - kept.keys() - lost.keys()), UNREAD)
    return Outcome(kept, lost, sizes)


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def visible(place: Path) -> Iterator[Path]:
    """Yield the files outside hidden folders that are text."""
    for path in sorted(place.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(place).parts[:-1])
        if not is_hidden and path.is_file() and not path.is_symlink() and b"\0" not in path.read_bytes()[:8000]:
            yield path


def losses(outcomes: dict[str, Outcome | None], labels: Labels) -> dict[str, Any]:
    files: Counter[str] = Counter()
    size: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    unread = 0
    causes: dict[str, list[str]] = defaultdict(list)
    by_repository: dict[str, float] = {}
    unjudged: list[str] = []
    for name, outcome in outcomes.items():
        if outcome is None:
            continue
        own: Counter[str] = Counter(kept=len(outcome.kept))
        size["kept"] += sum(outcome.sizes.get(path, 0) for path in outcome.kept)
        for path, reason in outcome.lost.items():
            default = (RIGHTLY, "") if reason == UNREAD else (UNJUDGED, "")
            judgement, cause = labels.losses.get((name, path), default)
            if reason in NEED_NO_LABEL:
                judgement = RIGHTLY
            if reason == UNREAD and judgement == RIGHTLY:
                continue
            own[judgement] += 1
            size[judgement] += outcome.sizes.get(path, 0)
            unread += reason == UNREAD
            dropped[judgement] += reason not in {UNREAD, UNREADABLE}
            if judgement == WRONGLY:
                causes[f"{reason}: {cause}"].append(f"{name} {path}")
            elif judgement == UNJUDGED:
                unjudged.append(f"{name} {path}: {reason}")
        files.update(own)
        by_repository[name] = own[WRONGLY] / max(1, own.total())
    return {
        "refused": sorted(name for name, outcome in outcomes.items() if outcome is None),
        "files": dict(files),
        "files_lost_wrongly": files[WRONGLY] / max(1, files.total()),
        "of_those_read": (files[WRONGLY] - unread) / max(1, files.total() - unread),
        "bytes_lost_wrongly": size[WRONGLY] / max(1, size.total()),
        "worst_repository": max(by_repository.values(), default=0.0),
        "good_of_100_dropped": 100 * dropped[WRONGLY] / max(1, dropped.total()),
        "by_repository": by_repository,
        "causes": {cause: len(paths) for cause, paths in sorted(causes.items())},
        "wrongly": sorted(path for paths in causes.values() for path in paths)[:60],
        "unjudged": unjudged,
    }


def naming_gnu(places: dict[str, Path], outcomes: dict[str, Outcome | None]) -> Iterator[str]:
    """Yield the kept files whose head names a GNU license, to be read by hand."""
    for name, outcome in outcomes.items():
        for path, row in outcome.kept.items() if outcome else ():
            head = (places[name] / path).read_bytes()[:3000].decode(errors="replace").lower()
            if any(word in head for word in GNU):
                yield f"{name} {path}: {row['license']}"


def placeholders(
    places: dict[str, Path], outcomes: dict[str, Outcome | None], labels: Labels, tree: Path
) -> dict[str, Any]:
    """Count the values that a tree scrubs in the kept files, by kind and judgement."""
    paths = {places[name] / path: (name, path) for name, outcome in outcomes.items() for path in kept_of(outcome)}
    done = subprocess.run(
        [sys.executable, __file__, "--values"],
        input="\n".join(map(str, paths)),
        env=environment(tree),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    counts: Counter[tuple[str, str]] = Counter()
    unjudged: list[str] = []
    for path, kind, digest in json.loads(done.stdout):
        judgement = labels.values.get((kind, digest), UNJUDGED)
        counts[kind, judgement] += 1
        if judgement == UNJUDGED:
            unjudged.append(f"{' '.join(paths[Path(path)])}: {kind} {digest}")
    others = {pair: count for pair, count in counts.items() if pair[0] != "email"}
    return {
        "all": counts.total(),
        "wrong": sum(count for (_, judgement), count in counts.items() if judgement == WRONGLY),
        "without_email": sum(others.values()),
        "wrong_without_email": sum(count for (_, judgement), count in others.items() if judgement == WRONGLY),
        "by_kind": {f"{kind}, {judgement}": count for (kind, judgement), count in sorted(counts.items())},
        "unjudged": unjudged,
    }


def kept_of(outcome: Outcome | None) -> list[str]:
    return list(outcome.kept) if outcome else []


def values(paths: list[Path]) -> list[tuple[str, str, str]]:
    """Find what is scrubbed in files: path, kind and digest of the value."""
    from ibidem.data.scrub.scrubber import Scrubber, ScrubPolicy

    scrub, found = Scrubber(ScrubPolicy()), []
    for path in paths:
        data = path.read_bytes()
        for (start, end), kind in scrub._find(data):
            found.append((str(path), kind, hashlib.sha256(data[start:end]).hexdigest()[:16]))
    return found


def sources(places: dict[str, Path], outcomes: dict[str, Outcome | None]) -> Iterator[Item]:
    for name, outcome in outcomes.items():
        for path, row in outcome.kept.items() if outcome else ():
            data = (places[name] / path).read_bytes()
            if row["language"] in LANGUAGES and len(data) <= MOST_BYTES:
                yield f"{name} {path}", row["language"], data.decode(errors="replace")


if __name__ == "__main__":
    main()
