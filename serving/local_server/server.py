"""The embedded server: ports, health and shutdown around the version manager."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.configuration.models import ModelConfig
from serving.configuration.monitoring import MonitoringConfig
from serving.configuration.tls import TlsConfig
from serving.local_server.manager import Batching, ModelManager, State
from serving.local_server.metrics import Metrics
from serving.local_server.rest import RestServer
from serving.local_server.services import ModelService, PredictionService
from serving.page.backend import Backend, page_models
from serving.page.server import loopback
from serving.page.site import Site
from serving.startup import ServeError, check_port

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Without it two servers share a port and each gets half of the requests.
    ("grpc.so_reuseport", 0),
    # Clients may ask for signs of life; the default hangs up on those that do so every minute.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)
_HEALTH_SERVICES = ("", "ModelService", "PredictionService")  # TF Serving's unqualified names


class _Health(health.HealthServicer):
    """The standard health service, with TF Serving's words for a service that it does not have."""

    def Check(self, request, context):  # noqa: N802 - the service's own name
        if request.service not in _HEALTH_SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return super().Check(request, context)


class LocalServer:
    """TF Serving's API in this process.

    Args:
        models: what to serve.
        host: name or address to listen on.
        port: gRPC port; 0 picks a free one.
        rest_port: REST port; 0 picks a free one, None is no REST.
        poll_seconds: how often to look for new versions, above 0.
        batching: sizes and times of batches; "per_version" takes them from the file
            `batching_params.pbtxt` of each version. Default None: no batching.
        tls: key and certificates for the gRPC port, as on TF Serving. Default None: plain text.
        monitoring: whether, and where on the REST port, there is a Prometheus page. Default None:
            there is none.
        page: whether there is a web page to try the models on at `/` of the REST port. Default
            False.

    Example:
        `with LocalServer([ModelConfig("digits", "/models/digits")], port=0) as server:
        print(Client(server.address, "digits").status())`
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        host: str = "127.0.0.1",
        port: int = 8500,
        rest_port: int | None = None,
        poll_seconds: float = 1.0,
        batching: Batching = None,
        tls: TlsConfig | None = None,
        monitoring: MonitoringConfig | None = None,
        page: bool = False,
    ):
        self._models = list(models)
        # An IPv6 address needs brackets before a port.
        self._host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        self.port = port
        self.rest_port = rest_port
        self._rest: RestServer | None = None
        self._tls = tls
        self._metrics_path = monitoring.path if monitoring and monitoring.enable else None
        self.manager = ModelManager(models, poll_seconds, Metrics(), batching)
        self._page = page
        self._poll_seconds = poll_seconds
        # A thread waits for the session while a request runs; more than a few per core only queue.
        # With batching they wait for each other, and a batch wants many of them.
        threads = 64 if batching else max(8, 4 * (os.cpu_count() or 1))
        self._server = grpc.server(ThreadPoolExecutor(threads, "request"), options=_OPTIONS)
        self._health = _Health()
        add = prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server
        add(PredictionService(self.manager), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.manager), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    @property
    def address(self) -> str:
        """HOST:PORT for clients on this machine."""
        return f"{self._host}:{self.port}"

    def site(self) -> Site:
        """The web page for this server; it asks by gRPC, as it asks any server."""
        address = loopback(self.address)
        return Site(Backend(address, lambda: page_models(self.manager.configs())))

    def start(self, *, wait: bool = False, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Load the models, then open the port: whoever can connect gets an answer.

        Args:
            wait: wait for models that have no version yet, instead of failing.
            cancelled: asked while waiting; when true, `start` returns at once.

        Raises:
            ServeError: if the port is taken or a model cannot be loaded.
        """
        check_port(self._host, self.port)
        if self.rest_port is not None:
            check_port(self._host, self.rest_port)
        self.manager.refresh()
        while waiting := self._unavailable():
            if not wait:
                raise ServeError(waiting)
            if cancelled():
                return
            time.sleep(min(self._poll_seconds, 0.2))
            self.manager.refresh()
        try:
            self.port = self._add_port()
        except RuntimeError as error:
            raise ServeError(f"cannot listen on {self.address}: {error}") from error
        for service in _HEALTH_SERVICES:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        if self.rest_port is not None:
            try:
                self._rest = RestServer(
                    self.manager,
                    self._host,
                    self.rest_port,
                    self._metrics_path,
                    self.site() if self._page else None,
                )
            except OSError as error:
                raise ServeError(
                    f"cannot listen on {self._host}:{self.rest_port}: {error}"
                ) from error
            self.rest_port = self._rest.port
            self._rest.start()
        self.manager.start()
        self._server.start()

    def stop(self, grace: float = 30.0) -> None:
        """Refuse new requests, finish the running ones, unload the models.

        Args:
            grace: seconds after which requests still running are cancelled.
        """
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(grace)
        if self._rest is not None:
            self._rest.stop(grace)
        stopped.wait()
        self.manager.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _add_port(self) -> int:
        if self._tls is None:
            return self._server.add_insecure_port(self.address)
        credentials = grpc.ssl_server_credentials(
            [(self._tls.server_key.encode(), self._tls.server_cert.encode())],
            root_certificates=self._tls.custom_ca.encode() or None,
            require_client_auth=self._tls.client_verify,
        )
        return self._server.add_secure_port(self.address, credentials)

    def _unavailable(self) -> str:
        """Say why a model is not in service; nothing if all are."""
        for config in self._models:
            versions = self.manager.versions(config.name)
            if any(entry.state is State.AVAILABLE for entry in versions.values()):
                continue
            for number, entry in versions.items():
                if entry.error is not None:
                    return (
                        f"{config.name} version {number} at {entry.path} cannot be loaded: "
                        f"{entry.error}"
                    )
            return f"{config.base_path} holds no version of {config.name}"
        return ""
