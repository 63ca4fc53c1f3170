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

PEERS = os.environ.get("PEERS_PYTHON", sys.executable)
PROGRAM = Path(__file__).with_name("liger_program.py")
COMPILE = """
import sys
import triton
from liger_kernel.ops.cross_entropy import liger_cross_entropy_kernel as kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

signature = {
    "X_ptr": "*bf16", "Y_ptr": "*i64", "loss_ptr": "*fp32", "n_non_ignore": "i32", "sum_non_ignore_weight": "i32",
    "X_stride": "i32", "Y_stride": "i32", "loss_stride": "i32", "token_accuracy_stride": "i32", "n_cols": "i32",
    "predicted_tokens_stride": "i32", "ignore_index": "i32",
    "weight_sum": "fp32", "lse_square_scale": "fp32", "label_smoothing": "fp32",
}
constants = dict.fromkeys(["weight_ptr", "z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr", "softcap"])
constants |= {"HAS_WEIGHT": False, "HAS_SOFTCAPPING": False, "HAS_GRADIENTS": True, "RETURN_Z_LOSS": False}
constants |= {"RETURN_TOKEN_ACCURACY": False, "RETURN_PREDICTED_TOKENS": False, "reduction": "sum", "BLOCK_SIZE": 32768}
assert set(kernel.arg_names) == signature.keys() | constants.keys()
source = ASTSource(
    fn=kernel,
    signature={name: signature.get(name, "constexpr") for name in kernel.arg_names},
    constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
)
compiled = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": 32})
print(len(compiled.asm["cubin"]))
"""
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
def test_models_that_processes_share_have_the_same_gradients(kind: str, tmp_path: Path) -> None:
    for process in [started(str(tmp_path / "meeting"), kind, RANK=rank) for rank in ("0", "1")]:
        of_loss, of_gradients = printed(process)  # type: ignore[misc]
        assert of_loss < 1e-3
        assert of_gradients < BFLOAT16


@pytest.mark.peer
@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernel_is_compiled_for_gpus_as_a_vocabulary_of_65_536_ids_calls_it(
    capability: str, tmp_path: Path
) -> None:
    """Triton needs no GPU to compile for one."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [PEERS, "-c", COMPILE, capability]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
