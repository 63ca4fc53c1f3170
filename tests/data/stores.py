"""Stores for tests: what is put there, and a server that answers as S3 does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ibidem.places import StorePath


def put(place: StorePath, name: str, content: bytes) -> None:
    """Write a file of a store."""
    files, path = (place / name).place
    if "file" in files.protocol:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
    files.pipe_file(path, content)


def put_folder(folder: Path, place: StorePath) -> None:
    """Write all files of a folder to a store."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(place, path.relative_to(folder).as_posix(), path.read_bytes())


def remove(path: StorePath) -> None:
    """Delete a file of a store."""
    files, at = path.place
    files.rm_file(at)


@contextmanager
def s3_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Answer as S3 does on this machine; the bucket is there."""
    server_of = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(bucket)
    yield server
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


DIES_AT = """
import os, signal, sys
from ibidem import cli, delivery

left = int(sys.argv[1])

def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for name in ("_send", "_put", "_remove"):
    setattr(delivery, name, counted(getattr(delivery, name)))
sys.exit(cli.main(sys.argv[2:]))
"""
"""A program that kills itself before the given change of a store: `python -c DIES_AT 7 preprocess ...`."""
