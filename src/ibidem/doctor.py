"""`ibidem doctor`: what this machine has, what is wrong with it, and the remedy. Imports nothing heavy."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from ibidem.config import configuration

MEMORY_GB, DISK_GB = 4, 5
OLDEST_PYTHON = (3, 11)


@configuration
class DoctorConfig:
    """Check this machine."""

    workdir: Path = Path()
    """Folder where artifacts will be written."""


class Finding(NamedTuple):
    """The result of one check."""

    name: str
    value: str
    remedy: str | None = None
    """What to do; None if all is well."""


def doctor(config: DoctorConfig) -> str:
    """Return the results of all checks, followed by the remedies."""
    findings = [*_machine(config.workdir), *_packages(), *_accelerators(), _sandbox()]
    width = max(len(finding.name) for finding in findings)
    lines = [f"{'ok ' if f.remedy is None else '!! '} {f.name:<{width}}  {f.value}" for f in findings]
    remedies = [f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy]
    return "\n".join([*lines, "", *(remedies or ["no problems found"])])


def _machine(workdir: Path) -> list[Finding]:
    version = platform.python_version()
    old = sys.version_info < OLDEST_PYTHON
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        Finding("python", version, "install Python 3.11 or later" if old else None),
        Finding("cores", str(cores)),
        _threads(cores),
        _load(cores),
        _memory(),
        _disk(workdir),
    ]


def _threads(cores: int) -> Finding:
    value = os.environ.get("OMP_NUM_THREADS")
    too_many = value is not None and value.isdigit() and int(value) > cores
    remedy = f"unset OMP_NUM_THREADS or set it to {cores}; more threads than cores are far slower" if too_many else None
    return Finding("OMP_NUM_THREADS", value or "not set", remedy)


def _load(cores: int) -> Finding:
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        return Finding("load", "unknown")
    busy = load > cores / 2
    remedy = "other programs use this machine: training and evaluation will be slower" if busy else None
    return Finding("load", f"{load:.1f} on {cores} cores in the last minute", remedy)


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return Finding("memory", "unknown")
    remedy = f"the demo needs {MEMORY_GB} GB; close other programs" if total < MEMORY_GB else None
    return Finding("memory", f"{total:.1f} GB", remedy)


def _disk(workdir: Path) -> Finding:
    try:
        free = shutil.disk_usage(workdir).free / 1e9
    except OSError as error:
        return Finding("disk", f"{workdir}: {error.strerror}", "give --workdir an existing folder")
    if not os.access(workdir, os.W_OK):
        return Finding("disk", f"{workdir.resolve()} is not writable", "give --workdir a folder of your own")
    remedy = f"free some space: {DISK_GB} GB are needed" if free < DISK_GB else None
    return Finding("disk", f"{free:.0f} GB free in {workdir.resolve()}", remedy)


def _sandbox() -> Finding:
    """Start a jail and run its self-test."""
    from ibidem.errors import SandboxError
    from ibidem.sandbox.judge import Judge

    try:
        with Judge(workers=1):
            return Finding("sandbox", "works: model-written code can be judged here")
    except SandboxError as error:
        return Finding("sandbox", "none", str(error))


def _packages() -> list[Finding]:
    findings = []
    for line in metadata.requires("ibidem") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            findings.append(Finding(requirement.name, "missing", "pip install -c constraints.txt -e ."))
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        remedy = None if fits else f"needs {requirement.specifier}; pip install -c constraints.txt -e ."
        findings.append(Finding(requirement.name, version, remedy))
    return findings


def _accelerators() -> list[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return [Finding("GPU", "none: training runs on the CPU, in float32")]
    asked = [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - fixed words
    if answer.returncode != 0:
        return [Finding("GPU", "nvidia-smi fails", "reinstall or restart the NVIDIA driver")]
    names = "; ".join(answer.stdout.strip().splitlines())
    on_cpu = "+cpu" in metadata.version("torch")
    remedy = "this torch is a CPU build; install the CUDA build of the same version" if on_cpu else None
    return [Finding("GPU", names or "none listed", remedy)]
