"""A model's directory: which versions lie there, and whether their files changed."""

import logging

import tensorflow as tf

logger = logging.getLogger(__name__)


def list_versions(base_path: str) -> dict[int, str]:
    """Find the versions of a model.

    Args:
        base_path: the directory to look into.

    Returns:
        Paths by version number. Names that are not whole numbers, hidden ones and files are left
        out.

    Raises:
        tensorflow.errors.OpError: if the directory cannot be listed.

    Example:
        `list_versions("models/digits")` gives `{1: "models/digits/1"}`.
    """
    versions: dict[int, str] = {}
    for entry in sorted(tf.io.gfile.listdir(base_path)):
        name = entry.rstrip("/")  # object stores mark directories so
        path = f"{base_path.rstrip('/')}/{name}"
        if not (name.isascii() and name.isdigit() and tf.io.gfile.isdir(path)):
            continue
        if int(name) in versions:
            logger.warning("ignoring %s: it is version %d once more", path, int(name))
            continue
        versions[int(name)] = path
    return versions


def snapshot(path: str) -> tuple[tuple[str, int, int], ...]:
    """Describe a directory's files, to notice that they changed.

    Args:
        path: the directory.

    Returns:
        Path, size and time of change of each file.

    Example:
        `snapshot("models/digits/2") != snapshot_before`
    """
    files = []
    for folder, _, names in tf.io.gfile.walk(path):
        for name in names:
            file = f"{folder}/{name}"
            try:
                stat = tf.io.gfile.stat(file)
            except tf.errors.NotFoundError:
                continue  # deleted meanwhile; its absence is the change
            files.append((file, stat.length, stat.mtime_nsec))
    return tuple(sorted(files))
