"""Signatures: who made a statement, as in-toto statements in DSSE envelopes signed with Ed25519.

    {"payloadType": "application/vnd.in-toto+json",
     "payload":     base64 of {"_type", "subject": [{"name", "digest"}], "predicateType", "predicate"},
     "signatures":  [{"keyid": public key, "sig": base64}]}

A private key is a PEM file that only its owner may read. A public key is written `ed25519:` and its 32 bytes in base64.
A secret key is a file of 32 random bytes. One belongs to this user on this machine: with it a program recognizes what
it wrote itself, and makes keyed hashes that nobody else can compute from a guess.

Sources: RFC 8032 (Ed25519); the DSSE protocol v1, https://github.com/secure-systems-lab/dsse; the in-toto statement v1,
https://github.com/in-toto/attestation; RFC 2104 (HMAC).
"""

import base64
import hmac
import json
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibidem import log
from ibidem.errors import ConfigError, SignatureError
from ibidem.files import flush

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PUBLIC_PREFIX = "ed25519:"
KEY_BYTES = 32

Envelope = Mapping[str, Any]
Statement = dict[str, Any]


def create_key(path: Path) -> str:
    """Create a private key that only its owner may read; return the public key.

    Raises:
        ConfigError: something is at `path` already.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_secret(path, pem)
    except FileExistsError:
        raise ConfigError(f"{path} exists; a key is never overwritten") from None
    return public_key(key)


def open_key(path: Path) -> "Ed25519PrivateKey":
    """Read a private key.

    Raises:
        ConfigError: it is not an Ed25519 key, or others may read it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read_secret(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"key {path}: not an unencrypted private key in PEM; make one with ibidem key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"key {path}: not an Ed25519 key; make one with ibidem key")
    return key


def public_key(key: "Ed25519PrivateKey") -> str:
    """Return the public half of a private key as text."""
    return PUBLIC_PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def is_public_key(text: str) -> bool:
    """Return whether a text is a public key.

    >>> is_public_key("ed25519:" + "A" * 43 + "="), is_public_key("ed25519:AAAA")
    (True, False)
    """
    try:
        data = base64.b64decode(text.removeprefix(PUBLIC_PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(PUBLIC_PREFIX) and len(data) == KEY_BYTES


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> Statement:
    """Return an in-toto statement about subjects, given as `sha256:...` digests by name."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": digest_set(digest)} for name, digest in subjects.items()],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def digest_set(digest: str) -> dict[str, str]:
    """Return a digest in in-toto's form.

    >>> digest_set("sha256:ab")
    {'sha256': 'ab'}
    """
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def sign(payload: Statement, key: "Ed25519PrivateKey", earlier: Envelope | None = None) -> Envelope:
    """Sign a statement; a signature of another key in an earlier envelope of the same statement is kept.

    Raises:
        SignatureError: the earlier envelope holds another statement.
    """
    data = json.dumps(payload, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    kept: list[Mapping[str, Any]] = []
    if earlier is not None:
        if _payload(earlier) != data:
            raise SignatureError("the existing signature is of another statement")
        _signatures(earlier)
        kept = [each for each in earlier["signatures"] if each.get("keyid") != public_key(key)]
    signature = base64.b64encode(key.sign(_encoded(PAYLOAD_TYPE, data))).decode()
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(data).decode(),
        "signatures": [*kept, {"keyid": public_key(key), "sig": signature}],
    }


def verify(envelope: Envelope, keys: Collection[str]) -> tuple[Statement, list[str]]:
    """Return the statement of an envelope, and those of the public keys that have signed it.

    Raises:
        SignatureError: the envelope is malformed, or none of the keys has signed it.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data, signed = _payload(envelope), []
    for text in keys:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix(PUBLIC_PREFIX)))
        for each in _signatures(envelope):
            try:
                key.verify(base64.b64decode(each, validate=True), _encoded(PAYLOAD_TYPE, data))
            except (InvalidSignature, ValueError):
                continue
            signed.append(text)
            break
    if not signed:
        raise SignatureError("none of the accepted keys has signed it")
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        raise SignatureError("the signed payload is not JSON") from None
    if not isinstance(payload, dict) or payload.get("_type") != STATEMENT_TYPE:
        raise SignatureError("the signed payload is not an in-toto statement")
    return payload, signed


def secret_key(path: Path | None, *, create: bool = True) -> bytes:
    """Return a secret key of 32 bytes, which only its owner may read.

    Args:
        path: the file, in an existing folder; None: this user's own, in the state folder.
        create: create it if its file is missing.

    Raises:
        ConfigError: it is missing, cannot be created or read, others may read it, or it has another length.
    """
    file = path or state_folder() / "key"
    try:
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"key {path}: no such folder; make it, or correct the path")
        if not create and not file.exists():
            raise ConfigError(f"key {file}: no such key; give the one that the index was made with, --key FILE")
        return _created_or_read(file)
    except OSError as error:
        raise ConfigError(f"key {file}: {error.strerror}; choose a file that you can write with --key") from None


def keyed(key: bytes, *parts: str) -> str:
    """Return the HMAC-SHA-256 of texts as 64 hexadecimal characters; the first part names the purpose.

    Each part is preceded by its length, so no two lists of parts have the same encoding.

    >>> keyed(bytes(32), "chunk", "ab", "c") == keyed(bytes(32), "chunk", "a", "bc")
    False
    """
    message = bytearray()
    for part in parts:
        data = part.encode(errors="surrogatepass")
        message += len(data).to_bytes(8, "big") + data
    return hmac.digest(key, message, "sha256").hex()


def local_mac(*parts: str) -> str:
    """Return a message authentication code that only this user on this machine can make.

    The key is created at the first use, in the user's state folder. Where there is no such folder, the key lasts as
    long as the process: nothing of an earlier run is recognized then.
    """
    return keyed(_local_key(state_folder()), *parts)


def is_local_mac(mac: object, *parts: str) -> bool:
    """Return whether `local_mac` made this code, in constant time."""
    return isinstance(mac, str) and hmac.compare_digest(mac.encode(errors="replace"), local_mac(*parts).encode())


def state_folder() -> Path:
    """Return the folder for what this user's programs keep: $XDG_STATE_HOME/ibidem, or ~/.local/state/ibidem."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "")
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises where there is none
    return (base if base.is_absolute() else Path(home, ".local", "state")) / "ibidem"


@cache
def _local_key(folder: Path) -> bytes:
    try:
        return _created_or_read(folder / "key")
    except OSError as error:
        log.event("signatures.no_state", folder=str(folder), reason=error.strerror)
        return secrets.token_bytes(KEY_BYTES)


def _created_or_read(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        _write_secret(draft, secrets.token_bytes(KEY_BYTES))
        try:
            os.link(draft, path)  # complete at once, and the first process wins
            flush(path.parent)  # what is made with it must not outlive it
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    data = _read_secret(path)
    if len(data) != KEY_BYTES:
        raise ConfigError(f"key {path}: damaged, or no secret key; with another one, what was made with it is void")
    return data


def _write_secret(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_secret(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_mode & 0o077 or about.st_uid != os.geteuid():
                raise ConfigError(f"key {path}: it must be yours, and only you may read it: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise ConfigError(f"key {path}: {error.strerror}") from None


def _encoded(kind: str, data: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding.

    >>> _encoded("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(data), data)


def _payload(envelope: Envelope) -> bytes:
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise SignatureError(f"the envelope's payload is not {PAYLOAD_TYPE}")
    try:
        return base64.b64decode(envelope["payload"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise SignatureError("the envelope has no payload") from None


def _signatures(envelope: Envelope) -> Sequence[str]:
    try:
        return [str(each["sig"]) for each in envelope["signatures"]]
    except (KeyError, TypeError):
        raise SignatureError("the envelope has no signatures") from None
