"""Warm-up: replay recorded requests before a version goes into service."""

import time
from pathlib import PurePosixPath

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.local_server.inference import classify, multi_inference, regress
from serving.local_server.metrics import Metrics
from serving.local_server.predict import predict
from serving.local_server.servable import Servable
from serving.local_server.status import StatusError, invalid

WARMUP_FILE = PurePosixPath("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000  # TF Serving's limit
_HANDLERS = {
    "predict_log": predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


def warm_up(servable: Servable, path: str, metrics: Metrics) -> int:
    """Replay a version's warm-up file, if it has one.

    Args:
        servable: the loaded version.
        path: its directory.
        metrics: where requests and time are counted.

    Returns:
        How many requests were replayed.

    Raises:
        StatusError: if a record cannot be read or answered; as on TF Serving, such a version does
            not go into service.

    Example:
        `warm_up(Servable("digits", 1, "models/digits/1"), "models/digits/1", Metrics())`
    """
    file = f"{path}/{WARMUP_FILE}"
    if not tf.io.gfile.exists(file):
        return 0
    count, start = 0, time.monotonic()
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        count += 1
        if count > _MAX_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS})")
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError as error:
            raise invalid(f"Failed to parse warmup record: {error}") from error
        kind = log.WhichOneof("log_type")
        if kind not in _HANDLERS:
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}"
            )
        _HANDLERS[kind](servable, getattr(log, kind).request, None)
    metrics.count("model_warmup_records_read", count, model_path=path, status="OK")
    metrics.observe(
        "model_warmup_latency", (time.monotonic() - start) * 1e6, model_path=path, status="OK"
    )
    return count
