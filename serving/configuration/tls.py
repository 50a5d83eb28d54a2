"""The key and the certificates of an encrypted gRPC port."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serving.configuration.text import new_message, parse_text, write_text


@dataclasses.dataclass(frozen=True)
class TlsConfig:
    """TF Serving's SSLConfig: PEM texts, not paths.

    Args:
        server_key: private key.
        server_cert: certificate of the server, with those between it and its root.
        custom_ca: root certificates that clients must be signed by. Default: those of the system.
        client_verify: whether clients must have a certificate (mutual TLS). Default False.

    Raises:
        ValueError: if something is not PEM, or the key is not that of the certificate.

    Example:
        `TlsConfig.from_files(Path("server.key"), Path("server.crt")).to_text()`
    """

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False

    def __post_init__(self) -> None:
        with _as_file(self.server_key) as key, _as_file(self.server_cert) as certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(certificate, key, password=lambda: b"")
            except (ssl.SSLError, OSError) as error:
                raise ValueError(
                    f"server_key and server_cert are not the PEM texts of an unencrypted key and "
                    f"its certificate: {error}."
                ) from error
            if self.custom_ca:
                try:
                    context.load_verify_locations(cadata=self.custom_ca)
                except (ssl.SSLError, ValueError) as error:
                    raise ValueError(f"custom_ca is not a PEM certificate: {error}.") from error

    @classmethod
    def from_files(
        cls,
        server_key: Path,
        server_cert: Path,
        custom_ca: Path | None = None,
        client_verify: bool = False,
    ) -> TlsConfig:
        """Read key and certificates from PEM files.

        Args:
            server_key: file of the key.
            server_cert: file of the certificate.
            custom_ca: file of the root certificates of clients. Default None.
            client_verify: whether clients must have a certificate. Default False.

        Returns:
            The configuration.

        Raises:
            ValueError: if they do not fit each other.
            OSError: if a file cannot be read.
        """
        roots = "" if custom_ca is None else custom_ca.read_text()
        return cls(server_key.read_text(), server_cert.read_text(), roots, client_verify)

    @classmethod
    def parse(cls, text: str) -> TlsConfig:
        """Read the text of an `--ssl_config_file`.

        Args:
            text: in protobuf's text format.

        Returns:
            The configuration.

        Raises:
            ValueError: if it is something else.
        """
        m = parse_text("SSLConfig", text)
        return cls(m.server_key, m.server_cert, m.custom_ca, m.client_verify)

    def to_text(self) -> str:
        """The text of an `--ssl_config_file`; it holds the key: keep it secret."""
        message = new_message("SSLConfig")
        for field in dataclasses.fields(self):
            setattr(message, field.name, getattr(self, field.name))
        return write_text(message)


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A file that only we can read: Python's ssl takes keys from nowhere else."""
    descriptor, name = tempfile.mkstemp()
    try:
        os.write(descriptor, text.encode())
        os.close(descriptor)
        yield name
    finally:
        Path(name).unlink()
