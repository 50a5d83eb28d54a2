import dataclasses


@dataclasses.dataclass(frozen=True)
class TlsConfig:
    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False
