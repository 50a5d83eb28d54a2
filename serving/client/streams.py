"""Many images, one after the other: what both clients do with a stream before and after sending."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from serving.client import questions
from serving.client.calls import Call, Target
from serving.client.errors import ServingError
from serving.client.images import Image, as_items, collect_one

Asked = Literal["predict", "probabilities", "embed", "attention"]
OnError = Literal["raise", "yield"]


@dataclass(frozen=True, slots=True)
class Failure:
    """What a stream gives in the place of an image that has no answer.

    Attributes:
        source: the file's path, or `"image 3"`.
        error: why.
        valid: False, as of an image that the server could not read.

    Example:
        >>> Failure("cat.jpg", ServingError("no such image file")).valid
        False
    """

    source: str
    error: ServingError
    valid: bool = field(default=False, init=False)


@dataclass(slots=True)
class Batch:
    """Images that are sent together.

    Attributes:
        results: one for each image, in order; filled in as they come.
        sources: what results call them.
        calls: the requests, whose indices count within the batch.
    """

    results: list[Any]
    sources: list[str]
    calls: list[Call]

    def fill(self, call: Call, answers: list[Any]) -> None:
        """Take the answers to one of the calls."""
        for index, answer in zip(call.indices, answers, strict=True):
            self.results[index] = answer

    def fail(self, call: Call, error: ServingError) -> None:
        """Take the failure of one of the calls."""
        for index in call.indices:
            self.results[index] = Failure(self.sources[index], error)


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What is asked about a stream, and how much of it is under way.

    Attributes:
        asked: "predict", "probabilities", "embed" or "attention".
        top_k: how many classes, for "predict".
        in_flight: most batches under way, at least 1.
        on_error: "raise" ends the stream at an image without an answer, "yield" gives a `Failure`.

    Raises:
        ValueError: if one makes no sense.

    Example:
        >>> StreamPlan("embed", 5, 4, "yield").question().signature
        'embed'
    """

    asked: str
    top_k: int
    in_flight: int
    on_error: str

    def __post_init__(self) -> None:
        if self.asked not in ("predict", "probabilities", "embed", "attention"):
            raise ValueError(
                f"asked is {self.asked!r}; it must be predict, probabilities, embed or attention"
            )
        if self.in_flight < 1:
            raise ValueError(f"in_flight is {self.in_flight}; it must be at least 1")
        if self.on_error not in ("raise", "yield"):
            raise ValueError(f"on_error is {self.on_error!r}; it must be raise or yield")

    def question(self) -> questions.Question:
        """What is asked about each image."""
        if self.asked == "predict":
            return questions.predictions(self.top_k)
        return {
            "probabilities": questions.PROBABILITIES,
            "embed": questions.EMBED,
            "attention": questions.ATTENTION,
        }[self.asked]

    def batch(self, first: int, items: list[Any], target: Target) -> Batch:
        """Read some images of the stream and build their requests.

        Args:
            first: the position of the first in the stream.
            items: images in any form that the clients take.
            target: the model to ask.

        Returns:
            The batch, with a `Failure` for each image that cannot be sent.
        """
        results: list[Any] = [None] * len(items)
        sources = [
            str(item) if isinstance(item, str | PurePath) else f"image {first + index}"
            for index, item in enumerate(items)
        ]
        good = []
        for index, item in enumerate(items):
            try:
                image = collect_one(first + index, item)
                # A file is read here, so that one that vanishes fails by itself.
                content = image.content if image.is_pixels else image.encoded()
                good.append(Image(index, image.source, content))
            except ServingError as error:
                results[index] = Failure(sources[index], error)
        calls = list(questions.image_calls(target, self.question(), good, max(1, len(items))))
        return Batch(results, sources, calls)

    def emit(self, batch: Batch) -> Iterator[Any]:
        """Give the results of a batch, in order.

        Args:
            batch: with all its answers.

        Yields:
            One result for each image.

        Raises:
            ServingError: of the first failure, unless failures are to be given.
        """
        for result in batch.results:
            if isinstance(result, Failure) and self.on_error == "raise":
                raise result.error
            yield result


def chunks(images: Any, size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` images, read when their turn comes; one image is a list of one."""
    items: list[Any] = []
    for item in as_items(images):
        items.append(item)
        if len(items) == size:
            yield items
            items = []
    if items:
        yield items
