"""Write the digests of a policy's benchmarks into its file: `ibidem gate pin --policy FILE`.

Whoever approves the policy looks at the benchmarks once; from then on, nothing else counts as them.
"""

import re
from pathlib import Path

from ibidem.config import build, read_yaml
from ibidem.data.filters.benchmarks import HUMAN_EVAL
from ibidem.errors import ConfigError, IbidemError
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.checks import BENCHMARK, Refusal, pins_due, settings_due
from ibidem.evaluation.gate.config import GateConfig, PinConfig
from ibidem.evaluation.gate.published import PUBLISHED
from ibidem.files import write_file

_BLOCK = re.compile(r"^pins:.*\n(?:[ \t#].*\n|\n(?=[ \t]))*", re.MULTILINE)


def pin(config: PinConfig) -> str:
    """Write `pins` into the policy; return what each benchmark is.

    Raises:
        ConfigError: the policy is invalid, or a benchmark cannot be read or asks the same twice.
    """
    pins, lines = pins_of(build(GateConfig, read_yaml(config.policy), origin=f"{config.policy}: "))
    text = config.policy.read_text(encoding="utf-8")
    block = "pins: # written by ibidem gate pin\n"
    for key, digests in pins.items():
        block += f"  {key}:\n" + "".join(f"    {name}: {digest}\n" for name, digest in digests.items())
    start = text if text.endswith("\n") else f"{text}\n"
    write_file(config.policy, _BLOCK.sub(lambda _: block, start, count=1) if _BLOCK.search(start) else start + block)
    return "\n".join([*lines, f"{config.policy}: {len(pins)} benchmarks are pinned"])


def pins_of(config: GateConfig) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the pins of a policy's benchmarks that are at hand, and a line on each benchmark.

    Raises:
        ConfigError: a benchmark cannot be read, or asks the same twice.
    """
    pins: dict[str, dict[str, str]] = dict(config.pins)
    lines = []
    for key, name in {criterion.evidence: criterion.task for criterion in config.criteria.values()}.items():
        if name not in tasks.TASKS or key not in config.benchmarks:
            lines.append(f"{key}: not pinned, since benchmarks.{key} is not set or {name} is no task")
            continue
        if config.benchmarks[key] != HUMAN_EVAL and not Path(config.benchmarks[key]).exists():
            lines.append(f"{key}: not pinned, since there is nothing at {config.benchmarks[key]}")
            continue
        try:
            due = settings_due(config, key, tasks.TASKS[name])
            pins[key] = pins_due(config.benchmarks[key], tasks.TASKS[name], due)
        except (Refusal, OSError, IbidemError) as error:
            raise ConfigError(f"benchmarks.{key}: {error}") from None
        lines.append(f"{key}: {PUBLISHED.get(pins[key][BENCHMARK], 'not a published benchmark')}")
    return pins, lines
