"""One version of one model, loaded and ready to run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

# Session.run refuses inputs whose static shape differs and casts other data types, where TF Serving
# leaves both to the graph. Its own inner step does neither and takes a timeout per run.
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.util import deprecation

from serving.configuration.batching import BatchingParameters
from serving.local_server.batching import BatchScheduler
from serving.local_server.metrics import Metrics
from serving.local_server.status import invalid, raise_runtime_error
from serving.threads import session_threads, usable_cores

DEFAULT_SIGNATURE = "serving_default"


class Servable:
    """A loaded SavedModel with its session.

    Args:
        model: the model's name.
        version: its version.
        path: the version's directory.

    Raises:
        tensorflow.errors.OpError: if the model cannot be loaded.
        OSError: if the directory holds no SavedModel.

    Example:
        `Servable("digits", 1, "models/digits/1").signatures["serving_default"]`
    """

    def __init__(self, model: str, version: int, path: str):
        self.model = model
        self.version = version
        self._scheduler: BatchScheduler | None = None
        self._graph = tf.Graph()
        # Only what is needed: another version, or the caller, may use the same device.
        config = tf.compat.v1.ConfigProto(gpu_options={"allow_growth": True})
        within, between = session_threads([Path(path)], usable_cores())
        if within < between:  # otherwise TensorFlow chooses, and its environment variables hold
            # They are those that the first session of the process asks for.
            config.intra_op_parallelism_threads = within
            config.inter_op_parallelism_threads = between
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        # TensorFlow 2's own loader is recommended everywhere but is not what TF Serving runs.
        with self._graph.as_default(), deprecation.silence():
            try:
                meta_graph = tf.compat.v1.saved_model.load(
                    self._session, [tf.saved_model.SERVING], path
                )
            except BaseException:
                self._session.close()
                raise
        self.signatures = dict(meta_graph.signature_def)
        self._graph.finalize()  # threads share it from here on
        self._session._extend_graph()

    def start_batching(self, parameters: BatchingParameters, metrics: Metrics) -> None:
        """Run the requests of many callers together from now on.

        Args:
            parameters: sizes and times.
            metrics: where they are counted.
        """
        self._scheduler = BatchScheduler(parameters, self._run, metrics)

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None
    ) -> dict[str, np.ndarray]:
        """Compute tensors.

        Args:
            feeds: arrays by tensor name.
            fetches: tensor names; repetitions are computed once.
            timeout: seconds; None for no limit.

        Returns:
            Arrays by tensor name.

        Raises:
            StatusError: if the graph refuses the inputs, fails or takes too long.
        """
        run = self._run if self._scheduler is None else self._scheduler.run
        return run(feeds, fetches, timeout)

    def _run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None
    ) -> dict[str, np.ndarray]:
        names = list(dict.fromkeys(fetches))
        options = tf.compat.v1.RunOptions()
        if timeout is not None:
            options.timeout_in_ms = max(1, int(timeout * 1000))
        buffer = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            values = self._session._call_tf_sessionrun(
                buffer,
                {self._output(name): value for name, value in feeds.items()},
                [self._output(name) for name in names],
                [],
                None,
            )
        except tf.errors.OpError as error:
            raise_runtime_error(error)
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)
        return {name: _as_array(value) for name, value in zip(names, values, strict=True)}

    def close(self) -> None:
        """Free the session and its variables."""
        if self._scheduler is not None:
            self._scheduler.stop()
        self._session.close()

    def _output(self, name: str) -> Any:
        try:
            return self._graph.get_tensor_by_name(name)._as_tf_output()
        except (KeyError, ValueError) as error:
            raise invalid(f"Tensor {name}, specified in the signature, not found") from error


def _as_array(value: Any) -> np.ndarray:
    """Keep scalar text whole: as a NumPy text scalar it would lose trailing zero bytes."""
    if isinstance(value, bytes):
        array = np.empty((), object)
        array[()] = value
        return array
    return np.asarray(value)
