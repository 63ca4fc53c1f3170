"""What `ibidem preprocess` takes on a cluster, before it starts: arithmetic with constants that benchmarks measured.

    prepare     read, clean, license, filter, scrub and write each document: by its bytes, on all cores
    decide      which documents are near duplicates: by their number, and by how many are similar to another one
    join        what the driver does alone: connected components
    transfer    what the machines read from the store and write to it; it overlaps with preparing

Times are those of cores like the ones that were measured, of all machines at work, without waiting.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from ibidem.config import configuration
from ibidem.figures import aligned, counted, duration, percent, size
from ibidem.places import CHUNK_BYTES

PREPARED_MB_PER_CPU_S = 40.0
"""Megabytes of source code for a CPU-second, all steps
(`benchmarks/results/public_data_pipeline.json`, mb_per_cpu_s)."""
DECIDED_CPU_US, SIMILAR_CPU_US = 15.0, 60.0
"""CPU-microseconds of deciding about a document, and beyond that about one that is similar to another one
(`benchmarks/results/dedup_scaling.json`, 4,000,000 documents)."""
JOINED_CPU_US, JOINED_SIMILAR_CPU_US = 0.1, 1.0
"""Of these, CPU-microseconds of the driver, for 4,000,000 documents: more where they no longer fit into its cache."""
DRIVER_BYTES, DRIVER_BASE_BYTES = 35, 250e6
"""Memory of the driver a document, and beyond that."""
WORKER_BYTES = 300e6
"""Memory of a worker; two and their driver take 534 MB (public_data_pipeline.json, peak_mb)."""
DECISION_DISK_BYTES = 2_500
"""Of the work folder a document: sketches, keys, verdicts."""
REQUESTS_OF_A_FILE, FILE_BYTES = 2, 256e6
"""A question for its size and one for its beginning."""
WORK_READS, WORK_WRITES = 39, 11
"""Of a shard, if the work files are at the store, too (docs/cluster.md)."""
HOUR_S, MEGA, GIGA = 3_600, 1e6, 1e9

Price = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]


@configuration
class DataPlanConfig:
    """Estimate time, memory, disk, requests and cost of preprocessing a corpus on a cluster."""

    gigabytes: Annotated[float, Field(gt=0, le=1_000_000_000)] = 1_000.0
    """Size of the documents, uncompressed."""
    documents: Annotated[int | None, Field(ge=1, le=10**15)] = None
    """Number of documents; empty: of 8 KB each."""
    files: Annotated[int | None, Field(ge=1, le=10**12)] = None
    """Number of files at the store; empty: of 256 MB each."""
    similar: Share = 0.3
    """Share of the documents that are similar to another one."""
    kept: Share = 0.5
    """Share of the bytes that is written at the end."""
    machines: Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(min_length=1)] = (1, 4, 16, 64)
    """Numbers of machines to set side by side."""
    cores: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Of a machine."""
    store_gb_per_s: Annotated[float, Field(ge=0.001, le=1_000_000)] = 1.0
    """What a machine reads from the store, or writes to it, in GB/s."""
    shard_size: Annotated[int, Field(ge=1)] = 2_000
    """Documents of a shard, as `ibidem preprocess --shard-size` says."""
    price_per_machine_hour: Price = 1.5
    """Price of a machine per hour, in any currency."""
    price_per_million_reads: Price = 0.4
    """Price of a million requests that read, in the same currency."""
    price_per_million_writes: Price = 5.0
    """Price of a million requests that write."""


class Estimate(NamedTuple):
    """A preprocessing on a number of machines."""

    machines: int
    cores: int
    prepare_s: float
    transfer_s: float
    decide_s: float
    join_s: float
    total_s: float
    worker_bytes: float
    """Memory of a machine."""
    driver_bytes: float
    disk_bytes: float
    """Of the work files."""
    reads: float
    """Requests to the store."""
    writes: float
    work_reads: float
    """More of them, if the work files are there, too."""
    work_writes: float
    cost: float
    work_cost: float
    """Of the requests for work files."""


def plan(config: DataPlanConfig) -> str:
    """Return a table with a column for each number of machines, and what is assumed."""
    estimates = [estimate(config, machines) for machines in config.machines]
    lines = aligned([(name, [write(each) for each in estimates]) for name, write in ROWS])
    return "\n".join([*lines, _assumed(config)])


def estimate(config: DataPlanConfig, machines: int) -> Estimate:
    """Return what a preprocessing takes on so many machines.

    >>> one, four = (estimate(DataPlanConfig(), machines) for machines in (1, 4))
    >>> 3 < one.total_s / four.total_s <= 4
    True
    """
    documents, num_bytes = _documents(config), config.gigabytes * GIGA
    cores = machines * config.cores
    prepare_s = num_bytes / MEGA / PREPARED_MB_PER_CPU_S / cores
    transfer_s = num_bytes * (1 + config.kept) / GIGA / (machines * config.store_gb_per_s)
    join_s = documents * (JOINED_CPU_US + config.similar * JOINED_SIMILAR_CPU_US) / MEGA
    decide_s = documents * (DECIDED_CPU_US + config.similar * SIMILAR_CPU_US) / MEGA / cores
    total_s = max(prepare_s, transfer_s) + decide_s + join_s
    files = config.files or math.ceil(num_bytes / FILE_BYTES)
    reads = num_bytes / CHUNK_BYTES + REQUESTS_OF_A_FILE * files
    writes = documents * config.kept / config.shard_size + num_bytes * config.kept / CHUNK_BYTES
    shards = documents / config.shard_size
    prices = (config.price_per_million_reads / MEGA, config.price_per_million_writes / MEGA)
    work_reads, work_writes = shards * WORK_READS, shards * WORK_WRITES
    return Estimate(
        machines=machines,
        cores=cores,
        prepare_s=prepare_s,
        transfer_s=transfer_s,
        decide_s=decide_s,
        join_s=join_s,
        total_s=total_s,
        worker_bytes=WORKER_BYTES * config.cores,
        driver_bytes=DRIVER_BASE_BYTES + DRIVER_BYTES * documents,
        disk_bytes=DECISION_DISK_BYTES * documents + num_bytes * config.kept,
        reads=reads,
        writes=writes,
        work_reads=work_reads,
        work_writes=work_writes,
        cost=machines * total_s / HOUR_S * config.price_per_machine_hour + reads * prices[0] + writes * prices[1],
        work_cost=work_reads * prices[0] + work_writes * prices[1],
    )


def _documents(config: DataPlanConfig) -> int:
    return config.documents or max(1, round(config.gigabytes * GIGA / 8_000))


ROWS: tuple[tuple[str, Callable[[Estimate], str]], ...] = (
    ("machines, cores", lambda of: f"{of.machines:,}, {of.cores:,}"),
    ("prepare", lambda of: duration(of.prepare_s)),
    ("  meanwhile transfer", lambda of: duration(of.transfer_s)),
    ("decide", lambda of: duration(of.decide_s)),
    ("join, on the driver alone", lambda of: duration(of.join_s)),
    ("total", lambda of: duration(of.total_s)),
    ("memory of a machine", lambda of: size(of.worker_bytes)),
    ("memory of the driver", lambda of: size(of.driver_bytes)),
    ("work files", lambda of: size(of.disk_bytes)),
    ("requests that read, that write", lambda of: f"{of.reads:,.0f}, {of.writes:,.0f}"),
    ("cost", lambda of: f"{of.cost:,.2f}"),
    ("with work files at the store", lambda of: f"{of.reads + of.work_reads:,.0f}, {of.writes + of.work_writes:,.0f}"),
    ("  and its cost", lambda of: f"{of.cost + of.work_cost:,.2f}"),
)


def _assumed(config: DataPlanConfig) -> str:
    return (
        f"assumed: {counted(_documents(config), 'document')}, {percent(config.similar, 0)} of them similar to another "
        f"one; {percent(config.kept, 0)} of {size(config.gigabytes * GIGA)} kept; {PREPARED_MB_PER_CPU_S:g} MB of "
        f"source code a CPU-second; {DECIDED_CPU_US:g} CPU-microseconds a document and {SIMILAR_CPU_US:g} more for a "
        f"similar one; {config.store_gb_per_s:g} GB/s between a machine and the store, in requests of "
        f"{size(CHUNK_BYTES)}"
    )
