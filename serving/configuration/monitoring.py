import dataclasses


@dataclasses.dataclass(frozen=True)
class MonitoringConfig:
    enable: bool = True
    path: str = "/monitoring/prometheus/metrics"

    @classmethod
    def parse(cls, text):
        return cls()
