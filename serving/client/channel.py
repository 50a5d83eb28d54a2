"""The connection: address, TLS and the options of a gRPC channel."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

_SERVICE_CONFIG = {
    # Every address that the name stands for gets its share (a Kubernetes headless service, say).
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "tensorflow.serving.PredictionService"},
                {"service": "tensorflow.serving.ModelService"},
            ],
            # All calls are idempotent. CANCELLED comes from a server that shuts down, for what it
            # has not taken up yet. RESOURCE_EXHAUSTED can also mean that the message is too large.
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The default of 4 MiB is what large answers run into.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Notices a dead peer during a long call; more often and servers hang up ("too_many_pings").
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Without this one gRPC 1.85 waits for 60 s, whatever the other says.
    ("grpc.http2.ping_timeout_ms", 20_000),
    # A server that restarts is found again within seconds, not after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
)

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class TLS:
    """Certificates for an encrypted connection.

    Attributes:
        root_certificates: PEM file of the authorities to trust; None trusts the system's.
        certificate: PEM file with the client's own certificate, if the server asks for one.
        private_key: PEM file with its key.
        server_name: the name in the server's certificate, if it is not the address.

    Example:
        >>> TLS(root_certificates=Path("ca.pem")).server_name is None
        True
    """

    root_certificates: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    server_name: str | None = None


def check_address(address: str) -> str:
    """Refuse the addresses that gRPC would take for something else.

    Args:
        address: HOST:PORT, or a gRPC target with a scheme (`dns:///…`, `unix:…`); several servers
            are `ipv4:///10.0.0.1:8500,10.0.0.2:8500` or a name with several addresses.

    Returns:
        The address.

    Raises:
        ValueError: if it is a web address, has no port, or lists servers where gRPC takes one.

    Example:
        >>> check_address("localhost:8500")
        'localhost:8500'
    """
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address!r} is a web address; give the gRPC endpoint as HOST:PORT, "
            "for example localhost:8500 (and tls=True for an encrypted one)"
        )
    if address.startswith(("unix:", "unix-abstract:", "xds:")):
        return address
    servers = address.split(",")
    if len(servers) > 1 and not address.startswith(("ipv4:", "ipv6:")):
        raise ValueError(
            f"{address!r} names several servers; give their numbers as "
            "ipv4:///10.0.0.1:8500,10.0.0.2:8500, or a name that stands for all of them as "
            "dns:///NAME:PORT"
        )
    for server in servers:
        port = server.rpartition(":")[2]
        if not (port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{server!r} has no port; give HOST:PORT, for example localhost:8500")
    return address


def channel_options(
    address: str, tls: bool | TLS, extra: Sequence[tuple[str, Any]]
) -> list[tuple[str, Any]]:
    """Put the options of a channel together; later ones win.

    Args:
        address: HOST:PORT.
        tls: as for `credentials`.
        extra: the caller's own `(name, value)` pairs.

    Returns:
        All pairs.

    Example:
        >>> ("grpc.enable_http_proxy", 0) in channel_options("localhost:8500", False, ())
        True
    """
    options = dict(_OPTIONS)
    if address.rpartition(":")[0] in _LOOPBACK:
        # A proxy from the environment cannot reach this machine's loopback.
        options["grpc.enable_http_proxy"] = 0
    if isinstance(tls, TLS) and tls.server_name:
        options["grpc.ssl_target_name_override"] = tls.server_name
    return list((options | dict(extra)).items())


def credentials(tls: bool | TLS) -> grpc.ChannelCredentials | None:
    """Read the certificates.

    Args:
        tls: False for a plain connection, True to trust the system's authorities, or files.

    Returns:
        Credentials, or None for a plain connection.

    Raises:
        OSError: if a file cannot be read.

    Example:
        >>> credentials(False) is None
        True
    """
    if tls is False:
        return None
    files = TLS() if tls is True else tls

    def read(path: Path | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    return grpc.ssl_channel_credentials(
        root_certificates=read(files.root_certificates),
        private_key=read(files.private_key),
        certificate_chain=read(files.certificate),
    )
