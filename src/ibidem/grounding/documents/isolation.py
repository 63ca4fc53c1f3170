"""Read one file in a process of its own, bounded in CPU time and memory, so that no file can stop the others.

python -m ibidem.grounding.documents.isolation KIND LANGUAGE CPU_S MEMORY_BYTES MAX_BYTES MAX_PAGES < FILE
"""

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ibidem.errors import DataError
from ibidem.figures import counted
from ibidem.grounding.documents.readable import Content, Kind, Section

if TYPE_CHECKING:
    from ibidem.grounding.config import ReadConfig

_MODULE = "ibidem.grounding.documents.isolation"
MAX_SHOWN = 120
"""Characters of an error that are shown."""


def read(raw: bytes, kind: Kind, language: str | None, limits: "ReadConfig") -> tuple[Kind, Content]:
    """Do what `reading.content_of` does, in another process.

    Raises:
        DataError: why the file cannot be read; among others, because it costs more than the limits.
    """
    budget = (limits.cpu_s, limits.memory_bytes, limits.max_bytes, limits.max_pdf_pages)
    command = [sys.executable, "-P", "-m", _MODULE, kind, language or "", *map(str, budget)]
    too_long = DataError(f"reading takes more than {counted(limits.cpu_s, 'CPU-second')}")
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter and our own words
            command, input=raw, capture_output=True, check=False, timeout=30 + 20 * limits.cpu_s
        )
    except subprocess.TimeoutExpired:
        raise too_long from None
    if done.returncode == -signal.SIGXCPU:
        raise too_long
    if done.returncode == -signal.SIGKILL:
        raise DataError("the reader was killed; the machine may have run out of memory")
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DataError(f"the reader failed: {last[:MAX_SHOWN] or f'exit code {done.returncode}'}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "refused" in answer:
        raise DataError(answer["refused"])
    sections = tuple(Section(tuple(title), start, end) for title, start, end in answer["sections"])
    return answer["kind"], Content(answer["text"], sections, tuple((start, end) for start, end in answer["whole"]))


def main() -> None:
    """Read the file from the input; write the content, or why it is refused, as JSON."""
    kind, language, cpu_s, memory_bytes, max_bytes, max_pages = sys.argv[1:7]
    raw = sys.stdin.buffer.read()
    _limit(int(cpu_s), int(memory_bytes))
    try:
        answer = _answer(raw, kind, language or None, int(max_bytes), int(max_pages))
    except DataError as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"refused": f"reading takes more than {int(memory_bytes) >> 20:,} MB of memory"}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def _answer(raw: bytes, kind: Any, language: str | None, max_bytes: int, max_pages: int) -> dict[str, Any]:
    from ibidem.grounding.documents.reading import content_of

    kind, content = content_of(raw, kind, language, max_bytes=max_bytes, max_pages=max_pages)
    return {"kind": kind, **content._asdict()}


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # there is none on Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    if sys.platform != "darwin":  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
