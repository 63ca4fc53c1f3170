"""Refusal rates on XSTest's unsafe and safe prompts, before and after SFT on synthesized conversations.

The conversations are those of `ibidem synthesize` on the demo's corpus; one in ten is a refusal, or a harmless request
that sounds unsafe. Answers are drawn greedily, and counted by `ibidem evaluate refusals`.

    export OMP_NUM_THREADS=1
    python benchmarks/refusals_before_and_after_sft.py artifacts/demo xstest_prompts.csv \
        benchmarks/results/refusals_before_and_after_sft.json
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ibidem

TRACES, STEPS, BATCH, MAX_TOKENS = 1500, 200, 16, 40
OPTIM: dict[str, Any] = {"name": "muon", "lr": 1e-2, "matrix_lr": 4e-3, "floor": 0.0}


def rates(checkpoint: Path, prompts: Path, folder: Path) -> dict[str, Any]:
    """Return the refusal rate of each label, with what it was counted over."""
    found = ibidem.evaluate(
        "refusals", checkpoint=checkpoint, prompts=prompts, output_dir=folder, max_tokens=MAX_TOKENS, temperature=0.0
    )
    names = [name for name in found.results if name.startswith("refused.")]
    return {name: {"rate": found[name], "of": found.results["trials"][name]} for name in names}


def main() -> None:
    root, prompts, output = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    initial = next(iter(sorted(root.glob("pretrain-*"))), root)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        traces = ibidem.synthesize(root / "public", output_dir=folder / "traces", number=TRACES)
        before = time.process_time()
        tuned = ibidem.sft(
            initial=initial,
            data=traces,
            output_dir=folder / "sft",
            training={"steps": STEPS, "batch_sequences": BATCH, "micro_batch_sequences": BATCH},
            optim=OPTIM,
            validation={"every": STEPS},
        )
        rows = {
            "before": rates(initial, prompts, folder / "before"),
            "after": rates(tuned.path, prompts, folder / "after"),
            "sft": {"conversations": len(traces), "cpu_s": round(time.process_time() - before), **tuned.counts},
        }
    command = f"python benchmarks/refusals_before_and_after_sft.py artifacts/demo {prompts.name} RESULT"
    settings = {"traces": TRACES, "steps": STEPS, "batch": BATCH, "optim": OPTIM}
    output.write_text(json.dumps({"command": command, "settings": settings, **rows}, indent=1) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
