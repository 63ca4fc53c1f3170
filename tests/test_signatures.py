"""Signatures: the RFC's keys, the envelope's bytes, and everything that must not verify."""

import base64
import hmac
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ibidem import signatures
from ibidem.errors import ConfigError, SignatureError

SUBJECT = {"checkpoint": "sha256:" + "ab" * 32}


def statement(**predicate: object) -> signatures.Statement:
    return signatures.statement(SUBJECT, signatures.TEST_RESULT, {"result": "PASSED", "configuration": [], **predicate})


def test_the_first_two_vectors_of_rfc_8032_are_met() -> None:
    vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
    ]
    for secret, public in vectors:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        assert signatures.public_key(key) == "ed25519:" + base64.b64encode(bytes.fromhex(public)).decode()


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    public = signatures.create_key(tmp_path / "deep" / "key")
    assert signatures.is_public_key(public)
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    assert signatures.public_key(signatures.open_key(tmp_path / "deep" / "key")) == public
    with pytest.raises(ConfigError, match="never overwritten"):
        signatures.create_key(tmp_path / "deep" / "key")
    (tmp_path / "deep" / "key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        signatures.open_key(tmp_path / "deep" / "key")


@pytest.mark.parametrize("text", ["", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError, match="make one with ibidem key"):
        signatures.open_key(tmp_path / "key")
    with pytest.raises(ConfigError, match="No such file"):
        signatures.open_key(tmp_path / "nowhere")


def test_a_statement_comes_back_with_the_keys_that_signed_it() -> None:
    first, second, third = (Ed25519PrivateKey.generate() for _ in range(3))
    envelope = signatures.sign(statement(), first)
    both = signatures.sign(statement(), second, envelope)
    names = [signatures.public_key(key) for key in (first, second, third)]
    assert signatures.verify(both, names) == (statement(), names[:2])
    assert signatures.sign(statement(), second, both) == both
    with pytest.raises(SignatureError, match="another statement"):
        signatures.sign(statement(passedTests=["a"]), first, envelope)


def test_what_was_changed_verifies_no_more() -> None:
    key = Ed25519PrivateKey.generate()
    accepted, envelope = [signatures.public_key(key)], dict(signatures.sign(statement(), key))
    other = base64.b64encode(json.dumps(statement(result="FAILED")).encode()).decode()
    kind = "application/json"
    raw = key.sign(base64.b64decode(envelope["payload"]))  # over the bare payload, not over DSSE's encoding
    forged = [
        {**envelope, "payload": other},
        {**envelope, "payloadType": kind},
        {**envelope, "signatures": []},
        {**envelope, "signatures": [{"keyid": accepted[0], "sig": ""}]},
        {**envelope, "signatures": [{"keyid": accepted[0], "sig": "%%%"}]},
        {**envelope, "signatures": [{"keyid": accepted[0], "sig": base64.b64encode(raw).decode()}]},
        {**envelope, "signatures": None},
        {**envelope, "signatures": [7]},
        {**envelope, "payload": 7},
        {},
    ]
    for each in forged:
        with pytest.raises(SignatureError):
            signatures.verify(each, accepted)
    with pytest.raises(SignatureError, match="none of the accepted keys"):
        signatures.verify(envelope, [signatures.public_key(Ed25519PrivateKey.generate())])
    with pytest.raises(SignatureError, match="none of the accepted keys"):
        signatures.verify(envelope, [])


def test_a_signed_text_that_is_no_statement_does_not_count() -> None:
    key = Ed25519PrivateKey.generate()
    for payload in ({"_type": "x"}, ["_type"]):
        with pytest.raises(SignatureError, match="not an in-toto statement"):
            signatures.verify(signatures.sign(payload, key), [signatures.public_key(key)])  # type: ignore[arg-type]


def test_only_this_user_on_this_machine_makes_a_local_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    code = signatures.local_mac("row", "a", "b")
    file = tmp_path / "mine" / "ibidem" / "key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == signatures.KEY_BYTES
    assert signatures.is_local_mac(code, "row", "a", "b")
    assert not signatures.is_local_mac(code, "row", "ab", "")
    assert not any(signatures.is_local_mac(other, "row", "a", "b") for other in (None, 7, "", "\udcff", code.upper()))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not signatures.is_local_mac(code, "row", "a", "b")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "ibidem").mkdir()
    (tmp_path / "ibidem" / "key").write_bytes(bytes(signatures.KEY_BYTES))
    (tmp_path / "ibidem" / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        signatures.local_mac("a")
    (tmp_path / "ibidem" / "key").chmod(0o600)
    (tmp_path / "ibidem" / "key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="damaged"):
        signatures.local_mac("a")


def test_without_a_state_folder_nothing_of_an_earlier_run_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    code = signatures.local_mac("a")
    assert signatures.is_local_mac(code, "a")
    signatures._local_key.cache_clear()
    assert not signatures.is_local_mac(code, "a")


def test_a_secret_key_is_created_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "key"
    key = signatures.secret_key(file)
    assert (len(key), stat.S_IMODE(file.stat().st_mode)) == (signatures.KEY_BYTES, 0o600)
    assert signatures.secret_key(file) == key
    assert signatures.secret_key(None) == (tmp_path / "state" / "ibidem" / "key").read_bytes() != key
    assert {each.name for each in tmp_path.iterdir()} == {"key", "state"}


def test_of_two_processes_that_create_a_secret_key_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, first = signatures._write_secret, b"first" * 6 + b"!!"

    def write_late(path: Path, data: bytes) -> None:
        write(tmp_path / "key", first)
        write(path, data)

    monkeypatch.setattr(signatures, "_write_secret", write_late)
    assert signatures.secret_key(tmp_path / "key") == first
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_secret_key_that_cannot_be_had_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a state folder too: what is made with a key that nobody keeps could never be recognized."""
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "short").chmod(0o600)
    (tmp_path / "open").write_bytes(bytes(32))
    (tmp_path / "open").chmod(0o640)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "short"))
    for path, said in (
        (tmp_path / "none" / "key", "no such folder"),
        (tmp_path / "short", "damaged, or no secret key"),
        (tmp_path / "open", "chmod 600"),
        (tmp_path / "short" / "key", "no such folder"),
        (tmp_path, "Is a directory"),
        (None, "choose a file that you can write with --key"),
    ):
        with pytest.raises(ConfigError, match=said) as refused:
            signatures.secret_key(path)
        assert "\n" not in str(refused.value)


@given(st.lists(st.text(st.characters(codec=None), max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_no_two_lists_of_parts_have_the_same_keyed_hash(one: list[str], other: list[str]) -> None:
    key = bytes(32)
    assert (signatures.keyed(key, *one) == signatures.keyed(key, *other)) == (one == other)
    assert signatures.keyed(key, *one) != signatures.keyed(b"\1" * 32, *one)


def test_halves_of_a_character_are_not_the_character() -> None:
    assert signatures.keyed(bytes(32), "\ud83d\ude00") != signatures.keyed(bytes(32), "\U0001f600")
    message = (1).to_bytes(8, "big") + b"a" + (0).to_bytes(8, "big") + (2).to_bytes(8, "big") + "é".encode()
    assert signatures.keyed(bytes(32), "a", "", "é") == hmac.new(bytes(32), message, "sha256").hexdigest()
