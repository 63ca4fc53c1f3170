"""The configuration of a judge."""

from typing import Annotated, Literal

from pydantic import Field

from ibidem.config import configuration
from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge


@configuration
class SandboxConfig:
    """How model-written code is run."""

    sandbox: Literal["namespaces", "docker"] = "namespaces"
    """Linux namespaces, or Docker containers where namespaces are not available."""
    sandbox_image: str = "python:3.11-slim"
    """With docker: a local image. Nothing is pulled, and the image must not contain the benchmarks."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Number of programs judged in parallel."""
    cpu_s: Annotated[int, Field(ge=1, le=3600)] = 10
    """CPU seconds for a program, and as many for its tests."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Address space of a program, in MiB."""


def open_judge(config: SandboxConfig) -> Judge:
    """Open a judge.

    Raises:
        SandboxError: no jail can be made here, or one fails its self-test.
    """
    limits = Limits(cpu_s=config.cpu_s, memory_bytes=config.memory_mb << 20)
    return Judge(config.workers, limits, sandbox=config.sandbox, image=config.sandbox_image)
