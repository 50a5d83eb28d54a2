"""Where the Prometheus page is."""

from __future__ import annotations

import dataclasses

from serving.configuration.text import new_message, parse_text, write_text


@dataclasses.dataclass(frozen=True)
class MonitoringConfig:
    """TF Serving's monitoring configuration; the page is on the REST port.

    Args:
        enable: whether there is a page. Default True.
        path: where it is. Default "/monitoring/prometheus/metrics".

    Raises:
        ValueError: if the path does not begin with a slash.

    Example:
        >>> MonitoringConfig.parse('prometheus_config { enable: true path: "/metrics" }').path
        '/metrics'
    """

    enable: bool = True
    path: str = "/monitoring/prometheus/metrics"

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path must begin with a slash, not {self.path!r}.")

    @classmethod
    def parse(cls, text: str) -> MonitoringConfig:
        """Read the text of a `--monitoring_config_file`.

        Args:
            text: in protobuf's text format.

        Returns:
            The configuration.

        Raises:
            ValueError: if it is something else.
        """
        message = parse_text("MonitoringConfig", text).prometheus_config
        return cls(message.enable, message.path or cls.path)

    def to_text(self) -> str:
        """The text of a `--monitoring_config_file`."""
        message = new_message("MonitoringConfig")
        message.prometheus_config.enable = self.enable
        message.prometheus_config.path = self.path
        return write_text(message)
