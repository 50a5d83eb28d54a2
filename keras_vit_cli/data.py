"""`keras-vit data`."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from training.data.inspection import Range, Summary

_SHOWN = 20


def pack(
    spec: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")],
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    shards: int | None = None,
    seed: int = 0,
    split_seed: int = 0,
    bad_images: Literal["skip", "refuse"] = "skip",
    data_dir: str | None = None,
    beam: Annotated[str | None, tyro.conf.arg(metavar="RUNNER")] = None,
) -> None:
    """Write a data set as record shards, which train as --data records:OUT.

    Images are copied as they are, in a random order. Each is decoded once; those that cannot be are
    named and left out. OUT appears when it is complete.

    Args:
        spec: digits, folder:PATH, tfds:NAME[/CONFIG], webdataset:PATTERN or records:PATH.
        out: folder to make.
        shards: of the training split. By default shards have about 200 MB.
        seed: of the order.
        split_seed: of the test split that is made when the data has none.
        bad_images: leave out what cannot be decoded, at most 1 % of all, or stop.
        data_dir: where TFDS keeps its data.
        beam: write the shards with Apache Beam on this runner, such as DirectRunner.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from training.data import load_source
    from training.data.records.beam import pack_with_beam
    from training.data.records.pack import pack as write

    if beam is not None:
        info = pack_with_beam(
            spec,
            out,
            beam,
            data_dir=data_dir,
            split_seed=split_seed,
            seed=seed,
            shards=shards,
            bad_images=bad_images,
        )
    else:
        report = functools.partial(print, file=sys.stderr)
        source = load_source(
            spec, data_dir=data_dir, seed=split_seed, bad_images=bad_images, report=report
        )
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            total = source.training_examples + source.splits["test"]
            task = progress.add_task("packing", total=total)
            info = write(
                source,
                out,
                seed=seed,
                shards=shards,
                advance=functools.partial(progress.advance, task),
            )
    parts = ", ".join(
        f"{sum(shard.examples for shard in of_split):,} {split} images in {len(of_split)} shards"
        for split, of_split in info.shards.items()
    )
    size = sum(shard.bytes for of_split in info.shards.values() for shard in of_split)
    print(f"{out}: {parts}, {size / 1e6:,.1f} MB")


def info(
    spec: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC")],
    sample: int = 1000,
    all: Annotated[bool, tyro.conf.arg(name="all")] = False,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    seed: int = 0,
    data_dir: str | None = None,
) -> None:
    """Show the classes, counts and image sizes of a data set, and which images are damaged.

    Args:
        spec: digits, folder:PATH, tfds:NAME[/CONFIG], webdataset:PATTERN or records:PATH.
        sample: images of each split to decode.
        all: decode every image, and count every label.
        json: print one line of JSON instead of a table.
        seed: of the test split that is made when the data has none.
        data_dir: where TFDS keeps its data.
    """
    import dataclasses
    from json import dumps

    from training.data import load_source
    from training.data.inspection import summarize

    report = functools.partial(print, file=sys.stderr)
    source = load_source(spec, data_dir=data_dir, seed=seed, report=report)
    summary = summarize(source, sample=None if all else sample)
    if json:
        print(dumps(dataclasses.asdict(summary), ensure_ascii=False))
    else:
        _show(summary)


def run(arguments: list[str]) -> None:
    """Run the command."""
    tyro.extras.subcommand_cli_from_dict(
        {"pack": pack, "info": info}, prog="keras-vit data", args=arguments
    )


def _show(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *summary.splits, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    splits = list(summary.splits.values())
    rows = {
        "images": [f"{split.examples:,}" for split in splits],
        f"classes, of {len(summary.labels):,}": [_number(split.classes) for split in splits],
        "fewest": [_class(split.smallest) for split in splits],
        "most": [_class(split.largest) for split in splits],
        "decoded": [f"{split.looked_at:,}" for split in splits],
        "width": [_range(split.width) for split in splits],
        "height": [_range(split.height) for split in splits],
        "bytes": [_range(split.bytes) for split in splits],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console(highlight=False, soft_wrap=True)
    console.print(summary.spec, markup=False)
    console.print(table)
    console.print(f"{len(summary.damaged):,} damaged images were met")
    for name, reason in list(summary.damaged.items())[:_SHOWN]:
        console.print(f"  {name}: {reason}", markup=False)
    if len(summary.damaged) > _SHOWN:
        console.print(f"  … and {len(summary.damaged) - _SHOWN} more: --json lists all")


def _number(value: int | None) -> str:
    return "not counted (--all)" if value is None else f"{value:,}"


def _class(entry: tuple[str, int] | None) -> str:
    return "" if entry is None else f"{entry[0]}: {entry[1]:,}"


def _range(values: Range | None) -> str:
    return "" if values is None else f"{values.least:,} … {values.median:,} … {values.most:,}"
