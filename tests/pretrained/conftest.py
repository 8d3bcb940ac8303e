"""A file server for each test of downloads."""

import pytest
from download_server import Server


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
