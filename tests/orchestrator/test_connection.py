"""What is no cluster is told apart from one, in seconds."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import grpc
import psutil
import pytest
from ray.core.generated import gcs_service_pb2

from orchestrator.running import connection


class Head(grpc.GenericRpcHandler):
    """Answers as the head of a cluster does, or asks for a token."""

    def __init__(self, refuses: bool):
        self.refuses = refuses

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/ray.rpc.NodeInfoGcsService/CheckAlive":
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.refuses:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token, please")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def grpc_server(*handlers: grpc.GenericRpcHandler) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("refuses", [False, True])
def test_a_head_is_known_also_where_it_wants_a_token(refuses: bool) -> None:
    with grpc_server(Head(refuses)) as address:
        connection.check_reachable(address)


def test_another_server_that_speaks_grpc_is_no_head() -> None:
    with grpc_server() as address, pytest.raises(OSError, match="is no head of a Ray cluster"):
        connection.check_reachable(address)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_says_nothing_or_something_else_is_no_head(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 2)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with suppress(OSError):  # until it is closed
                while True:
                    client, _ = server.accept()
                    kept.append(client)
                    client.sendall(answer)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        host, port = server.getsockname()
        try:
            with pytest.raises(OSError, match="is no head of a Ray cluster"):
                connection.check_reachable(f"{host}:{port}")
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for client in kept:
                client.close()


def test_the_question_is_one_that_this_ray_answers() -> None:
    service = gcs_service_pb2.DESCRIPTOR.services_by_name["NodeInfoGcsService"]
    assert service.full_name == "ray.rpc.NodeInfoGcsService"
    assert "CheckAlive" in service.methods_by_name


def test_a_local_ray_listens_to_this_machine_alone(local_ray: None) -> None:
    ours = psutil.Process()
    processes = {process.pid: process.name() for process in [ours, *ours.children(recursive=True)]}
    assert {"gcs_server", "raylet"} <= set(processes.values())
    listening = {
        found.laddr.ip.removeprefix("::ffff:")
        for found in psutil.net_connections("inet")
        if found.laddr and found.pid in processes and found.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::1"}
