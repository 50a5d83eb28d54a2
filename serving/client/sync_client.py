"""The blocking client."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import grpc
import numpy as np

from serving.client import calls, questions
from serving.client.channel import TLS
from serving.client.errors import ServingError
from serving.client.images import Image, collect
from serving.client.results import (
    AttentionMap,
    Embedding,
    ModelMetadata,
    Prediction,
    Probabilities,
    VersionStatus,
)
from serving.client.settings import Settings


class Client:
    """Asks a served model about images, over gRPC.

    Wherever images are taken, one image or several may be given, each as a path, encoded bytes, a
    PIL image or a uint8 array [H, W, 3] (several also as one array [N, H, W, 3]). One result per
    image comes back, in order; a single image gives a list of one. A client may be shared by
    threads.

    Args:
        address: HOST:PORT of the gRPC endpoint.
        model: the model's name on the server.
        version: ask this version; by default the newest.
        version_label: ask the version that carries this label instead.
        timeout: seconds that one request may take, above 0.
        tls: True or a `TLS` for an encrypted connection.
        max_batch_size: most images of one request, at least 1; more images make more requests.
        headers: sent with every request, for example `{"authorization": "Bearer …"}`.
        channel_options: further gRPC channel options; they win over the client's own.

    Raises:
        ValueError: if an argument makes no sense.

    Example:
        `with Client("localhost:8500", model="digits") as client:
        print(client.predict("seven.png")[0].labels)`
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        version_label: str | None = None,
        timeout: float = 30.0,
        tls: bool | TLS = False,
        max_batch_size: int = 32,
        headers: Mapping[str, str] | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
    ):
        target = calls.Target(model, version, version_label)
        self._settings = Settings(
            address, target, timeout, tls, max_batch_size, headers or {}, channel_options
        )
        self._channel = self._settings.open(grpc)
        self._methods = {
            method: self._channel.unary_unary(
                method.path, method.request.SerializeToString, method.response.FromString
            )
            for method in calls.METHODS
        }

    def predict(
        self, images: Any, *, top_k: int = 5, timeout: float | None = None
    ) -> list[Prediction]:
        """Name the best classes of images.

        Args:
            images: one or several, see the class.
            top_k: how many classes, at least 1; a model exported with fewer gives what it has.
            timeout: seconds for each request; None for the client's.

        Returns:
            One prediction per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `client.predict(["cat.jpg", "dog.png"], top_k=1)`
        """
        return self._ask(questions.predictions(top_k), images, timeout)

    def classify(
        self, images: Any, *, top_k: int = 5, timeout: float | None = None
    ) -> list[Prediction]:
        """Do as `predict` through TF Serving's Classify API and the signature `classify`.

        Args:
            images: one or several, see the class.
            top_k: how many classes, at least 1.
            timeout: seconds for each request; None for the client's.

        Returns:
            One prediction per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `client.classify("cat.jpg")`
        """
        collected = collect(images)
        target, most = self._settings.target, self._settings.max_batch_size
        requests = questions.classify_calls(target, collected, top_k, most)
        return self._gather(requests, collected, timeout)

    def probabilities(self, images: Any, *, timeout: float | None = None) -> list[Probabilities]:
        """Give the probability of every class.

        Args:
            images: one or several, see the class.
            timeout: seconds for each request; None for the client's.

        Returns:
            One result per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `client.probabilities("cat.jpg")[0].probabilities.argmax()`
        """
        return self._ask(questions.PROBABILITIES, images, timeout)

    def embed(self, images: Any, *, timeout: float | None = None) -> list[Embedding]:
        """Give the model's representation of images.

        Args:
            images: one or several, see the class.
            timeout: seconds for each request; None for the client's.

        Returns:
            One embedding per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `client.embed("cat.jpg")[0].embedding.shape`
        """
        return self._ask(questions.EMBED, images, timeout)

    def attention(self, images: Any, *, timeout: float | None = None) -> list[AttentionMap]:
        """Give the model's attention over images.

        Args:
            images: one or several, see the class.
            timeout: seconds for each request; None for the client's.

        Returns:
            One map per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `client.attention("cat.jpg")[0].attention.shape`
        """
        return self._ask(questions.ATTENTION, images, timeout)

    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = "serving_default",
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Ask any signature of any model with any arrays.

        Args:
            inputs: arrays by input name.
            signature: the signature.
            outputs: names of the outputs wanted; all by default.
            timeout: seconds for the request; None for the client's.

        Returns:
            Arrays by output name; text as object arrays of bytes.

        Raises:
            ServingError: if the server cannot answer.

        Example:
            `client.call({"a": a, "b": b}, signature="add")["sum"]`
        """
        call = calls.raw_call(self._settings.target, signature, dict(inputs), tuple(outputs))
        return self._send(call, timeout)

    def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """Describe the model's signatures.

        Args:
            timeout: seconds for the request; None for the client's.

        Returns:
            The description.

        Raises:
            ServingError: if the server cannot answer.

        Example:
            `client.metadata().signatures["embed"].outputs["embedding"].shape`
        """
        return self._send(calls.metadata_call(self._settings.target), timeout)

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Tell how the model's versions are doing.

        Args:
            timeout: seconds for the request; None for the client's.

        Returns:
            Newest first.

        Raises:
            ServingError: if the server cannot answer.

        Example:
            `client.status()[0].state`
        """
        return self._send(calls.status_call(self._settings.target), timeout)

    def close(self) -> None:
        """Close the connection; calls after this fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: questions.Question, images: Any, timeout: float | None) -> list[Any]:
        collected = collect(images)
        target, most = self._settings.target, self._settings.max_batch_size
        return self._gather(
            questions.image_calls(target, question, collected, most), collected, timeout
        )

    def _gather(
        self, requests: Iterator[calls.Call], images: list[Image], timeout: float | None
    ) -> list[Any]:
        results: list[Any] = [None] * len(images)
        for call in requests:
            for index, result in zip(call.indices, self._send(call, timeout), strict=True):
                results[index] = result
        return results

    def _send(self, call: calls.Call, timeout: float | None) -> Any:
        seconds = self._settings.deadline(timeout)
        try:
            response = self._methods[call.method](
                call.request, timeout=seconds, metadata=self._settings.metadata()
            )
        except grpc.RpcError as error:
            raise self._settings.error(error, call, seconds) from error
        except ValueError as error:
            if "closed" not in str(error):
                raise
            raise ServingError(f"the client for {self._settings.address} is closed") from error
        return call.read(response)
