"""The directory that a prediction writes: shards that are whole, and what they were made from.

```
part-00012-of-00040.jsonl                results, in the order of the input
_manifest.json                           input, model and settings; all shards have the same
_finished/part-00012-of-00040.json       rows, size and sha256 of a shard that is complete
```

Names with an underscore are passed over by what reads folders of shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_vit.atomic_files import hidden_sibling, publish
from serving.offline.images import Images
from serving.offline.model import ModelVersion, Row, question
from serving.offline.shard_files import check_format, open_shard

_VERSION = 1
_MANIFEST, _FINISHED = "_manifest.json", "_finished"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the rows depend on besides images and model.

    Args:
        signature: "serving_default", "probabilities", "embed" or "attention".
        file_format: "jsonl" or "parquet".
        shard_size: images of a shard, at least 1. A run that is killed does again what it had of
            one shard.
        top_k: classes of a row of `serving_default`, at least 1.

    Example:
        >>> Settings().shard_size
        1024
    """

    signature: str = "serving_default"
    file_format: str = "jsonl"
    shard_size: int = 1024
    top_k: int = 5


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of the output.

    Args:
        number: from 0.
        start: number of its first image.
        stop: number of the image after its last.
        file: its name.
    """

    number: int
    start: int
    stop: int
    file: str


@dataclasses.dataclass(frozen=True)
class FinishedShard:
    """What is known of a complete shard.

    Args:
        rows: how many it has.
        invalid: how many of them are of images that could not be read.
        bytes: its size.
        sha256: of its content.
    """

    rows: int
    invalid: int
    bytes: int
    sha256: str


class Output:
    """A directory of shards; pickled, it writes them on another machine.

    Args:
        path: the directory; may be in a bucket.
        images: how many there are.
        settings: of the prediction.

    Raises:
        ValueError: if a setting is out of range or cannot be written.

    Example:
        >>> [shard.file for shard in Output("out", 5, Settings(shard_size=3)).shards]
        ['part-00000-of-00002.jsonl', 'part-00001-of-00002.jsonl']
    """

    def __init__(self, path: str, images: int, settings: Settings) -> None:
        if settings.shard_size < 1:
            raise ValueError(f"shard_size is {settings.shard_size}; it must be at least 1.")
        question(settings.signature, settings.top_k)
        check_format(settings.file_format)
        self.path = path.rstrip("/")
        self.settings = settings
        size, count = settings.shard_size, math.ceil(images / settings.shard_size)
        self.shards = [
            Shard(
                number,
                number * size,
                min(number * size + size, images),
                f"part-{number:05}-of-{count:05}.{settings.file_format}",
            )
            for number in range(count)
        ]

    @contextlib.contextmanager
    def opened(self, images: Images, model: ModelVersion) -> Iterator[dict[int, FinishedShard]]:
        """Make the directory or go on with it, as the only one who writes.

        Args:
            images: all of them.
            model: what predicts.

        Yields:
            The shards that are complete, by number; each was read and has the right checksum.

        Raises:
            ValueError: if the directory holds something else, results of another input, model or
                settings (the difference is shown), or another run is writing to it.
        """
        manifest = {
            "format": _VERSION,
            "input": images.identity(),
            "model": dataclasses.asdict(model),
            "settings": dataclasses.asdict(self.settings),
        }
        with self._alone():
            self._check_manifest(manifest)
            yield {
                shard.number: finished
                for shard in self.shards
                if (finished := self._finished(shard)) is not None
            }

    def write(self, shard: Shard, batches: Iterable[Sequence[Row]]) -> FinishedShard:
        """Write a shard: it appears when it is complete, and counts as finished then.

        Args:
            shard: which one.
            batches: its rows in order.

        Returns:
            What is known of it now.

        Raises:
            RuntimeError: if the rows are not as many as the shard's images.
        """
        rows = invalid = 0
        with self._whole_file(shard.file) as temporary:
            with open_shard(temporary, self.settings.file_format, self.settings.signature) as add:
                for batch in batches:
                    add(batch)
                    rows += len(batch)
                    invalid += sum(not row["valid"] for row in batch)
            if rows != shard.stop - shard.start:
                raise RuntimeError(
                    f"{shard.file} would have {rows} rows for {shard.stop - shard.start} images: "
                    f"the input has changed since it was listed. Start again."
                )
            finished = FinishedShard(rows, invalid, *_content(str(temporary)))
        note = json.dumps(dataclasses.asdict(finished))
        with self._whole_file(self._note(shard)) as temporary:
            temporary.write_text(note)
        return finished

    # === Parts ===

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}"

    @staticmethod
    def _note(shard: Shard) -> str:
        return f"{_FINISHED}/{shard.file.rpartition('.')[0]}.json"

    def _finished(self, shard: Shard) -> FinishedShard | None:
        """What is known of a shard, if it is there as it was written."""
        try:
            with tf.io.gfile.GFile(self._join(self._note(shard))) as file:
                finished = FinishedShard(**json.loads(file.read()))
            content = _content(self._join(shard.file))
        except (ValueError, TypeError, tf.errors.OpError):  # not there, or torn: to be done again
            return None
        whole = finished.rows == shard.stop - shard.start
        return finished if whole and content == (finished.bytes, finished.sha256) else None

    def _check_manifest(self, manifest: dict[str, Any]) -> None:
        names = tf.io.gfile.listdir(self.path) if tf.io.gfile.isdir(self.path) else []
        present = [name for name in names if name[0] not in "._"]
        if present and _MANIFEST not in names:
            raise ValueError(
                f"{self.path} holds files that no prediction wrote ({present[0]}): give another "
                f"--output."
            )
        if not present:  # whatever was tried here before, nothing came of it
            with self._whole_file(_MANIFEST) as temporary:
                temporary.write_text(json.dumps(manifest, indent=1) + "\n")
            return
        with tf.io.gfile.GFile(self._join(_MANIFEST)) as file:
            before = json.loads(file.read())
        # The same files may have been moved; what they hold is compared.
        known, now = (_flat({**m, "model": {**m["model"], "path": ""}}) for m in (before, manifest))
        differences = [
            f"{key}: {known.get(key, 'nothing')} there, {now.get(key, 'nothing')} now"
            for key in [*known, *(key for key in now if key not in known)]
            if known.get(key) != now.get(key)
        ]
        if differences:
            changes = "\n  ".join(differences)
            raise ValueError(
                f"{self.path} holds results of another prediction:\n  {changes}\nGive another "
                f"--output, or what that prediction was made with to go on with it."
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two runs that write one directory would do everything twice."""
        if _is_remote(self.path):  # a bucket has no locks, and shows only whole files
            yield
            return
        folder = Path(self.path)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--output {folder} is a file: give a directory.")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by a kill too
            except BlockingIOError as error:
                raise ValueError(
                    f"Another run is writing to {folder}: wait for it, stop it, or give another "
                    f"--output."
                ) from error
            # What a killed run was writing.
            for pattern in (".part-*", f"{_FINISHED}/.part-*", f".{_MANIFEST}.*"):
                for left in folder.glob(pattern):
                    left.unlink()
            yield

    @contextlib.contextmanager
    def _whole_file(self, name: str) -> Iterator[Path]:
        """A path to write to, whose file appears under its name if nothing was raised."""
        target = self._join(name)
        if _is_remote(target):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / Path(name).name
                yield temporary
                tf.io.gfile.makedirs(target.rpartition("/")[0])
                tf.io.gfile.copy(str(temporary), target, overwrite=True)
            return
        with hidden_sibling(Path(target)) as temporary:
            yield temporary
            publish(temporary, Path(target))


def _is_remote(path: str) -> bool:
    return "://" in path


def _content(path: str) -> tuple[int, str]:
    """Size and sha256 of a file."""
    digest, size = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict with one key, such as model.version, for each value."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
