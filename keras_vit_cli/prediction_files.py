"""Predictions as rows of a CSV or JSON-lines file that an interrupted run goes on with."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

UNREADABLE = "not an image that the server can read"


def row_of(result: Any) -> dict[str, Any]:
    """A result of a client's stream as plain values.

    Args:
        result: a `Prediction`, `Probabilities`, `Embedding`, `AttentionMap` or `Failure`.

    Returns:
        `source`, `valid` and `error` (empty if there is none), and what the result holds.

    Example:
        >>> from serving.client import Prediction
        >>> row_of(Prediction("a.jpg", True, ("cat",), (0.5,), 1))["labels"]
        ['cat']
    """
    row: dict[str, Any] = {"source": result.source, "valid": result.valid, "error": ""}
    if not result.valid:
        row["error"] = str(getattr(result, "error", UNREADABLE))
    for field in dataclasses.fields(result):
        if field.name not in ("source", "valid", "error"):
            value = getattr(result, field.name)
            row[field.name] = value.tolist() if hasattr(value, "tolist") else value
            if isinstance(value, tuple):
                row[field.name] = list(value)
    return row


@dataclasses.dataclass
class Output:
    """A file that rows are appended to.

    Attributes:
        file: open for appending.
        finished: sources that have a row already.
        columns: of CSV; None for JSON lines.
        top: classes that a row of CSV has room for.
    """

    file: IO[str]
    finished: set[str]
    columns: list[str] | None
    top: int

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, and hand it to the operating system: a killed run loses none."""
        if self.columns is None:
            self.file.write(json.dumps(row) + "\n")
        else:
            csv.DictWriter(self.file, self.columns, extrasaction="ignore").writerow(
                _flat(row, self.top)
            )
        self.file.flush()


@contextlib.contextmanager
def open_output(path: Path, signature: str, top: int) -> Iterator[Output]:
    """Open a file for rows, new or begun; a line that was cut short is taken back.

    Args:
        path: ends with .csv or .jsonl.
        signature: what is asked; a CSV file holds predictions only.
        top: classes of a row.

    Yields:
        The output.

    Raises:
        ValueError: if the file is of another kind, or was begun with other columns.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"--output {path} must end with .csv or .jsonl.")
    if path.suffix == ".csv" and signature != "predict":
        raise ValueError(f"A table has no room for what {signature} answers: use a .jsonl file.")
    columns = _columns(top) if path.suffix == ".csv" else None
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    finished = _finished(path, whole.decode(), columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        file.truncate(len(whole))
        if columns is not None and not whole:
            csv.writer(file).writerow(columns)
        yield Output(file, finished, columns, top)


def _columns(top: int) -> list[str]:
    pairs = [f"{kind}_{rank}" for rank in range(1, top + 1) for kind in ("label", "score")]
    return ["source", "valid", "error", "version", *pairs]


def _flat(row: dict[str, Any], top: int) -> dict[str, Any]:
    pairs = zip(row.get("labels", ()), row.get("scores", ()), strict=True)
    flat = dict(row)
    for rank, (label, score) in enumerate(list(pairs)[:top], 1):
        flat |= {f"label_{rank}": label, f"score_{rank}": score}
    return flat


def _finished(path: Path, text: str, columns: list[str] | None) -> set[str]:
    if columns is None:
        try:
            return {json.loads(line)["source"] for line in text.splitlines()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds something else than predictions: {error}.") from error
    reader = csv.DictReader(io.StringIO(text))
    if text and reader.fieldnames != columns:
        raise ValueError(
            f"{path} was begun with the columns {reader.fieldnames}: give the same --top, or "
            "another file."
        )
    return {row["source"] for row in reader}
