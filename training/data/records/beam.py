"""Packing on many machines: one shard is one piece of work for Apache Beam."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from training.data.damage import BadImages
from training.data.records.layout import Info, read_info
from training.data.records.new_folder import writing
from training.data.records.pack import (
    Part,
    Written,
    checked_examples,
    finish,
    plan,
    write_shard,
)
from training.data.source import DataSource, load_source


def pack_with_beam(
    spec: str,
    out: str,
    runner: str,
    *,
    data_dir: str | None = None,
    split_seed: int = 0,
    seed: int = 0,
    shards: int | None = None,
    bad_images: BadImages = "skip",
) -> Info:
    """As `pack`, with the shards written by the workers of a Beam pipeline.

    Every worker must see the data and the folder under the same paths. A source without random
    access (TFDS in TFRecords) is read from its beginning for each shard.

    Args:
        spec: of the data, as given to `load_source`.
        out: the folder to make.
        runner: of Beam, such as "DirectRunner" or "DataflowRunner".
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        split_seed: of the split that is made when there is none to test on. Default 0.
        seed: of the order. Default 0.
        shards: of the training split. Default None: by size.
        bad_images: "skip" or "refuse"; each worker counts for itself. Default "skip".

    Returns:
        What was written.

    Raises:
        ValueError: if Beam is not installed, or as `pack` does.
    """
    try:
        import apache_beam as beam
    except ImportError as error:
        raise ValueError(
            f"--beam {runner} needs Apache Beam: pip install apache_beam, or leave --beam out."
        ) from error
    source = load_source(spec, data_dir=data_dir, seed=split_seed, bad_images=bad_images)
    parts = plan(source, seed, shards)
    opened = functools.partial(
        load_source,
        spec,
        data_dir=data_dir,
        seed=split_seed,
        bad_images=bad_images,
        report=_silent,
    )
    with writing(out) as folder:
        with beam.Pipeline(runner=runner) as pipeline:
            _ = (
                pipeline
                | beam.Create(parts)
                | beam.Reshuffle()  # or one worker would get them all
                | beam.Map(write_part, opened=opened, seed=seed, folder=folder)
                | beam.combiners.ToList()
                | beam.Map(finish_parts, opened=opened, seed=seed, folder=folder)
            )
        return read_info(folder)


def write_part(
    part: Part, opened: functools.partial[DataSource], seed: int, folder: str
) -> tuple[Part, Written]:
    """The work of one worker: write one shard.

    Args:
        part: which shard.
        opened: opens the data set, on the worker.
        seed: of the order.
        folder: where to.

    Returns:
        The part, and what is in its shard.
    """
    source = opened()
    examples = checked_examples(source, part.split, seed, part.start, part.examples)
    with source.damage.explained():
        return part, write_shard(examples, part, source.labels, folder)


def finish_parts(
    results: Iterable[tuple[Part, Written]],
    opened: functools.partial[DataSource],
    seed: int,
    folder: str,
) -> None:
    """The work of the last worker: write the indices and `info.json`.

    Args:
        results: of `write_part`, in any order.
        opened: opens the data set, on the worker.
        seed: of the order.
        folder: where the shards are.
    """
    ordered = sorted(results, key=lambda result: (result[0].split, result[0].number))
    finish(opened(), seed, [part for part, _ in ordered], [done for _, done in ordered], folder)


def _silent(line: str) -> None:
    """The driver has reported on the data already."""
