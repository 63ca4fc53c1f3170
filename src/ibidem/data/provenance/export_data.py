"""`ibidem export-data`: a copy of a dataset that other programs open; `ibidem takedown copy` removes documents from it.

    SOURCE/SPLIT/shard-00000.parquet   the shard of that name, its columns as `datasets` knows them
    README.md                          what it is, and for `datasets.load_dataset(folder)` which files are which split
    croissant.json                     Croissant 1.0, with the sha256 of every shard

The copy is an artifact of its own, which may be moved anywhere. Its rows keep their `sha256`, by which the certificate
of a takedown names the documents that have to leave it.
"""

import glob
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from pydantic import Field

from ibidem import __version__, artifacts, log
from ibidem.artifacts import Artifact, Draft, File, Input
from ibidem.config import POSITIONAL, configuration
from ibidem.data import shards
from ibidem.data.provenance.card import size_category
from ibidem.data.provenance.croissant import described
from ibidem.data.provenance.plain_words import table
from ibidem.errors import ArtifactError, DataError
from ibidem.figures import counted
from ibidem.files import sha256_of
from ibidem.readers import readers_of, recorded

KIND = "data-export"
CARD, CROISSANT = "README.md", "croissant.json"
ROLE = "removals"
"""Of the certificates that a copy honors."""
_SCRUBBED = pa.list_(pa.struct([("kind", pa.string()), ("places", pa.int32())]))
SCHEMA = shards.SCHEMA.set(shards.SCHEMA.get_field_index("scrubbed"), pa.field("scrubbed", _SCRUBBED))
"""As in a dataset, but for a map, which `datasets` does not know."""


@configuration
class ExportDataConfig:
    """Copy a dataset so that datasets.load_dataset and tools that read Croissant open it."""

    dataset: Annotated[Path, POSITIONAL]
    """Folder of a preprocessed or blended dataset."""
    output_dir: Path
    """Folder of the copy, an artifact."""


@configuration
class TakedownCopyConfig:
    """Remove the documents of a takedown from copies of the dataset."""

    certificate: Annotated[Path, POSITIONAL]
    """Certificate of `ibidem takedown apply`."""
    copy: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Folder of a copy that `ibidem export-data` made, wherever it is now; repeat for several."""


def export_data(config: ExportDataConfig) -> str:
    """Write the copy, and open it with `datasets` before it appears; return a line about it.

    Raises:
        AccessDenied: the dataset was written by a model that was tuned on documents that the user may not read.
        ArtifactError: something else is at `output_dir`, or the copy does not open as the dataset.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    dataset = shards.load_dataset(config.dataset)
    inputs = [dataset.as_input("dataset", of=config.output_dir)]
    chosen = {"name": dataset.path.resolve().name} | recorded(inputs, config.output_dir)
    if artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs) is None:
        is_private = readers_of(chosen) is not None
        with artifacts.create(
            config.output_dir, kind=KIND, config=chosen, inputs=inputs, is_private=is_private
        ) as draft:
            names = shards.shard_names(dataset)
            with log.progress("export.shards", len(names), "shards") as bar:
                for name in names:
                    _write(draft, name, map(_as_exported, shards.read_batches(dataset.path / name, SCHEMA.names)))
                    bar.advance()
            _describe(draft, chosen["name"], dataset.digest)
    exported = artifacts.load(config.output_dir, kind=KIND)
    return f"{exported.path}: {_size(exported)}, as {dataset.path} has them"


def takedown_copy(config: TakedownCopyConfig) -> str:
    """Remove the documents of a certificate from copies, check that none is left, and say how many there were.

    Raises:
        ArtifactError: there is no copy, or it is damaged.
        DataError: the certificate cannot be read.
    """
    gone = removed_by(config.certificate)
    certificate = Input.of_file(ROLE, config.certificate)
    return "\n".join(_remove(artifacts.verify(path, kind=KIND), gone, certificate) for path in config.copy)


def removed_by(certificate: Path) -> frozenset[str]:
    """Return the hashes of the documents that a certificate removes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        statements = json.loads(certificate.read_text(encoding="utf-8"))
        removed = [row["sha256"] for statement in statements for row in statement["predicate"]["removed"]]
    except OSError as error:
        raise DataError(f"certificate {certificate}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        what = "not a certificate; give the JSON file that ibidem takedown apply wrote beside the dataset"
        raise DataError(f"{certificate}: {what}") from None
    if not statements:
        raise DataError(f"{certificate}: not a certificate of ibidem takedown apply: it states nothing")
    return frozenset(removed)


def _remove(copy: Artifact, gone: Collection[str], certificate: Input) -> str:
    wanted = pa.array(sorted(gone), pa.string())
    touched = [name for name in shards.shard_names(copy) if pc.any(_holds(copy.path / name, wanted)).as_py()]
    if not touched:
        return f"{copy.path}: holds none of {counted(len(gone), 'document')}"
    inputs = sorted({*copy.inputs, certificate}, key=lambda item: (item.role, item.digest))
    is_private = readers_of(copy.config) is not None
    with artifacts.create(copy.path, kind=KIND, config=copy.config, inputs=inputs, is_private=is_private) as draft:
        for name in shards.shard_names(copy):
            if name in touched:
                _write(draft, name, _without(copy.path / name, wanted))
            else:
                (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(copy.path / name, draft.path / name)
                draft.rows[name] = pq.read_metadata(draft.path / name).num_rows
            if (draft.path / name).exists() and pc.any(_holds(draft.path / name, wanted)).as_py():
                raise ArtifactError(f"{copy.path / name}: a document is left; nothing is written")
        _describe(draft, copy.config["name"], copy.digest_of("dataset") or "")
    after = artifacts.load(copy.path, kind=KIND)
    left = counted(copy.counts["documents"] - after.counts["documents"], "document")
    return f"{copy.path}: {left} removed from {counted(len(touched), 'shard')}, none is left; {_size(after)}"


def _holds(path: Path, sha256s: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(pq.read_table(path, columns=["sha256"])["sha256"], sha256s)


def _without(path: Path, sha256s: pa.Array) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(shards.BATCH_ROWS):
            yield batch.filter(pc.invert(pc.is_in(batch["sha256"], sha256s)))


def _as_exported(batch: pa.RecordBatch) -> pa.RecordBatch:
    found = [[{"kind": kind, "places": places} for kind, places in row or ()] for row in batch["scrubbed"].to_pylist()]
    columns = [batch[name] if name != "scrubbed" else pa.array(found, _SCRUBBED) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _write(draft: Draft, name: str, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a shard; no file if there are no rows. The bytes depend only on the rows."""
    path, number, writer = draft.path / name, 0, None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for batch in shards.rebatched(batches):
            writer = writer or pq.ParquetWriter(path, SCHEMA, compression="zstd")
            writer.write_batch(batch)
            number += len(batch)
    finally:
        if writer is not None:
            writer.close()
    if number:
        draft.rows[name] = number
    elif not any(path.parent.iterdir()):
        path.parent.rmdir()


def _describe(draft: Draft, name: str, digest: str) -> None:
    """Write card and metadata from the shards that are in a draft, and open it.

    Raises:
        ArtifactError: `datasets` does not open it.
    """
    splits = splits_of(draft.rows)
    licenses: Counter[str] = Counter()
    for shard in draft.rows:
        licenses.update(
            value or "none" for value in pq.read_table(draft.path / shard, columns=["license"])["license"].to_pylist()
        )
    documents = sum(draft.rows.values())
    draft.counts |= {
        "documents": documents,
        "splits": {split: _documents(draft, names) for split, names in splits.items()},
    }
    draft.counts["license"] = dict(sorted(licenses.items(), key=lambda item: (-item[1], item[0])))
    (draft.path / CARD).write_text(_card(draft, name, digest, splits), encoding="utf-8", newline="")
    files = {
        each: File(sha256_of(draft.path / each), (draft.path / each).stat().st_size) for each in sorted(draft.rows)
    }
    metadata = described(
        name=name,
        description=f"{counted(documents, 'document')}; licenses by row; made by ibidem from {digest}.",
        licenses=[each for each in sorted(licenses) if each != "none"],
        version=__version__,
        identifier=digest,
        files=files,
        schema=SCHEMA,
    )
    text = json.dumps(metadata, ensure_ascii=False, indent=2) + "\n"
    (draft.path / CROISSANT).write_text(text, encoding="utf-8", newline="")
    check_opens(draft.path, draft.counts["splits"])


def splits_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the shards of each split, in reading order; a split has the name of the folder, as `datasets` allows it.

    >>> splits_of(["b/train/shard-0.parquet", "a/train/shard-0.parquet", "a/dev-1/shard-0.parquet"])
    {'dev_1': ['a/dev-1/shard-0.parquet'], 'train': ['a/train/shard-0.parquet', 'b/train/shard-0.parquet']}
    """
    found = defaultdict[str, list[str]](list)
    for name in sorted(names):
        found[re.sub(r"\W", "_", name.split("/")[-2])].append(name)
    return dict(sorted(found.items()))


def _documents(draft: Draft, names: Iterable[str]) -> int:
    return sum(draft.rows[name] for name in names)


def _card(draft: Draft, name: str, digest: str, splits: Mapping[str, list[str]]) -> str:
    data_files = [{"split": split, "path": [glob.escape(each) for each in names]} for split, names in splits.items()]
    front = {
        "pretty_name": name,
        "license": "other",
        "license_name": "see-the-column-license",
        "size_categories": [size_category(draft.counts["documents"])],
        "configs": [{"config_name": "default", "data_files": data_files}],
    }
    counts = [(split, f"{number:,}") for split, number in draft.counts["splits"].items()]
    licenses = [(each, f"{number:,}") for each, number in draft.counts["license"].items()]
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {name}",
        f"A copy of the dataset `{digest}`, written by `ibidem export-data`. It opens with "
        "`datasets.load_dataset(FOLDER)`; `croissant.json` describes it to other programs, and `manifest.json` "
        "has the hash of every file.",
        table(("split", "documents"), counts),
        table(("license", "documents"), licenses),
        "If documents have to be removed: `ibidem takedown copy CERTIFICATE --copy FOLDER`, or filter the rows whose "
        "`sha256` the certificate lists.",
    ]
    return "\n\n".join(parts) + "\n"


def check_opens(folder: Path, splits: Mapping[str, int]) -> None:
    """Open a copy with `datasets`, as anyone does.

    Args:
        folder: the copy.
        splits: number of documents of each split.

    Raises:
        ArtifactError: it does not open, or has other splits, columns or numbers of documents.
    """
    import datasets

    if not splits:  # `datasets` opens nothing that is empty
        return
    with tempfile.TemporaryDirectory(prefix="ibidem-") as cache:
        try:
            opened: Any = datasets.load_dataset(str(folder), streaming=True, cache_dir=cache)
            found = {split: (rows.column_names, rows.features is not None) for split, rows in opened.items()}
            firsts = {split: next(iter(rows))["sha256"] for split, rows in opened.items()}
        except Exception as error:  # noqa: BLE001 - whatever it raises, the copy does not open
            raise ArtifactError(
                f"the copy does not open: {' '.join(str(error).split())[:300]}; nothing is written"
            ) from None
    expected = dict.fromkeys(splits, (SCHEMA.names, True))
    if found != expected or set(firsts) != set(splits):
        raise ArtifactError(f"the copy opens with other splits or columns: {found}; nothing is written")


def _size(exported: Artifact) -> str:
    splits = ", ".join(f"{split} {number:,}" for split, number in exported.counts["splits"].items())
    return f"{counted(exported.counts['documents'], 'document')} ({splits or 'no split'})"
