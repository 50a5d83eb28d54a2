"""What can be wrong before a server runs."""

import socket


class ServeError(Exception):
    """A server cannot be started; the message says why and what to do.

    Example:
        >>> str(ServeError("port 8500 is taken"))
        'port 8500 is taken'
    """


def check_port(host: str, port: int) -> None:
    """Find out that a port is taken before a model is loaded for nothing.

    Args:
        host: address to listen on.
        port: 0 to 65535; 0 is always free.

    Raises:
        ServeError: if it cannot be listened on.

    Example:
        >>> check_port("127.0.0.1", 0)
    """
    if not 0 <= port <= 65535:
        raise ServeError(f"port is {port}; it must be 0 (picks a free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A port whose last connections are only cooling down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServeError(
                f"cannot listen on {host}:{port}: {reason}. Stop the program that uses port "
                f"{port}, or choose another with --port (0 picks a free one)"
            ) from error
