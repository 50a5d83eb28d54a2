"""The formats of a shard of results: JSON lines and Parquet."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serving.offline.model import Row

FORMATS = ("jsonl", "parquet")
# Rows of a Parquet row group: what readers load at once.
_GROUP = 1024

# Takes some rows of a file that is being written.
Write = Callable[[Sequence[Row]], None]


def check_format(file_format: str) -> None:
    """Find out before the work that a format can be written.

    Args:
        file_format: one of `FORMATS`.

    Raises:
        ValueError: if there is no such format, or what writes it is not installed.

    Example:
        >>> check_format("jsonl")
    """
    if file_format not in FORMATS:
        raise ValueError(f"format is {file_format!r}; it must be one of {', '.join(FORMATS)}.")
    if file_format == "parquet":
        _pyarrow()


@contextlib.contextmanager
def open_shard(path: Path, file_format: str, signature: str) -> Iterator[Write]:
    r"""Write a file of rows.

    Args:
        path: of the file.
        file_format: one of `FORMATS`.
        signature: which gave the rows.

    Yields:
        A function that takes some rows; the file is complete when the context ends.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "part.jsonl"
        >>> with open_shard(path, "jsonl", "embed") as write:
        ...     write([{"source": "a.png", "valid": True, "embedding": [0.5], "version": 1}])
        >>> path.read_text()
        '{"source": "a.png", "valid": true, "embedding": [0.5], "version": 1}\n'
    """
    if file_format == "jsonl":
        with path.open("w", encoding="utf-8") as file:
            yield lambda rows: file.writelines(json.dumps(row) + "\n" for row in rows)
        return
    _, parquet = _pyarrow()
    schema = _schema(signature)
    with parquet.ParquetWriter(path, schema) as writer:
        waiting: list[Row] = []

        def write(rows: Sequence[Row]) -> None:
            waiting.extend(rows)
            while len(waiting) >= _GROUP:
                writer.write_table(_table(waiting[:_GROUP], schema))
                del waiting[:_GROUP]

        yield write
        if waiting:
            writer.write_table(_table(waiting, schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "Parquet needs pyarrow: pip install 'keras-vit[parquet]', or write JSON lines with "
            "--format jsonl."
        ) from error
    return pyarrow, pyarrow.parquet


def _schema(signature: str) -> Any:
    """The columns of a signature's results; without them, a group of bad images has no types."""
    arrow, _ = _pyarrow()
    numbers = arrow.list_(arrow.float32())
    results = {
        "serving_default": [("labels", arrow.list_(arrow.string())), ("scores", numbers)],
        "probabilities": [("probabilities", numbers)],
        "embed": [("embedding", numbers)],
        "attention": [("attention", arrow.list_(numbers))],
    }
    return arrow.schema(
        [
            ("source", arrow.string()),
            ("valid", arrow.bool_()),
            *results[signature],
            ("version", arrow.int64()),
        ]
    )


def _table(rows: Sequence[Row], schema: Any) -> Any:
    arrow, _ = _pyarrow()
    return arrow.Table.from_pylist(list(rows), schema=schema)
