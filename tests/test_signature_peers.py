"""Peers of the signatures: another implementation of DSSE verifies ours, and OpenSSF signs what we seal.

PEERS_PYTHON names a Python that has them: `pip install securesystemslib model-signing pyOpenSSL`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ibidem import artifacts, signatures
from ibidem.errors import DigestMismatch

PEERS = os.environ.get("PEERS_PYTHON", sys.executable)
ENVELOPE = """
import base64, json, sys
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
tree, public = json.load(open(sys.argv[1])), base64.b64decode(sys.argv[2])
key = SSlibKey(tree["signatures"][0]["keyid"], "ed25519", "ed25519", {"public": public.hex()})
envelope = Envelope.from_dict(tree)
envelope.verify([key], 1)
print(json.loads(envelope.payload)["predicateType"])
"""
SIGN = """
import sys
import model_signing
model_signing.signing.Config().use_elliptic_key_signer(private_key=sys.argv[2]).sign(sys.argv[1], sys.argv[3])
"""
VERIFY = """
import sys
import model_signing
model_signing.verifying.Config().use_elliptic_key_verifier(public_key=sys.argv[2]).verify(sys.argv[1], sys.argv[3])
"""


def peer(needed: str, script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    if subprocess.run([PEERS, "-c", f"import {needed}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{needed} is not installed; name a Python that has it in PEERS_PYTHON")
    command = [PEERS, "-c", script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.peer
def test_another_implementation_of_dsse_verifies_our_envelope(tmp_path: Path) -> None:
    public = signatures.create_key(tmp_path / "key")
    payload = signatures.statement({"checkpoint": "sha256:ab"}, signatures.TEST_RESULT, {"result": "PASSED"})
    envelope = signatures.sign(payload, signatures.open_key(tmp_path / "key"))
    (tmp_path / "envelope.json").write_text(json.dumps(envelope))
    words = (tmp_path / "envelope.json", public.removeprefix(signatures.PUBLIC_PREFIX))
    done = peer("securesystemslib", ENVELOPE, *words)
    assert done.stdout.strip() == signatures.TEST_RESULT, done.stderr
    (tmp_path / "envelope.json").write_text(json.dumps(envelope | {"payloadType": "text/plain"}))
    assert "VerificationError" in peer("securesystemslib", ENVELOPE, *words).stderr


@pytest.mark.peer
@pytest.mark.parametrize("damage", ["weights", "manifest", "extra", "missing"])
def test_openssf_model_signing_and_our_seal_refuse_the_same_damage(
    damage: str, checkpoint: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "private.pem").write_bytes(key.private_bytes(*form))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    signature = tmp_path / "model.sig"
    assert (done := peer("model_signing", SIGN, model, tmp_path / "private.pem", signature)).returncode == 0, (
        done.stderr
    )
    artifacts.verify(model)
    verify = (VERIFY, model, tmp_path / "public.pem", signature)
    assert (done := peer("model_signing", *verify)).returncode == 0, done.stderr
    file = {"weights": "model.safetensors", "manifest": artifacts.MANIFEST, "missing": "model.safetensors"}
    if damage == "extra":
        (model / "approved.txt").write_text("approved")
    elif damage == "missing":
        (model / file[damage]).unlink()
    else:
        data = bytearray((model / file[damage]).read_bytes())
        data[len(data) // 2] ^= 1
        (model / file[damage]).write_bytes(data)
    assert peer("model_signing", *verify).returncode != 0
    if damage != "manifest":
        with pytest.raises(DigestMismatch):
            artifacts.verify(model)
