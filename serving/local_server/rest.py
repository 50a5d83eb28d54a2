"""The REST API: paths and HTTP around the same answers as gRPC."""

import dataclasses
import json
import logging
import re
import threading
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.local_server.http import HttpHandler, HttpServer
from serving.local_server.inference import classify, regress
from serving.local_server.json_values import parse_body, refused
from serving.local_server.manager import ModelManager
from serving.local_server.predict import predict
from serving.local_server.rest_examples import fill_examples
from serving.local_server.rest_json import fill_inputs, render_outputs
from serving.local_server.servable import DEFAULT_SIGNATURE
from serving.local_server.services import get_metadata, get_status
from serving.local_server.status import StatusError, invalid
from serving.page.site import Site
from serving.version_directory import is_version

logger = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds, TF Serving's default for REST
# The words of a path in any case, as there; the last one of those only that select an API.
_VERSION = "(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(f"(?i:/v1/models/(?P<name>[^/:]+){_VERSION}):(?P<verb>predict|classify|regress)")
_GET = re.compile(f"(?i:/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?)")
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
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

        self._http = HttpServer(host, port, Handler)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, name="rest", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Refuse new requests and finish the running ones.

        Args:
            grace: seconds that these may take.
        """
        self._http.drain(grace)
        self._thread.join()


class _Handler(HttpHandler):
    """Routes requests to the answers that gRPC gives too."""

    models: ModelManager
    prometheus: str | None
    page: Site | None

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        if self.page is not None and self.page.owns(self.path):
            self.end_after_answer()  # the page may leave a body unread
            self.page.respond(self)
            return
        status, content_type, text = 404, "text/html", _NOT_FOUND_PAGE
        try:
            body = self.read_body()
            if self.path == self.prometheus:
                status, content_type, text = 200, "text/plain", self.models.metrics.page()
            elif self.path[:4].lower() == "/v1/":
                answer = json.dumps(self._answer(body), indent=1)
                status, content_type, text = 200, "application/json", answer
        except StatusError as error:
            status, content_type = _HTTP_STATUS.get(error.code, 500), "application/json"
            text = json.dumps({"error": error.message}, indent=1)
        except Exception as error:
            # The client waits for an answer, whatever it is.
            logger.exception("%s %s failed", self.command, self.path)
            status, content_type = 500, "application/json"
            text = json.dumps({"error": f"{type(error).__name__}: {error}"})
        self.send(status, content_type, text)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    def _answer(self, body: bytes) -> Any:
        pattern = {"GET": _GET, "POST": _POST}.get(self.command)
        match = pattern.fullmatch(self.path) if pattern else None
        if match is None:
            with self.models.metrics.request("", "", "REST"):
                raise invalid(f"Malformed request: {self.command} {self.path}")
        target = _Target(
            unquote(match["name"] or ""), _number(match["version"]), unquote(match["label"] or "")
        )
        if self.command == "GET":
            with self.models.metrics.request(target.name, "", "REST"):
                if not target.name:
                    raise invalid("Missing model name in request.")
                return self._metadata(target) if match["metadata"] else self._status(target)
        answer = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        with self.models.metrics.request(target.name, match["verb"], "REST"):
            return answer[match["verb"]](target, parse_body(body))

    def _metadata(self, target: "_Target") -> Any:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        target.fill(request.model_spec)
        response = get_metadata(self.models, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            "model_spec": _to_dict(response.model_spec),
            "metadata": {"signature_def": _to_dict(signatures)},
        }

    def _status(self, target: "_Target") -> Any:
        request = get_model_status_pb2.GetModelStatusRequest()
        target.fill(request.model_spec)
        return _to_dict(get_status(self.models, request))

    def _predict(self, target: "_Target", body: dict[str, Any]) -> Any:
        request = predict_pb2.PredictRequest()
        target.fill(request.model_spec, body)
        with self.models.servable(request.model_spec) as servable:
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if name not in servable.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            row_format = fill_inputs(request, body, servable.signatures[name])
            with self.models.metrics.run(target.name, "Predict"):
                response = predict(servable, request, _TIMEOUT)
            return render_outputs(response, row_format)

    def _classify(self, target: "_Target", body: dict[str, Any]) -> Any:
        request = classification_pb2.ClassificationRequest()
        target.fill(request.model_spec, body)
        fill_examples(request.input, body)
        with (
            self.models.servable(request.model_spec) as servable,
            self.models.metrics.run(target.name, "Classify"),
        ):
            response = classify(servable, request, _TIMEOUT)
        return {
            "results": [
                [[entry.label, _short(entry.score)] for entry in row.classes]
                for row in response.result.classifications
            ]
        }

    def _regress(self, target: "_Target", body: dict[str, Any]) -> Any:
        request = regression_pb2.RegressionRequest()
        target.fill(request.model_spec, body)
        fill_examples(request.input, body)
        with (
            self.models.servable(request.model_spec) as servable,
            self.models.metrics.run(target.name, "Regress"),
        ):
            response = regress(servable, request, _TIMEOUT)
        return {"results": [_short(entry.value) for entry in response.result.regressions]}


@dataclasses.dataclass(frozen=True)
class _Target:
    """The model that a path names, and perhaps its version or label."""

    name: str
    version: int | None
    label: str

    def fill(self, spec: Any, body: dict[str, Any] | None = None) -> None:
        """Fill a request's `ModelSpec`, with the signature that a body names."""
        spec.name = self.name
        if self.version is not None:
            spec.version.value = self.version
        if self.label:
            spec.version_label = self.label
        signature = (body or {}).get("signature_name", "")
        if not isinstance(signature, str):
            raise refused(
                body, "not formatted correctly. 'signature_name' key must be a string value."
            )
        spec.signature_name = signature


def _number(text: str | None) -> int | None:
    """A version in a path; one of more than 64 bits is none."""
    if text is None:
        return None
    digits = text.lstrip("0")[:20] or "0"
    if not is_version(digits):
        raise invalid(f"Failed to convert version: {text} to numeric.")
    return int(digits)


def _short(number: float) -> float:
    """Give a float32 the digits it has."""
    return float(f"{number:.9g}")


def _to_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
