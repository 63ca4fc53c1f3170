"""Tokens: made once, kept as hashes, expired and revoked at once."""

import hashlib
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.serving.server.running import wait_until

from ibidem.errors import ConfigError
from ibidem.serving.config import TokenCreateConfig, TokenListConfig, TokenRevokeConfig
from ibidem.serving.server import token_commands, tokens
from ibidem.serving.server.tokens import CHECK_S, FILE, Caller, TokenStore


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "server"


@pytest.fixture
def store(state: Path) -> Iterator[TokenStore]:
    with TokenStore(state) as opened:
        yield opened


def test_a_token_says_who_calls(store: TokenStore) -> None:
    ada = store.create("ada", is_admin=True, days=1)
    bob = store.create("bob", is_admin=False, days=1)
    assert [store.caller_of(each)[1:3] for each in (ada, bob)] == [("ada", True), ("bob", False)]  # type: ignore[index]
    for wrong in ("", "ib-", ada[:-1], f"{ada}x", ada.upper(), "ä", "\ud800"):
        assert store.caller_of(wrong) is None


def test_a_token_has_256_random_bits_and_only_its_hash_is_on_disk(store: TokenStore, state: Path) -> None:
    secrets = {store.create("ada", is_admin=False, days=1) for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(secret) == 46 and secret.startswith("ib-") for secret in secrets)
    session = store.new_session(next(iter(secrets)))
    store.close()
    on_disk = b"".join(path.read_bytes() for path in state.iterdir())
    for secret in (*secrets, str(session)):
        assert hashlib.sha256(secret.encode()).digest() in on_disk
        assert secret.encode() not in on_disk
        assert secret.removeprefix("ib-").encode() not in on_disk


def test_hashes_are_compared_in_constant_time(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    session = store.new_session(secret)
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda *_: False)
    assert store.caller_of(secret) is None
    assert store.caller_of_session(str(session)) is None


def test_a_token_with_the_same_beginning_of_its_hash_is_another_one(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    real = tokens._hashed(secret)
    monkeypatch.setattr(tokens, "_hashed", lambda _: real[:8] + bytes(24))
    assert store.caller_of("ib-forged") is None


def test_only_its_owner_can_read_the_state(store: TokenStore, state: Path) -> None:
    store.create("ada", is_admin=False, days=1)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("name", ["", FILE])
def test_a_state_that_others_can_read_is_refused(state: Path, name: str) -> None:
    path = state / name
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(ConfigError, match="only you may read it: chmod [67]00 "):
        TokenStore(state)


def test_a_damaged_or_unwritable_state_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"choose a folder that you can write with --state"):
        TokenStore(tmp_path / "file")
    damaged = tmp_path / "damaged"
    damaged.mkdir(mode=0o700)
    (damaged / FILE).write_bytes(b"no database at all" * 100)
    (damaged / FILE).chmod(0o600)
    with pytest.raises(ConfigError, match="not a database"):
        TokenStore(damaged)


def test_an_expired_token_and_its_sessions_are_not_valid(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    caller, session = store.caller_of(secret), store.new_session(secret)
    assert caller is not None
    assert store.is_valid(caller)
    now = time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now + 24 * 3600 + 1)
    assert store.caller_of(secret) is None
    assert store.caller_of_session(str(session)) is None
    assert store.new_session(secret) is None
    assert not store.is_valid(caller)


def test_a_token_that_another_process_revokes_is_not_valid_at_once(store: TokenStore, state: Path) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    caller, session = store.caller_of(secret), store.new_session(secret)
    assert caller is not None
    with TokenStore(state) as other:
        other.revoke(caller.token)
    assert store.caller_of(secret) is None
    assert store.caller_of_session(str(session)) is None
    time.sleep(2 * CHECK_S)
    assert not store.is_valid(caller)


def test_between_two_looks_at_the_database_is_less_than_a_step(store: TokenStore, state: Path) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    caller = store.caller_of(secret)
    assert caller is not None
    with TokenStore(state) as other:
        other.revoke(caller.token)
    deadline = time.monotonic() + 30
    while store.is_valid(caller):
        assert time.monotonic() < deadline
    assert CHECK_S <= 0.005


def test_a_caller_whose_token_now_says_something_else_is_not_valid(store: TokenStore) -> None:
    caller = store.caller_of(store.create("ada", is_admin=False, days=1))
    assert caller is not None
    assert not store.is_valid(caller._replace(is_admin=True))
    assert not store.is_valid(Caller("00000000", "ada", is_admin=False))


def test_a_session_ends_alone_or_with_its_token(store: TokenStore) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    caller = store.caller_of(secret)
    assert caller is not None
    one, other = str(store.new_session(secret)), str(store.new_session(secret))
    of_one, of_other = store.caller_of_session(one), store.caller_of_session(other)
    assert of_one is not None
    assert of_other is not None
    assert of_one[:3] == of_other[:3] == caller[:3]
    assert len({caller.session, of_one.session, of_other.session}) == 3
    assert store.is_valid(of_one)
    store.end_session(one)
    assert store.caller_of_session(one) is None
    assert not store.is_valid(of_one)
    assert store.is_valid(of_other)
    assert store.is_valid(caller)
    assert store.caller_of_session(other) == of_other
    store.revoke(caller.token)
    assert store.caller_of_session(other) is None
    assert store.new_session("ib-unknown") is None


def test_who_calls_is_known_while_another_process_writes(store: TokenStore, state: Path) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    session = str(store.new_session(secret))
    with closing(sqlite3.connect(state / FILE, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        entering = pool.submit(store.new_session, secret)
        wait_until(store._writing.locked)
        caller = store.caller_of_session(session)
        assert caller is not None
        assert store.is_valid(caller)
        assert not entering.done()
        other.execute("COMMIT")
        assert entering.result() is not None


def test_a_token_is_no_session_and_a_session_no_token(store: TokenStore) -> None:
    secret = store.create("ada", is_admin=False, days=1)
    assert store.caller_of_session(secret) is None
    assert store.caller_of(str(store.new_session(secret))) is None


def test_a_session_outlives_neither_a_week_nor_its_token(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    session = str(store.new_session(store.create("ada", is_admin=False, days=90)))
    now = time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now + tokens.SESSION_S + 1)
    assert store.caller_of_session(session) is None


def test_the_oldest_sessions_of_a_token_go(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_SESSIONS", 3)
    secret, other = (store.create(name, is_admin=False, days=90) for name in ("ada", "bob"))
    of_other = str(store.new_session(other))
    sessions = [str(store.new_session(secret)) for _ in range(5)]
    assert [store.caller_of_session(each) is not None for each in sessions] == [False, False, True, True, True]
    assert store.caller_of_session(of_other) is not None


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[2J"])
def test_a_principal_without_a_name_is_refused(store: TokenStore, name: str) -> None:
    with pytest.raises(ConfigError, match="principal"):
        store.create(name, is_admin=False, days=1)


def test_the_commands_make_list_and_revoke(state: Path) -> None:
    secret = token_commands.create(TokenCreateConfig(principal="ada", admin=True, days=1, state=state))
    token_commands.create(TokenCreateConfig(principal="bob", state=state))
    with TokenStore(state) as store:
        caller = store.caller_of(secret)
    assert caller is not None
    assert (caller.principal, caller.is_admin) == ("ada", True)
    head, first, second = token_commands.listed(TokenListConfig(state=state)).splitlines()
    assert head.split() == ["id", "principal", "admin", "made", "expires"]
    assert first.split()[:3] == [caller.token, "ada", "yes"]
    assert second.split()[1:3] == ["bob", "no"]
    assert secret not in first
    assert "revoked" in token_commands.revoke(TokenRevokeConfig(token=caller.token, state=state))
    assert caller.token not in token_commands.listed(TokenListConfig(state=state))
    with pytest.raises(ConfigError, match="`ibidem token list` shows them"):
        token_commands.revoke(TokenRevokeConfig(token=caller.token, state=state))


@pytest.mark.parametrize("days", [0, -1, 36_501, 1e12, float("inf"), float("nan")])
def test_a_token_lasts_at_most_a_century(days: float) -> None:
    with pytest.raises(ValidationError, match="days"):
        TokenCreateConfig(principal="ada", days=days)


def test_a_token_of_a_century_is_listed(state: Path) -> None:
    token_commands.create(TokenCreateConfig(principal="ada", days=36_500, state=state))
    assert "ada" in token_commands.listed(TokenListConfig(state=state))


def test_list_and_revoke_make_no_state(state: Path) -> None:
    for command in (
        lambda: token_commands.listed(TokenListConfig(state=state)),
        lambda: token_commands.revoke(TokenRevokeConfig(token="00000000", state=state)),
    ):
        with pytest.raises(ConfigError, match="no tokens there"):
            command()
    assert not state.exists()


def test_the_list_says_what_has_expired(state: Path) -> None:
    with TokenStore(state) as store:
        store.create("ada", is_admin=False, days=1)
    with sqlite3.connect(state / FILE) as database:
        database.execute("UPDATE tokens SET expires = 0")
    database.close()
    assert "(expired)" in token_commands.listed(TokenListConfig(state=state))


@pytest.mark.parametrize("is_replaced", [True, False])
def test_nobody_is_known_by_a_database_that_was_deleted_or_replaced(tmp_path: Path, is_replaced: bool) -> None:
    with closing(TokenStore(tmp_path / "state")) as store:
        secret = store.create("ada", is_admin=False, days=1)
        caller = store.caller_of(secret)
        assert caller is not None
        (tmp_path / "state").rename(tmp_path / "old")
        if is_replaced:
            shutil.copytree(tmp_path / "old", tmp_path / "state")
        assert store.caller_of(secret) is None
        assert store.new_session(secret) is None
        assert not store.is_valid(caller)
