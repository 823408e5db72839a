"""The server under test: the local one, or the one at the addresses given."""

import os
from dataclasses import dataclass

import grpc
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from tests.conformance.prepare import prepare
from tests.serving_process import DEADLINE, Server, http


@dataclass
class Target:
    """A server, by its addresses."""

    grpc: str
    rest: str

    def __post_init__(self):
        self.channel = grpc.insecure_channel(self.grpc, DEADLINE)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def http(self, path, body=None, method=None, headers=None):
        return http(self.rest, path, body, method, headers)


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    addresses = os.environ.get("SERVER_GRPC"), os.environ.get("SERVER_REST")
    if all(addresses):
        yield Target(*addresses)
        return
    folder = tmp_path_factory.mktemp("conformance")
    with Server(folder, *prepare(folder)) as server:
        # Ready with one version: the suite needs both.
        server.wait_for("version 1: AVAILABLE")
        server.wait_for("version 2: AVAILABLE")
        server.wait_for("version 123: AVAILABLE")
        yield Target(server.grpc, server.rest)
        assert server.stop() == 0
