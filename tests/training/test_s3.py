"""Copies of checkpoints on S3: moto's server on this machine answers as S3 does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data.stores import s3_server
from tests.training.test_remote import copied, weights, whole
from tests.training.test_resume import Settings, changed, train
from tests.training.test_saving import at_steps, events_of

from ibidem import artifacts, remote
from ibidem.errors import CheckpointError
from ibidem.runs import folder_of

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]
__all__ = ["whole"]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[object, str]]:
    """A server, and the URL of a bucket on it."""
    bucket = tmp_path.name.replace("_", "-").lower()  # what one server holds, the next one of this process holds too
    with s3_server(bucket, monkeypatch) as server:
        yield server, f"s3://{bucket}/team/run"


def test_a_run_goes_on_from_s3_to_the_bit(s3: tuple[object, str], whole: Settings, tmp_path: Path) -> None:
    url = s3[1]
    train(whole, output_dir=tmp_path / "first", checkpoints__copy_to=url, training__stop_at_step=4)
    assert copied(tmp_path / "first") == [4]
    shutil.rmtree(tmp_path / "first")
    train(whole, output_dir=tmp_path / "second", training__resume_from=url, checkpoints__copy_to=url)
    assert weights(tmp_path / "second", 8) == weights(whole["output_dir"], 8)
    fetched = remote.fetch(url, tmp_path / "third", "checkpoint", beyond=4)
    assert fetched is not None
    assert artifacts.verify(fetched).digest == artifacts.load(folder_of(tmp_path / "second", 8)).digest


def test_a_server_that_goes_away_stops_no_run_and_a_bucket_that_is_not_there_is_one_line(
    s3: tuple[object, str], whole: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = s3
    monkeypatch.setattr(remote, "FIRST_RETRY_S", 0.1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    settings = changed(whole, output_dir=tmp_path / "run", checkpoints__copy_to=url, training__timeout_minutes=0.01)
    at_steps(monkeypatch, {2: server.stop})  # type: ignore[attr-defined]
    train(settings)
    reasons = [str(each["reason"]) for each in events_of(tmp_path / "run") if each["event"] == "checkpoint.not_copied"]
    assert reasons
    assert all(url in reason for reason in reasons)
    with pytest.raises(CheckpointError, match=f"{url}: cannot be read: "):
        train(settings, output_dir=tmp_path / "other", training__resume_from=url)
