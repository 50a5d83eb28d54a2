"""Predicting many images on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serving.offline.images import Images
from serving.offline.model import ModelVersion, OfflineModel, Row
from serving.offline.output import Output, Settings, Shard

Item = TypeVar("Item")
Batch = Sequence[tuple[str, bytes]]
# How many images are done and how many there are; called at the start and after each batch.
Progress = Callable[[int, int], None]

# Batches that are read before they are needed, and results that wait to be written.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a prediction has written, with what it found to be finished.

    Args:
        output: the directory.
        images: number of rows, one for each image.
        invalid: how many of them are of images that could not be read.
        shards: number of files.
        finished_before: number of files that were there already.
    """

    output: str
    images: int
    invalid: int
    shards: int
    finished_before: int


def predict_offline(
    version: ModelVersion,
    images: Images,
    output: str,
    settings: Settings | None = None,
    *,
    batch_size: int = 32,
    progress: Progress = lambda done, total: None,
) -> Summary:
    """Write a row for each image, in shards; called again, go on with what is missing.

    Reading, computing and writing overlap. A run that is killed at any moment leaves only whole
    shards; the next one checks them, and computes the others.

    Args:
        version: from `find_version`.
        images: at least one.
        output: the directory to make, or to go on with; may be in a bucket.
        settings: what to ask, and how to write it. Default None: `Settings()`.
        batch_size: images that the model sees at once, at least 1. Default 32.
        progress: called with the number of images that are done, and of all.

    Returns:
        A `Summary`.

    Raises:
        ValueError: if there are no images, an argument is out of range, the model has no such
            signature, or the directory holds results of something else.

    Example:
        `predict_offline(find_version("served/digits"), find_files(["folder:photos"]), "out")`
    """
    settings = settings or Settings()
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    if not len(images):
        raise ValueError("There are no images to predict.")
    target = Output(output, len(images), settings)
    with target.opened(images, version) as finished:
        before = len(finished)
        missing = [shard for shard in target.shards if shard.number not in finished]
        done = sum(shard.rows for shard in finished.values())
        progress(done, len(images))
        if missing:
            for shard, group in _answers(version, images, settings, missing, batch_size):

                def rows(group: Iterator[tuple[Shard, list[Row]]] = group) -> Iterator[list[Row]]:
                    nonlocal done
                    for _, batch in group:
                        yield batch
                        done += len(batch)
                        progress(done, len(images))

                finished[shard.number] = target.write(shard, rows())
    if len(finished) < len(target.shards):
        raise RuntimeError(
            f"The input ended after {done} of {len(images)} images: it has changed since it was "
            f"listed. Start again."
        )
    invalid = sum(shard.invalid for shard in finished.values())
    return Summary(output, len(images), invalid, len(target.shards), before)


def _answers(
    version: ModelVersion,
    images: Images,
    settings: Settings,
    shards: Sequence[Shard],
    batch_size: int,
) -> Iterator[tuple[Shard, Iterator[tuple[Shard, list[Row]]]]]:
    """Of each shard its rows, batch by batch; reading and computing have a thread each."""
    with contextlib.closing(OfflineModel(version, settings.signature, settings.top_k)) as model:
        batches = ahead(_batches(images, shards, batch_size), _AHEAD)
        answers = ahead(((shard, model(batch)) for shard, batch in batches), _AHEAD)
        yield from itertools.groupby(answers, key=lambda answer: answer[0])


def _batches(
    images: Images, shards: Sequence[Shard], batch_size: int
) -> Iterator[tuple[Shard, Batch]]:
    """The batches of each shard, none with images of two."""
    # Shards that follow each other are read in one go: some inputs are read from their beginning.
    numbered = enumerate(shards)
    for _, group in itertools.groupby(numbered, key=lambda entry: entry[1].number - entry[0]):
        run = [shard for _, shard in group]
        reading = iter(images.part(run[0].start, run[-1].stop))
        for shard in run:
            of_shard = itertools.islice(reading, shard.stop - shard.start)
            while batch := list(itertools.islice(of_shard, batch_size)):
                yield shard, batch


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made in a thread of their own before they are asked for.

    Args:
        items: what is iterated; only in that thread.
        depth: how many may wait, at least 1.

    Yields:
        The items.

    Raises:
        Exception: what `items` raises, when its turn comes.

    Example:
        >>> list(ahead(iter("abc"), depth=2))
        ['a', 'b', 'c']
    """
    end: Any = object()
    worker = ThreadPoolExecutor(1, "ahead")
    try:
        waiting: deque[Future[Any]] = deque(worker.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(worker.submit(next, items, end))
            yield item
    finally:
        worker.shutdown(cancel_futures=True)
