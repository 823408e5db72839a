"""What the tests of the client share."""

import pytest

from serving.client import EmbeddingClient
from tests.client.predictable import Server, Waited


@pytest.fixture
def server():
    found = Server()
    yield found
    found.stop()


@pytest.fixture(params=[EmbeddingClient, Waited], ids=["sync", "async"])
def connect(request):
    """Makes clients of either kind."""
    made = []

    def make(server, **options):
        client = request.param(getattr(server, "address", server), **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def files(tmp_path):
    """Paths of files of 1, 2, ... bytes."""
    paths = [tmp_path / f"{index}.png" for index in range(1, 8)]
    for index, path in enumerate(paths, start=1):
        path.write_bytes(b"x" * index)
    return paths
