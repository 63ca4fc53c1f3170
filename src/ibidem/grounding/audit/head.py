"""Heads of the log, as C2SP checkpoints: signed notes that say how many events there are, and their root.

    ibidem/5f0c9d1e2b3a4958                                origin: which log
    1042                                                   number of events
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=            root of their Merkle tree

    — ibidem/5f0c9d1e2b3a4958 Az3grlgt...                  key name, then key id and signature in base64
    — witness.example/w1 jWbPPwAAAABk...                   a witness has seen that the log only grew

A verifier key is `NAME+ID+KEY`: the name, the id in hexadecimal, the kind of signature and the public key in base64.
Lines of unknown keys are kept, as the standard asks: witnesses add theirs later.

Sources: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature (Ed25519).
"""

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ibidem.errors import AuditError, ConfigError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LOG, WITNESS = 1, 4  # kinds of signature: Ed25519 over the text, and over the text with a time
MAX_BYTES = 1 << 20
_KEY_BYTES, _ID_BYTES, _ROOT_BYTES, _TIME_BYTES = 32, 4, 32, 8


class Verifier(NamedTuple):
    """A public key of a log or of a witness."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """The first bytes of a hash of all three: a hint at which key signed."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64_of(bytes([self.kind]) + self.public)}"


class Line(NamedTuple):
    """A line of signature."""

    name: str
    id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"\u2014 {self.name} {base64_of(self.id + self.signature)}"


class Head(NamedTuple):
    """A head, with whatever signatures it carries."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    signatures: tuple[Line, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, base64_of(self.root), *self.extensions))

    def __str__(self) -> str:
        return "".join([self.text, "\n", *(f"{line}\n" for line in self.signatures)])


def parse(text: str, what: str) -> Head:
    """Return the head that a text is.

    Args:
        text: a checkpoint.
        what: where it comes from, for messages.

    Raises:
        AuditError: it is none.
    """
    body, blank, lines = text.rpartition("\n\n")
    if not blank or not lines.endswith("\n") or re.search(r"[\0-\x09\x0b-\x1f]", text):
        raise AuditError(f"{what}: not a signed head; ibidem audit head writes one")
    origin, size, root, *extensions = [*body.split("\n"), "", ""] if body.count("\n") < 2 else body.split("\n")
    data = bytes_of(root)
    if not origin or "" in extensions or not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or len(data) != _ROOT_BYTES:
        raise AuditError(f"{what}: a head has an origin, a number of events and a root of 32 bytes")
    signatures = tuple(_line(line, what) for line in lines.removesuffix("\n").split("\n"))
    return Head(origin, int(size), data, tuple(extensions), signatures)


def read(path: Path) -> Head:
    """Read a head from a file.

    Raises:
        AuditError: it cannot be read, or is not a head.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return parse(data[:MAX_BYTES].decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def verifier(text: str) -> Verifier:
    """Return the verifier key that a text is.

    Raises:
        ConfigError: it is none, or of a kind of signature that is not known here.
    """
    name, _, rest = text.partition("+")
    written_id, _, encoded = rest.partition("+")
    data = bytes_of(encoded)
    if not _is_name(name) or len(data) != 1 + _KEY_BYTES or data[0] not in {LOG, WITNESS}:
        raise ConfigError(f"verifier {text!r}: not NAME+ID+KEY of an Ed25519 key; ibidem audit head shows a log's own")
    key = Verifier(name, data[0], data[1:])
    if key.id.hex() != written_id:
        raise ConfigError(f"verifier {text!r}: its id is not that of its key; was it copied whole?")
    return key


def verifier_of(key: "Ed25519PrivateKey", name: str, kind: int = LOG) -> Verifier:
    """Return the verifier key of a private key.

    Raises:
        ConfigError: the name is empty, or has a blank or a plus sign.
    """
    if not _is_name(name):
        raise ConfigError(f"origin {name!r}: a name has neither blanks nor plus signs, such as example.com/audit")
    return Verifier(name, kind, key.public_key().public_bytes_raw())


def sign(head: Head, key: "Ed25519PrivateKey") -> Head:
    """Return a head signed as its log; signatures of other keys stay.

    Raises:
        ConfigError: its origin cannot be the name of a key.
    """
    signer = verifier_of(key, head.origin)
    line = Line(signer.name, signer.id, key.sign(head.text.encode()))
    others = (each for each in head.signatures if (each.name, each.id) != (line.name, line.id))
    return head._replace(signatures=(line, *others))


def cosign(head: Head, key: "Ed25519PrivateKey", name: str, time_s: int) -> Line:
    """Return the line that a witness adds, who has seen at a time that the log only grew."""
    signer = verifier_of(key, name, WITNESS)
    return Line(name, signer.id, time_s.to_bytes(_TIME_BYTES, "big") + key.sign(_with_time(head, time_s)))


def check(head: Head, verifiers: Sequence[Verifier], what: str) -> None:
    """Check that each of some keys has signed a head.

    Raises:
        SignatureError: one has not, or its signature is of something else.
    """
    for key in verifiers:
        lines = [line for line in head.signatures if (line.name, line.id) == (key.name, key.id)]
        if not lines:
            raise SignatureError(f"{what}: no signature of {key}; name the keys that must have signed with --verifier")
        if not all(_is_signature(line.signature, head, key) for line in lines):
            raise SignatureError(f"{what}: the signature of {key.name} is not of this head")


def _is_signature(signature: bytes, head: Head, key: Verifier) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    message = head.text.encode()
    if key.kind == WITNESS:
        message = _with_time(head, int.from_bytes(signature[:_TIME_BYTES], "big"))
        signature = signature[_TIME_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _with_time(head: Head, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{head.text}".encode()


def _line(line: str, what: str) -> Line:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    data = bytes_of(encoded)
    if dash != "\u2014" or not _is_name(name) or len(data) <= _ID_BYTES:
        raise AuditError(f"{what}: {line[:80]!r} is not a signature")
    return Line(name, data[:_ID_BYTES], data[_ID_BYTES:])


def _is_name(name: str) -> bool:
    return name != "" and name.isprintable() and "+" not in name and not any(letter.isspace() for letter in name)


def base64_of(data: bytes) -> str:
    """Write bytes in base64."""
    return base64.b64encode(data).decode()


def bytes_of(text: str) -> bytes:
    """Return the bytes of a base64 text; none if it is not the one spelling of them."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return data if base64_of(data) == text else b""
