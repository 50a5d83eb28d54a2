"""The same prediction on a cluster: an Apache Beam pipeline around `RunInference`.

A pipeline writes the files that `predict_offline` writes, up to what batches of another size change
in the last digits, and each of the two goes on with what the other has left unfinished.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from serving.offline.images import Images
from serving.offline.model import ModelVersion, OfflineModel, Row
from serving.offline.output import FinishedShard, Output, Settings, Shard
from serving.offline.prediction import Summary

# (number of the shard, number of the image), which RunInference carries along.
Key = tuple[int, int]

_WRITE_AT_ONCE = 1024


def predict_with_beam(
    version: ModelVersion,
    images: Images,
    output: str,
    settings: Settings | None = None,
    *,
    runner: str = "DirectRunner",
    batch_size: int = 32,
    options: Sequence[str] = (),
) -> Summary:
    """As `predict_offline`, with shards read, predicted and written by Beam's workers.

    Every worker must see model, images and output under the same paths, and have keras-vit and
    TensorFlow installed. Only shards that are missing are computed.

    Args:
        version: from `find_version`.
        images: at least one.
        output: the directory to make, or to go on with; may be in a bucket.
        settings: what to ask, and how to write it. Default None: `Settings()`.
        runner: of Beam, such as "DirectRunner", "DataflowRunner" or "FlinkRunner".
        batch_size: images that the model sees at once, at most. Default 32.
        options: Beam's own, such as `["--temp_location", "gs://bucket/tmp"]`.

    Returns:
        A `Summary`.

    Raises:
        ValueError: if Beam is not installed, or as `predict_offline` does.

    Example:
        `predict_with_beam(find_version("served/digits"), find_files(["folder:photos"]), "out")`
    """
    beam = _apache_beam()
    from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions

    settings = settings or Settings()
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    if not len(images):
        raise ValueError("There are no images to predict.")
    target = Output(output, len(images), settings)
    with target.opened(images, version) as finished:
        parts = [
            (shard, images.part(shard.start, shard.stop))
            for shard in target.shards
            if shard.number not in finished
        ]
        handler = KeyedModelHandler(model_handler(version, settings, batch_size))
        if parts:
            # What is wrong with the model is said here, and not by every worker.
            with contextlib.closing(OfflineModel(version, settings.signature, settings.top_k)):
                pass
            with beam.Pipeline(runner=runner, options=PipelineOptions(list(options))) as pipeline:
                _ = (
                    pipeline
                    | beam.Create(parts)
                    | beam.Reshuffle()  # or one worker would get them all
                    | "Read" >> beam.FlatMap(read_part)
                    | RunInference(handler)
                    | "ByShard" >> beam.Map(by_shard)
                    | beam.GroupByKey()
                    | "Write" >> beam.Map(write_shard, output=target)
                )
    with target.opened(images, version) as finished:
        invalid = sum(shard.invalid for shard in finished.values())
        if len(finished) < len(target.shards):
            raise RuntimeError(
                f"{len(target.shards) - len(finished)} shards are missing in {output}: the same "
                f"command goes on with them."
            )
        before = len(target.shards) - len(parts)
        return Summary(output, len(images), invalid, len(target.shards), before)


def model_handler(version: ModelVersion, settings: Settings, batch_size: int = 32) -> Any:
    """A handler for `RunInference` in a pipeline of one's own.

    Args:
        version: from `find_version`.
        settings: whose signature and `top_k` are asked.
        batch_size: images that the model sees at once, at most. Default 32.

    Returns:
        An `apache_beam.ml.inference.base.ModelHandler` from (name, encoded image) to a row.

    Raises:
        ValueError: if Beam is not installed.

    Example:
        `images | RunInference(model_handler(find_version("served/digits"), Settings()))`
    """
    _apache_beam()
    from apache_beam.ml.inference.base import ModelHandler

    # In a function because its base is not there without Beam, which pickles it whole.
    class OfflineModelHandler(ModelHandler[tuple[str, bytes], Row, OfflineModel]):
        def load_model(self) -> OfflineModel:
            return OfflineModel(version, settings.signature, settings.top_k)

        def run_inference(
            self,
            batch: Sequence[tuple[str, bytes]],
            model: OfflineModel,
            inference_args: dict[str, Any] | None = None,
        ) -> Iterable[Row]:
            return model(batch)

        def batch_elements_kwargs(self) -> dict[str, Any]:
            return {"max_batch_size": batch_size}

        def get_num_bytes(self, batch: Sequence[tuple[str, bytes]]) -> int:
            return sum(len(data) for _, data in batch)

        def get_metrics_namespace(self) -> str:
            return "keras_vit"

    return OfflineModelHandler()


def read_part(part: tuple[Shard, Images]) -> Iterator[tuple[Key, tuple[str, bytes]]]:
    """Read the images of a shard.

    Args:
        part: the shard and its images.

    Yields:
        (number of the shard, number of the image), (name, encoded image).
    """
    shard, images = part
    for number, image in enumerate(images, start=shard.start):
        yield (shard.number, number), image


def by_shard(result: tuple[Key, Row]) -> tuple[int, tuple[int, Row]]:
    """Key a row by its shard.

    Args:
        result: of `RunInference`.

    Returns:
        Number of the shard, (number of the image, row).
    """
    (shard, number), row = result
    return shard, (number, row)


def write_shard(numbered: tuple[int, Iterable[tuple[int, Row]]], output: Output) -> FinishedShard:
    """Write a shard.

    Args:
        numbered: number of the shard, and its rows with the number of the image, in any order.
        output: where to.

    Returns:
        What is known of the shard.
    """
    number, rows = numbered
    ordered = [row for _, row in sorted(rows, key=lambda entry: entry[0])]
    groups = (ordered[i : i + _WRITE_AT_ONCE] for i in range(0, len(ordered), _WRITE_AT_ONCE))
    return output.write(output.shards[number], groups)


def _apache_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise ValueError(
            "A pipeline needs Apache Beam: pip install 'keras-vit[beam]' into an environment of "
            "its own, or leave --beam out."
        ) from error
    # Beam speaks of every step of every bundle.
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    return apache_beam
