"""`keras-vit predict --offline`."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from keras_vit_cli.arguments import call

if TYPE_CHECKING:
    from serving.offline.images import Images
    from training.data import DataSource


def predict_offline(
    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")],
    specs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SPEC …")],
    output: Annotated[str, tyro.conf.arg(metavar="DIR")],
    signature: Literal["serving_default", "probabilities", "embed", "attention"] = (
        "serving_default"
    ),
    format: Literal["jsonl", "parquet"] = "jsonl",
    batch_size: int = 32,
    shard_size: int = 1024,
    top: int = 5,
    split: str | None = None,
    version: int | None = None,
    data_dir: str | None = None,
    beam: Annotated[str | None, tyro.conf.arg(metavar="RUNNER")] = None,
    *,
    beam_options: tyro.conf.Suppress[tuple[str, ...]] = (),
) -> None:
    """Predict any number of images without a server, into files of DIR.

    The graph is the one that TF Serving runs. Every image gives one row with source, valid, result
    and version, as the client returns them; one that cannot be read has valid false. A run that was
    stopped or killed goes on by the same command: shards that are complete are not done again.

    Args:
        base: what `keras-vit export MODEL BASE` wrote, or one version, BASE/N.
        specs: image files, folders (folder:PATH), patterns in quotes, records:PATH (TFRecord files
            of tf.Examples with image/encoded), tfds:NAME[/CONFIG], webdataset:PATTERN or digits.
        output: directory for the results.
        signature: serving_default gives labels and scores; probabilities, embed and attention one
            array each.
        format: of the results.
        batch_size: images that the model sees at once.
        shard_size: images of one file.
        top: how many classes serving_default gives.
        split: of a data set; of records, the files called SPLIT-*.
        version: of the model; the highest if left out.
        data_dir: where TFDS keeps its data.
        beam: run as an Apache Beam pipeline on this runner, such as DirectRunner; what stands after
            -- are Beam's own options.
        beam_options: these.
    """
    from serving.offline.model import find_version
    from serving.offline.output import Settings
    from serving.offline.prediction import predict_offline as predict

    settings = Settings(signature, format, shard_size, top)
    chosen = find_version(base, version)
    images = open_images(specs, split, data_dir)
    begin = time.perf_counter()
    if beam is not None:
        from serving.offline.beam import predict_with_beam

        summary = predict_with_beam(
            chosen,
            images,
            output,
            settings,
            runner=beam,
            batch_size=batch_size,
            options=beam_options,
        )
    else:
        with _progress_bar() as progress:
            summary = predict(
                chosen, images, output, settings, batch_size=batch_size, progress=progress
            )
    seconds = time.perf_counter() - begin
    resumed = (
        f", {summary.finished_before} of them finished before" if summary.finished_before else ""
    )
    print(
        f"{summary.output}: {summary.images:,} images in {summary.shards:,} files{resumed}; "
        f"{summary.invalid:,} could not be read; {seconds:.1f} s"
    )


def open_images(specs: tuple[str, ...], split: str | None, data_dir: str | None) -> Images:
    """Open what the command line names.

    Args:
        specs: files, folders and patterns, or one data set.
        split: of a data set, or of records. Default None: there must be only one, or records.
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.

    Returns:
        The images.

    Raises:
        ValueError: if there is no such input, a data set is not alone, or its split is not named.

    Example:
        >>> len(open_images(("digits",), "test", None))
        360
    """
    if not specs:
        raise ValueError("No images were given: keras-vit predict --offline BASE SPEC … --output D")
    data_sets = [spec for spec in specs if _is_data_set(spec)]
    if data_sets and len(specs) > 1:
        raise ValueError(f"{data_sets[0]} must be given alone, without {len(specs) - 1} others.")
    kind, _, rest = specs[0].partition(":")
    if kind == "records":
        from serving.offline.records import find_records

        return find_records(rest, split)
    if data_sets:
        return SourceImages(specs[0], split, data_dir)
    if split is not None:
        raise ValueError(f"--split {split} is for data sets; {specs[0]} has no splits.")
    from serving.offline.images import find_files

    return find_files(specs)


class SourceImages:
    """A split of a data set as `serving.offline.images.Images`.

    Args:
        spec: as `training.data.load_source` takes it.
        split: of the data set; None if it is to be named in an error.
        data_dir: where TFDS keeps its data. Default None: TFDS's own place.
        start: number of the first image. Default 0.
        stop: number of the image after the last. Default None: to the end.

    Raises:
        ValueError: if there is no such data set or split.
    """

    def __init__(
        self,
        spec: str,
        split: str | None,
        data_dir: str | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self._spec, self._data_dir, self._start = spec, data_dir, start
        if stop is None:
            splits = self._source().splits
            if split not in splits:
                there = ", ".join(f"{name} ({count:,})" for name, count in splits.items())
                wrong = "no split was named" if split is None else f"it has no split {split!r}"
                raise ValueError(f"{spec}: {wrong}; give --split, one of {there}.")
            stop = splits[split]
        self._split, self._stop = str(split), stop

    def __len__(self) -> int:
        """See `Images`."""
        return self._stop - self._start

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """See `Images`; what lies before `start` is passed over, where it must be by reading it."""
        examples = self._source().examples(self._split).skip(self._start).take(len(self))
        for example in examples.prefetch(16).as_numpy_iterator():
            yield example["name"].decode(), example["image_bytes"]

    def part(self, start: int, stop: int) -> SourceImages:
        """See `Images`."""
        begin = self._start + start
        end = min(self._start + stop, self._stop)
        return SourceImages(self._spec, self._split, self._data_dir, begin, end)

    def identity(self) -> dict[str, Any]:
        """See `Images`: data set, split, count and the name of the first image."""
        name, _ = next(iter(self.part(0, 1)))
        return {
            "kind": "data set",
            "data": self._spec,
            "split": self._split,
            "images": len(self),
            "first": name,
        }

    def _source(self) -> DataSource:
        from training.data import load_source

        report = functools.partial(print, file=sys.stderr)
        return load_source(self._spec, data_dir=self._data_dir, report=report)


def _is_data_set(spec: str) -> bool:
    # A file may be called digits; it is then meant by ./digits.
    return spec == "digits" or spec.startswith(("records:", "tfds:", "webdataset:"))


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error with images per second and the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    rate = TextColumn("{task.fields[rate]:.1f} images/s")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: list[TaskID] = []
        first, begin = 0, time.perf_counter()

        def update(done: int, total: int) -> None:
            nonlocal first
            if not tasks:  # what was finished before is no work of this run
                first = done
                tasks.append(bar.add_task("predicting", total=total, completed=done, rate=0.0))
                return
            seconds = time.perf_counter() - begin
            bar.update(tasks[0], completed=done, rate=(done - first) / max(seconds, 1e-9))

        yield update


def run(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: what stands after `predict --offline`; Beam's own options behind a `--`.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    command = functools.partial(predict_offline, beam_options=tuple(arguments[end + 1 :]))
    call(command, "predict --offline", arguments[:end])
