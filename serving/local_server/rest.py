"""The REST API: paths and HTTP around the same answers as gRPC."""

import gzip
import json
import re
import socket
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.local_server.inference import classify, regress
from serving.local_server.manager import ModelManager
from serving.local_server.predict import predict
from serving.local_server.rest_json import (
    fill_examples,
    fill_inputs,
    parse_body,
    render_outputs,
)
from serving.local_server.servable import DEFAULT_SIGNATURE
from serving.local_server.services import get_metadata, get_status
from serving.local_server.status import StatusError, invalid
from serving.page.site import Site

_TIMEOUT = 30.0  # seconds, TF Serving's default for REST
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + ":(?P<verb>predict|classify|regress)")
_GET = re.compile(_MODEL + "(?P<metadata>/metadata)?")
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_NOT_FOUND_PAGE = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n"
    "</BODY></HTML>\n"
)


class RestServer:
    """TF Serving's REST API on a port of its own.

    Args:
        manager: has the models.
        host: address to listen on.
        port: 0 picks a free one.
        metrics_path: where the Prometheus page is. Default None: nowhere.
        site: the page on which people try the models, at `/`. Default None: there is none.

    Raises:
        OSError: if the port is taken.

    Example:
        `RestServer(manager, "127.0.0.1", 8501).start()`
    """

    def __init__(
        self,
        manager: ModelManager,
        host: str,
        port: int,
        metrics_path: str | None = None,
        site: Site | None = None,
    ):
        class Handler(_Handler):
            models = manager
            prometheus = metrics_path
            page = site

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = False  # closing waits for the answers under way

        self._http = Server((host.strip("[]"), port), Handler)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, name="rest", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Refuse new requests and finish the running ones."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request per connection."""

    models: ModelManager
    prometheus: str | None
    page: Site | None
    timeout = 10  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        if self.path == self.prometheus:
            self._send(200, "text/plain", self.models.metrics.page())
            return
        self._respond(_GET.fullmatch(self.path), self._get)

    def do_POST(self) -> None:
        self._respond(_POST.fullmatch(self.path), self._post)

    def do_DELETE(self) -> None:
        self._respond(None, self._get)

    do_PUT = do_PATCH = do_DELETE  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay silent; errors go to the caller."""

    def _respond(self, match: re.Match | None, answer: Any) -> None:
        if self.page is not None and self.page.owns(self.path):
            self.page.respond(self)
            return
        if not self.path.startswith("/v1/models/"):
            self._send(404, "text/html", _NOT_FOUND_PAGE)
            return
        try:
            if match is None:
                with self.models.metrics.request("", "", "REST"):
                    raise invalid(f"Malformed request: {self.command} {self.path}")
            status, body = 200, answer(match)
        except StatusError as error:
            status, body = _HTTP_STATUS.get(error.code, 500), {"error": error.message}
        self._send(status, "application/json", json.dumps(body, indent=1))

    def _send(self, status: int, content_type: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _get(self, match: re.Match) -> Any:
        with self.models.metrics.request(match["name"], "", "REST"):
            return self._describe(match)

    def _describe(self, match: re.Match) -> Any:
        """The signatures or the state of a model."""
        if match["metadata"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(
                metadata_field=["signature_def"]
            )
            _fill_spec(request.model_spec, match)
            response = get_metadata(self.models, request)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            response.metadata["signature_def"].Unpack(signatures)
            return {
                "model_spec": _to_dict(response.model_spec),
                "metadata": {"signature_def": _to_dict(signatures)},
            }
        request = get_model_status_pb2.GetModelStatusRequest()
        _fill_spec(request.model_spec, match)
        return _to_dict(get_status(self.models, request))

    def _post(self, match: re.Match) -> Any:
        answer = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        with self.models.metrics.request(match["name"], match["verb"], "REST"):
            return answer[match["verb"]](match, parse_body(self._read_body()))

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit():
            raise invalid(f"Content-Length is {length!r}; it must be a number")
        body = self.rfile.read(int(length))
        if self.headers.get("Content-Encoding") != "gzip":
            return body
        try:
            return gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise invalid(f"The body is not gzip: {error}") from error

    def _predict(self, match: re.Match, body: dict[str, Any]) -> Any:
        request = predict_pb2.PredictRequest()
        _fill_spec(request.model_spec, match, body)
        with self.models.servable(request.model_spec) as servable:
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if name not in servable.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            row_format = fill_inputs(request, body, servable.signatures[name])
            with self.models.metrics.run(match["name"], "Predict"):
                response = predict(servable, request, _TIMEOUT)
            return render_outputs(response, row_format)

    def _classify(self, match: re.Match, body: dict[str, Any]) -> Any:
        request = classification_pb2.ClassificationRequest()
        _fill_spec(request.model_spec, match, body)
        fill_examples(request.input, body)
        with (
            self.models.servable(request.model_spec) as servable,
            self.models.metrics.run(match["name"], "Classify"),
        ):
            response = classify(servable, request, _TIMEOUT)
        return {
            "results": [
                [[entry.label, _short(entry.score)] for entry in row.classes]
                for row in response.result.classifications
            ]
        }

    def _regress(self, match: re.Match, body: dict[str, Any]) -> Any:
        request = regression_pb2.RegressionRequest()
        _fill_spec(request.model_spec, match, body)
        fill_examples(request.input, body)
        with (
            self.models.servable(request.model_spec) as servable,
            self.models.metrics.run(match["name"], "Regress"),
        ):
            response = regress(servable, request, _TIMEOUT)
        return {"results": [_short(entry.value) for entry in response.result.regressions]}


def _fill_spec(spec: Any, match: re.Match, body: dict[str, Any] | None = None) -> None:
    spec.name = match["name"]
    if match["version"]:
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = match["label"]
    signature = (body or {}).get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid("'signature_name' key must be a string value.")
    spec.signature_name = signature


def _short(number: float) -> float:
    """Give a float32 the digits it has."""
    return float(f"{number:.9g}")


def _to_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
