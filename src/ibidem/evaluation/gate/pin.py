"""Write the digests of a policy's benchmarks into its file: `ibidem gate pin --policy FILE`.

Whoever approves the policy looks at the benchmarks once; from then on, nothing else counts as them.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from ibidem.config import build, read_yaml
from ibidem.data.filters.benchmarks import HUMAN_EVAL
from ibidem.errors import ConfigError, IbidemError
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.checks import BENCHMARK, Refusal, pins_due, settings_due
from ibidem.evaluation.gate.config import GateConfig, PinConfig
from ibidem.evaluation.published import title
from ibidem.figures import counted
from ibidem.files import write_file


def pin(config: PinConfig) -> str:
    """Write `pins` into the policy; return what each benchmark is.

    Raises:
        ConfigError: the policy is invalid, a benchmark cannot be read or asks the same twice, or the file cannot be
            edited without changing something else.
    """
    pins, lines = pins_of(build(GateConfig, read_yaml(config.policy), origin=f"{config.policy}: "))
    before = config.policy.read_bytes().decode()
    after = with_pins(before, pins)
    if not _differ_in_pins_alone(before, after, pins):
        raise ConfigError(f"{config.policy}: pins cannot be replaced alone; write them as a block of their own")
    write_file(config.policy.resolve(), after)
    return "\n".join([*lines, f"{config.policy}: {counted(len(pins), 'benchmark is', 'benchmarks are')} pinned"])


def _differ_in_pins_alone(before: str, after: str, pins: Mapping[str, Mapping[str, str]]) -> bool:
    try:
        old, new = (yaml.load(text, Loader=yaml.BaseLoader) for text in (before, after))  # noqa: S506 - text only
    except yaml.YAMLError:
        return False
    return bool(new == {**old, "pins": pins})


def with_pins(text: str, pins: Mapping[str, Mapping[str, str]]) -> str:
    r"""Return a YAML text with other `pins`; comments and all other keys stay.

    >>> print(with_pins("pins: {a: {b: c}}\nseed: 1 # so\n", {"x": {"benchmark": "sha256:0"}}), end="")
    pins: # written by ibidem gate pin
      "x":
        benchmark: sha256:0
    seed: 1 # so
    """
    block = "pins: # written by ibidem gate pin\n"
    for key, digests in pins.items():
        name = json.dumps(key, ensure_ascii=False)
        block += f"  {name}:\n" + "".join(f"    {each}: {digest}\n" for each, digest in digests.items())
    root = yaml.compose(text, Loader=yaml.BaseLoader)
    nodes = root.value if isinstance(root, yaml.MappingNode) else []
    found = next(((key, value) for key, value in nodes if key.value == "pins"), None)
    if found is None:
        return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{block}"
    start, end = found[0].start_mark.index, found[1].end_mark.index
    rows = text[start:end].splitlines(keepends=True)
    while rows and (not rows[-1].strip() or rows[-1].startswith("#")):  # what stands before the next key is its own
        end -= len(rows.pop())
    rest = text[end:].removeprefix("\r\n").removeprefix("\n") if not text[:end].endswith("\n") else text[end:]
    return text[:start] + block + rest


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
            kept = "the earlier pin stays" if key in pins else "not pinned"
            lines.append(f"{key}: {kept}, since there is nothing at {config.benchmarks[key]}")
            continue
        try:
            due = settings_due(config, key, tasks.TASKS[name])
            rows = tasks.TASKS[name].benchmark(config.benchmarks[key])
            pins[key] = pins_due(rows, tasks.TASKS[name], due)
        except (Refusal, OSError, IbidemError) as error:
            raise ConfigError(f"benchmarks.{key}: {error}") from None
        lines.append(f"{key}: {title(pins[key][BENCHMARK]) or 'not a published benchmark'}")
    return pins, lines
