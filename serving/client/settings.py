"""What both clients are told when they are made."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from serving.client.calls import Call, Target
from serving.client.channel import TLS, channel_options, check_address, credentials
from serving.client.errors import ServingError, from_rpc_error


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked arguments of a client, and what follows from them for each call.

    Attributes:
        address: HOST:PORT.
        target: which model and version.
        timeout: seconds that one request may take.
        tls: encryption.
        max_batch_size: most images of one request.
        headers: metadata sent with every request, such as an authorization.
        options: the caller's own gRPC channel options.
        require_fingerprint: of the preprocessing that the served model must have.
        compression: of requests, a `grpc.Compression`.
        interceptors: of the channel, such as OpenTelemetry's.

    Raises:
        ValueError: if one makes no sense.

    Example:
        >>> Settings("localhost:8500", Target("digits")).deadline(None)
        30.0
    """

    address: str
    target: Target
    timeout: float = 30.0
    tls: bool | TLS = False
    max_batch_size: int = 32
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[tuple[str, Any]] = ()
    require_fingerprint: str | None = None
    compression: Any = None
    interceptors: Sequence[Any] = ()

    def __post_init__(self):
        check_address(self.address)
        self.deadline(self.timeout)
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size is {self.max_batch_size}; it must be at least 1")

    def deadline(self, timeout: float | None) -> float:
        """Choose one call's deadline.

        Args:
            timeout: the call's own, in seconds; None for the client's.

        Returns:
            Seconds, above 0.

        Raises:
            ValueError: if the timeout is not positive.
        """
        seconds = self.timeout if timeout is None else timeout
        if not seconds > 0:
            raise ValueError(f"timeout is {seconds}; it must be a positive number of seconds")
        return seconds

    def open(self, library: Any) -> Any:
        """Open a channel.

        Args:
            library: `grpc` or `grpc.aio`.

        Returns:
            Its channel; it connects on first use.
        """
        options = channel_options(self.address, self.tls, self.options)
        certificates = credentials(self.tls)
        more: dict[str, Any] = {"compression": self.compression}
        if library is not grpc:
            more["interceptors"] = list(self.interceptors)
        if certificates is None:
            channel = library.insecure_channel(self.address, options, **more)
        else:
            channel = library.secure_channel(self.address, certificates, options, **more)
        if library is grpc and self.interceptors:
            channel = grpc.intercept_channel(channel, *self.interceptors)
        return channel

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers as gRPC wants them.

        Returns:
            Pairs with lower-case names.
        """
        return tuple((name.lower(), value) for name, value in self.headers.items())

    @contextlib.contextmanager
    def errors(self, call: Call, timeout: float) -> Iterator[None]:
        """Explain what gRPC raises.

        Args:
            call: what is sent.
            timeout: its deadline in seconds.

        Raises:
            ServingError: in the place of gRPC's errors.
        """
        closed = ServingError(f"the client for {self.address} is closed")
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(
                error,
                address=self.address,
                model=str(self.target),
                signature=call.signature,
                timeout=timeout,
            ) from error
        except (grpc.FutureCancelledError, grpc.aio.UsageError) as error:
            raise closed from error
        except asyncio.CancelledError as error:
            # So end the calls of a channel that is closed; a task that is cancelled says so.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise closed from error
        except ValueError as error:
            if "closed" not in str(error):
                raise
            raise closed from error
