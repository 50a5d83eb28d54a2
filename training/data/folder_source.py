"""One's own images: a folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from training.data.image_check import unreadable_images
from training.data.source import DataSource, Report

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_SHARE = 0.1
_SHOWN = 10

# The files of one split: path and class.
Files = list[tuple[Path, int]]


class FolderSource(DataSource):
    """Image files with labels.

    Args:
        spec: as given to `load_source`.
        labels: class names.
        files: the files of each split.
    """

    def __init__(self, spec: str, labels: tuple[str, ...], files: dict[str, Files]) -> None:
        self.spec = spec
        self.labels = labels
        self.splits = {split: len(entries) for split, entries in files.items()}
        # Made once, outside any graph: a million paths in the graph of each pipeline would cost
        # gigabytes. On the CPU, where tf.data reads them.
        with tf.init_scope(), tf.device("CPU:0"):
            self._paths = {
                split: tf.constant([str(path) for path, _ in entries], tf.string)
                for split, entries in files.items()
            }
            self._classes = {
                split: tf.constant([label for _, label in entries], tf.int64)
                for split, entries in files.items()
            }

    def examples(self, split: str) -> tf.data.Dataset:
        """See `DataSource.examples`."""
        return self._read(split, tf.data.Dataset.range(self.splits[split]))

    def shuffled(self, split: str, seed: tf.Tensor) -> tf.data.Dataset:
        """See `DataSource.shuffled`."""
        order = tf.random.experimental.stateless_shuffle(
            tf.range(self.splits[split], dtype=tf.int64), tf.stack([seed, 0])
        )
        return self._read(split, tf.data.Dataset.from_tensor_slices(order))

    def _read(self, split: str, indices: tf.data.Dataset) -> tf.data.Dataset:
        paths, classes = self._paths[split], self._classes[split]
        return indices.map(
            lambda index: {
                "image_bytes": tf.io.read_file(paths[index]),
                "label": classes[index],
                "name": paths[index],
            },
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


def open_folder(
    path: str, *, seed: int, bad_images: Literal["skip", "refuse"], report: Report
) -> FolderSource:
    """Find the classes, the splits and the files that cannot be read.

    Args:
        path: holds `train/CLASS/*` and `test/CLASS/*` (or `val`, `validation`), or `CLASS/*`.
        seed: of the split that is made from `CLASS/*`.
        bad_images: "skip" or "refuse".
        report: called with lines for the user.

    Returns:
        A `FolderSource`.

    Raises:
        ValueError: if there are no classes, a class has no images, a class of the test split is
            not in the training split, or, with "refuse", an image cannot be read.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"folder:{path} is not a directory.")
    folders = _split_folders(root)
    found = {split: _class_files(folder) for split, folder in folders.items()}
    labels = tuple(sorted(found["train"]))
    if unknown := sorted(set(found.get("test", {})) - set(labels)):
        raise ValueError(
            f"{folders['test']} has classes that {folders['train']} has not: "
            f"{', '.join(unknown[:_SHOWN])}. Give them training images, or remove them."
        )
    if absent := sorted(set(labels) - set(found.get("test", labels))):
        report(f"No test images for {len(absent)} classes: {', '.join(absent[:_SHOWN])}.")
    index = {name: position for position, name in enumerate(labels)}
    files = {
        split: [(file, index[name]) for name in sorted(classes) for file in classes[name]]
        for split, classes in found.items()
    }
    files = _without_bad_images(root, files, bad_images, report)
    if "test" not in files:
        files = _split(files["train"], seed)
        report(
            f"{root} has no test folder: {len(files['test'])} of its images, drawn with seed "
            f"{seed}, are kept for testing."
        )
    _check_not_empty(root, labels, files)
    return FolderSource(f"folder:{path}", labels, files)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; "train" alone when the classes stand in the root."""
    if not (root / "train").is_dir():
        return {"train": root}
    for name in _TEST_FOLDERS:
        if (root / name).is_dir():
            return {"train": root / "train", "test": root / name}
    return {"train": root / "train"}


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, sorted."""
    classes = {
        entry.name: sorted(
            file
            for file in entry.rglob("*")
            if file.suffix.lower() in _EXTENSIONS and not _is_hidden(file.relative_to(entry))
        )
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not classes:
        raise ValueError(
            f"{folder} has no class folders: put the images of each class into a folder with the "
            f"name of the class, {folder}/CLASS/*.jpg."
        )
    if empty := [name for name, files in classes.items() if not files]:
        raise ValueError(
            f"No images in the class folders {', '.join(empty[:_SHOWN])} of {folder}: files must "
            f"end in {', '.join(_EXTENSIONS)}."
        )
    return classes


def _is_hidden(path: Path) -> bool:
    """Whether the file, or a folder that it is in, is: thumbnails, notebook checkpoints."""
    return any(part.startswith(".") for part in path.parts)


def _without_bad_images(
    root: Path, files: dict[str, Files], bad_images: str, report: Report
) -> dict[str, Files]:
    bad = unreadable_images(root, [file for split in files.values() for file, _ in split], report)
    if not bad:
        return files
    shown = "\n  ".join(f"{file}: {reason}" for file, reason in list(bad.items())[:_SHOWN])
    more = f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    text = f"{len(bad)} images cannot be read:\n  {shown}{more}"
    if bad_images == "refuse":
        raise ValueError(f"{text}\nRemove or mend them, or leave them out with --bad-images skip.")
    report(f"{text}\nThey are left out.")
    return {
        split: [(file, label) for file, label in entries if file not in bad]
        for split, entries in files.items()
    }


def _split(files: Files, seed: int) -> dict[str, Files]:
    """A stratified test split: of each class the same share, at least one image."""
    generator = np.random.default_rng(seed)
    train: Files = []
    test: Files = []
    by_label: dict[int, Files] = {}
    for entry in files:
        by_label.setdefault(entry[1], []).append(entry)
    for _, members in sorted(by_label.items()):
        order = generator.permutation(len(members))
        count = max(1, round(len(members) * _TEST_SHARE)) if len(members) > 1 else 0
        chosen = set(order[:count].tolist())
        for index, member in enumerate(members):
            (test if index in chosen else train).append(member)
    return {"train": train, "test": test}


def _check_not_empty(root: Path, labels: tuple[str, ...], files: dict[str, Files]) -> None:
    left = {label for _, label in files["train"]}
    if missing := [name for index, name in enumerate(labels) if index not in left]:
        raise ValueError(
            f"No readable training images are left for {', '.join(missing[:_SHOWN])} in {root}."
        )
    if not files["test"]:
        raise ValueError(f"No test images in {root}: give each class at least two images.")
