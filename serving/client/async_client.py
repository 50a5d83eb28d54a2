"""The asyncio client: the blocking one with `await`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
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
from serving.client.streams import Asked, Batch, OnError, StreamPlan, chunks


class AsyncClient:
    """Asks a served model about images, over gRPC, from an event loop.

    Wherever images are taken, one image or several may be given, each as a path, encoded bytes, a
    PIL image or a uint8 array [H, W, 3] (several also as one array [N, H, W, 3]). One result per
    image comes back, in order; a single image gives a list of one. Make and use it within one
    event loop; its calls may run at the same time.

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
        require_fingerprint: refuse a model whose preprocessing has another fingerprint; each
            version is asked for its own once.
        compression: of requests, such as `grpc.Compression.Gzip`; of little use for JPEG files.
        interceptors: of `grpc.aio`, for example OpenTelemetry's `aio_client_interceptors()`.

    Raises:
        ValueError: if an argument makes no sense.

    Example:
        `async with AsyncClient("localhost:8500", model="digits") as client:
        print((await client.predict("seven.png"))[0].labels)`
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
        require_fingerprint: str | None = None,
        compression: Any = None,
        interceptors: Sequence[Any] = (),
    ):
        target = calls.Target(model, version, version_label)
        self._settings = Settings(
            address,
            target,
            timeout,
            tls,
            max_batch_size,
            headers or {},
            channel_options,
            require_fingerprint,
            compression,
            interceptors,
        )
        self._right_versions: set[int] = set()  # whose fingerprint is the required one
        self._channel = self._settings.open(grpc.aio)
        self._methods = {
            method: self._channel.unary_unary(
                method.path, method.request.SerializeToString, method.response.FromString
            )
            for method in calls.METHODS
        }

    async def predict(
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
            `await client.predict(["cat.jpg", "dog.png"], top_k=1)`
        """
        return await self._ask(questions.predictions(top_k), images, timeout)

    async def classify(
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
            `await client.classify("cat.jpg")`
        """
        collected = await asyncio.to_thread(collect, images)
        target, most = self._settings.target, self._settings.max_batch_size
        requests = questions.classify_calls(target, collected, top_k, most)
        return await self._gather(requests, collected, timeout)

    async def probabilities(
        self, images: Any, *, timeout: float | None = None
    ) -> list[Probabilities]:
        """Give the probability of every class.

        Args:
            images: one or several, see the class.
            timeout: seconds for each request; None for the client's.

        Returns:
            One result per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `(await client.probabilities("cat.jpg"))[0].probabilities.argmax()`
        """
        return await self._ask(questions.PROBABILITIES, images, timeout)

    async def embed(self, images: Any, *, timeout: float | None = None) -> list[Embedding]:
        """Give the model's representation of images.

        Args:
            images: one or several, see the class.
            timeout: seconds for each request; None for the client's.

        Returns:
            One embedding per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `(await client.embed("cat.jpg"))[0].embedding.shape`
        """
        return await self._ask(questions.EMBED, images, timeout)

    async def attention(self, images: Any, *, timeout: float | None = None) -> list[AttentionMap]:
        """Give the model's attention over images.

        Args:
            images: one or several, see the class.
            timeout: seconds for each request; None for the client's.

        Returns:
            One map per image.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.

        Example:
            `(await client.attention("cat.jpg"))[0].attention.shape`
        """
        return await self._ask(questions.ATTENTION, images, timeout)

    async def stream(
        self,
        images: AsyncIterable[Any] | Iterable[Any],
        *,
        asked: Asked = "predict",
        top_k: int = 5,
        in_flight: int = 4,
        on_error: OnError = "raise",
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        """Ask about any number of images, while later ones are read and sent.

        Args:
            images: one, or any iterable, asynchronous or not, in any form of the class; read as
                needed.
            asked: "predict", "probabilities", "embed" or "attention".
            top_k: how many classes, for "predict".
            in_flight: most batches of up to `max_batch_size` images that are under way.
            on_error: "raise" ends the stream at the first image without an answer; "yield" gives a
                `Failure` in its place and goes on.
            timeout: seconds for each request; None for the client's.

        Yields:
            One result per image, in order. Closing the stream cancels what is under way.

        Raises:
            ServingError: if an image cannot be sent or the server cannot answer.
            ValueError: if an argument makes no sense.

        Example:
            `async for result in client.stream(images): print(result)`
        """
        plan = StreamPlan(asked, top_k, in_flight, on_error)
        seconds = self._settings.deadline(timeout)
        under_way: deque[tuple[Batch, list[asyncio.Task[Any]]]] = deque()
        first = 0
        try:
            async for items in _chunks(images, self._settings.max_batch_size):
                if len(under_way) == plan.in_flight:
                    for result in await self._finished(plan, *under_way[0]):
                        yield result
                    under_way.popleft()
                # Files are read here: in a thread, so that the loop goes on.
                target = self._settings.target
                batch = await asyncio.to_thread(plan.batch, first, items, target)
                first += len(items)
                started = [asyncio.create_task(self._send(c, seconds)) for c in batch.calls]
                under_way.append((batch, started))
            while under_way:
                for result in await self._finished(plan, *under_way[0]):
                    yield result
                under_way.popleft()
        finally:
            for _, started in under_way:
                for task in started:
                    task.cancel()

    async def _finished(
        self, plan: StreamPlan, batch: Batch, started: list[asyncio.Task[Any]]
    ) -> Iterator[Any]:
        for call, task in zip(batch.calls, started, strict=True):
            try:
                batch.fill(call, await task)
            except ServingError as error:
                batch.fail(call, error)
        return plan.emit(batch)

    async def call(
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
            `(await client.call({"a": a, "b": b}, signature="add"))["sum"]`
        """
        call = calls.raw_call(self._settings.target, signature, dict(inputs), tuple(outputs))
        return await self._send(call, timeout)

    async def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """Describe the model's signatures.

        Args:
            timeout: seconds for the request; None for the client's.

        Returns:
            The description.

        Raises:
            ServingError: if the server cannot answer.

        Example:
            `(await client.metadata()).signatures["embed"].outputs["embedding"].shape`
        """
        return await self._send(calls.metadata_call(self._settings.target), timeout)

    async def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Tell how the model's versions are doing.

        Args:
            timeout: seconds for the request; None for the client's.

        Returns:
            Newest first.

        Raises:
            ServingError: if the server cannot answer.

        Example:
            `(await client.status())[0].state`
        """
        return await self._send(calls.status_call(self._settings.target), timeout)

    async def close(self) -> None:
        """Close the connection; calls after this fail."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(
        self, question: questions.Question, images: Any, timeout: float | None
    ) -> list[Any]:
        collected = await asyncio.to_thread(collect, images)
        target, most = self._settings.target, self._settings.max_batch_size
        return await self._gather(
            questions.image_calls(target, question, collected, most), collected, timeout
        )

    async def _gather(
        self, requests: Iterator[calls.Call], images: list[Image], timeout: float | None
    ) -> list[Any]:
        results: list[Any] = [None] * len(images)
        # Files are read when their request is built: in a thread, so that the loop goes on.
        while (call := await asyncio.to_thread(next, requests, None)) is not None:
            answers = await self._send(call, timeout)
            for index, result in zip(call.indices, answers, strict=True):
                results[index] = result
        return results

    async def _send(self, call: calls.Call, timeout: float | None) -> Any:
        seconds = self._settings.deadline(timeout)
        if call.method in (calls.PREDICT, calls.CLASSIFY):
            await self._check_fingerprint(None)
        with self._settings.errors(call, seconds):
            response = await self._methods[call.method](
                call.request, timeout=seconds, metadata=self._settings.metadata()
            )
        if call.method in (calls.PREDICT, calls.CLASSIFY):
            await self._check_fingerprint(response)
        return call.read(response)

    async def _check_fingerprint(self, response: Any) -> None:
        """Before anything is sent, and again when another version has answered."""
        required = self._settings.require_fingerprint
        version = None if response is None else response.model_spec.version.value
        if required is None or (
            self._right_versions if version is None else version in self._right_versions
        ):
            return
        target = self._settings.target
        if version is not None:
            target = calls.Target(target.model, version)
        metadata = await self._send(calls.metadata_call(target), None)
        calls.check_fingerprint(metadata, required)
        self._right_versions.add(metadata.version)


async def _chunks(
    images: AsyncIterable[Any] | Iterable[Any], size: int
) -> AsyncIterator[list[Any]]:
    """Lists of up to `size` images, read when their turn comes; what blocks runs in a thread."""
    if not isinstance(images, AsyncIterable):
        lists = chunks(images, size)
        while (items := await asyncio.to_thread(next, lists, None)) is not None:
            yield items
        return
    items = []
    async for item in images:
        items.append(item)
        if len(items) == size:
            yield items
            items = []
    if items:
        yield items
