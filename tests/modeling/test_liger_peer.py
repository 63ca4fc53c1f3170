"""The loss of liger-kernel, as it is called here, is the chunked one with the same gradients.

Triton's interpreter runs its kernels on a CPU. PEERS_PYTHON names a Python that has this project's dependencies and
`pip install -c constraints.txt --no-deps liger-kernel triton`, perhaps in a folder at the end of PYTHONPATH.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.processes import free_port

PEERS = os.environ.get("PEERS_PYTHON", sys.executable)
PROGRAM = Path(__file__).with_name("liger_program.py")
BFLOAT16 = 2e-2
"""Bound of gradients in bfloat16, whose numbers have a relative precision of 4e-3: liger rounds the logits too."""


def started(*words: str, **variables: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path} | variables
    command = [PEERS, str(PROGRAM), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def printed(process: subprocess.Popen[str]) -> object:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module", autouse=True)
def _liger() -> None:
    if subprocess.run([PEERS, "-c", "import liger_kernel, triton"], capture_output=True, check=False).returncode:
        pytest.skip("liger-kernel is not installed; name a Python that has it in PEERS_PYTHON")


@pytest.mark.peer
def test_value_and_all_gradients_equal_the_chunked_loss() -> None:
    errors = printed(started())
    assert isinstance(errors, dict)
    assert errors.pop("measured") == [0.0], "a measurement used liger's kernels"
    for name, (of_loss, of_gradients) in errors.items():
        assert of_loss < (1e-3 if name.startswith("bfloat16") else 1e-6), name
        assert of_gradients < (BFLOAT16 if name.startswith("bfloat16") else 2e-6), name
    assert len(errors) == 9


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["DDP", "FSDP"])
def test_models_that_processes_share_have_the_same_gradients(kind: str) -> None:
    port = str(free_port())
    for process in [started(port, kind, RANK=rank) for rank in ("0", "1")]:
        of_loss, of_gradients = printed(process)  # type: ignore[misc]
        assert of_loss < 1e-3
        assert of_gradients < BFLOAT16
