"""One's own images: a folder for each class."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from keras_vit.file_names import printable
from training.data.damage import BadImages, leave_out
from training.data.image_check import unreadable_images
from training.data.indexed_source import (
    IndexedSource,
    constants,
    report_absent_classes,
    stratified_split,
)
from training.data.source import Report

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
_TEST_FOLDERS = ("test", "val", "validation")
_SHOWN = 10

# The files of one split: path and class.
Files = list[tuple[Path, int]]


class FolderSource(IndexedSource):
    """Image files with labels.

    Args:
        spec: as given to `load_source`.
        labels: class names.
        files: the files of each split.
    """

    is_checked = True

    def __init__(self, spec: str, labels: tuple[str, ...], files: dict[str, Files]) -> None:
        classes = {split: [label for _, label in entries] for split, entries in files.items()}
        super().__init__(spec, labels, classes)
        self._paths = constants(
            {split: [str(path) for path, _ in entries] for split, entries in files.items()}
        )

    def read(self, split: str, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IndexedSource.read`."""
        path = self._paths[split][index]
        return tf.io.read_file(path), path


def open_folder(path: str, *, seed: int, bad_images: BadImages, report: Report) -> FolderSource:
    """Find the classes, the splits and the files that cannot be read.

    Args:
        path: holds `train/CLASS/*` and `test/CLASS/*` (or `val`, `validation`), or `CLASS/*`, or
            `test/CLASS/*` alone: a set to evaluate on.
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
    labels = tuple(sorted(found.get("train", found.get("test", {}))))
    if unknown := sorted(set(found.get("test", {})) - set(labels)):
        raise ValueError(
            f"{folders['test']} has classes that {folders['train']} has not: "
            f"{', '.join(unknown[:_SHOWN])}. Give them training images, or remove them."
        )
    index = {name: position for position, name in enumerate(labels)}
    files = {
        split: [(file, index[name]) for name in sorted(classes) for file in classes[name]]
        for split, classes in found.items()
    }
    bad = unreadable_images(root, [file for split in files.values() for file, _ in split], report)
    # Any number of them: they have all been looked at, and are never met again.
    total = sum(len(entries) for entries in files.values())
    left_out = {printable(file): reason for file, reason in bad.items()}
    leave_out(left_out, total, bad_images=bad_images, report=report, limit=1.0)
    files = {
        split: [(file, label) for file, label in entries if file not in bad]
        for split, entries in files.items()
    }
    drawn = "test" not in files
    if drawn:
        everything = files["train"]
        parts = stratified_split([label for _, label in everything], seed)
        files = {
            split: [everything[number] for number in numbers]
            for split, numbers in zip(("train", "test"), parts, strict=True)
        }
        report(
            f"{root} has no test folder: {len(files['test'])} of its images, drawn with seed "
            f"{seed}, are kept for testing."
        )
    _check_not_empty(root, labels, files)
    source = FolderSource(f"folder:{path}", labels, files)
    source.left_out = left_out
    if not drawn and "train" in files:
        report_absent_classes(source, report)
    return source


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; "train" alone when the classes stand in the root."""
    train = root / "train"
    test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if train.is_dir():
        return {"train": train} if test is None else {"train": train, "test": test}
    folders = [e for e in root.iterdir() if e.is_dir() and not e.name.startswith(".")]
    if test is not None and folders == [test]:  # beside others it is a class of that name
        return {"test": test}
    return {"train": root}


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


def _check_not_empty(root: Path, labels: tuple[str, ...], files: dict[str, Files]) -> None:
    left = {label for _, label in files.get("train", ())}
    missing = [name for index, name in enumerate(labels) if index not in left]
    if "train" in files and missing:
        raise ValueError(
            f"No readable training images are left for {', '.join(missing[:_SHOWN])} in {root}."
        )
    if not files["test"]:
        raise ValueError(f"No test images in {root}: give each class at least two images.")
