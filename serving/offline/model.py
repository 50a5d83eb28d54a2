"""The graph that TF Serving runs, run here."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving.client.images import Image
from serving.client.questions import ATTENTION, EMBED, PROBABILITIES, Question, predictions
from serving.local_server.servable import Servable
from serving.version_directory import list_versions

SIGNATURES = ("serving_default", "probabilities", "embed", "attention")

# One image's result: the fields of the client's result, with lists for arrays.
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """One exported version.

    Args:
        path: its directory.
        version: its number.
        sha256: of its graph and of the checksums of its weights.
    """

    path: str
    version: int
    sha256: str


def find_version(base: str, version: int | None = None) -> ModelVersion:
    """Find what `keras-vit export` wrote.

    Args:
        base: directory of the served model, with versions in it, or of one version; may be in a
            bucket.
        version: which one. Default None: the highest.

    Returns:
        The version.

    Raises:
        ValueError: if there is no such version.

    Example:
        `find_version("served/digits").version`
    """
    base = base.rstrip("/")
    number = base.rpartition("/")[2]
    if tf.io.gfile.exists(f"{base}/saved_model.pb"):
        if not (number.isascii() and number.isdigit()) or version not in (None, int(number)):
            wanted = "a whole number" if version is None else str(version)
            raise ValueError(f"{base} is one exported version, but its name is not {wanted}.")
        return ModelVersion(base, int(number), _fingerprint(base))
    versions = list_versions(base) if tf.io.gfile.isdir(base) else {}
    chosen = max(versions, default=0) if version is None else version
    if chosen not in versions:
        there = ", ".join(map(str, sorted(versions))) or "none"
        raise ValueError(
            f"{base} holds no exported {'version' if version is None else f'version {version}'} "
            f"(there: {there}): give what `keras-vit export MODEL BASE` wrote, BASE or BASE/N."
        )
    return ModelVersion(versions[chosen], chosen, _fingerprint(versions[chosen]))


class OfflineModel:
    """A signature of an exported model, called with encoded images.

    Args:
        version: from `find_version`.
        signature: one of `SIGNATURES`.
        top_k: how many classes of `serving_default` to keep, at least 1; a model exported with
            fewer gives what it has. Default 5.

    Raises:
        ValueError: if it cannot be loaded, or has no such signature.

    Example:
        `OfflineModel(find_version("served/digits"))([("seven.png", data)])[0]["labels"]`
    """

    def __init__(
        self, version: ModelVersion, signature: str = "serving_default", top_k: int = 5
    ) -> None:
        self._question = question(signature, top_k)
        self._version = version.version
        try:
            self._servable = Servable("offline", version.version, version.path)
        except (OSError, tf.errors.OpError) as error:
            raise ValueError(
                f"{version.path} cannot be loaded ({error}): export the model again."
            ) from error
        signatures = self._servable.signatures
        outputs = self._question.outputs
        if signature not in signatures or not set(outputs) <= set(signatures[signature].outputs):
            there = ", ".join(sorted(name for name in signatures if not name.startswith("__")))
            raise ValueError(
                f"{version.path} has no signature {signature} with the outputs "
                f"{', '.join(outputs)} (there: {there}): choose another --signature, or export "
                f"the model again."
            )
        if list(signatures[signature].inputs) != ["image_bytes"]:
            raise ValueError(f"{signature} of {version.path} does not take image_bytes alone.")
        self._feed = signatures[signature].inputs["image_bytes"].name
        self._fetches = {name: signatures[signature].outputs[name].name for name in outputs}

    def __call__(self, images: Sequence[tuple[str, bytes]]) -> list[Row]:
        """Predict a batch.

        Args:
            images: names and encoded images; what cannot be decoded gives a row with
                `valid=False` and changes nothing for its neighbours.

        Returns:
            A row for each image, in order.
        """
        batch = np.empty(len(images), object)  # [N]
        batch[:] = [data for _, data in images]
        values = self._servable.run({self._feed: batch}, list(self._fetches.values()), None)
        arrays = {name: values[tensor] for name, tensor in self._fetches.items()}
        return [
            self._row(Image(number, name, data), {key: arrays[key][number] for key in arrays})
            for number, (name, data) in enumerate(images)
        ]

    def close(self) -> None:
        """Free the session and its variables."""
        self._servable.close()

    def _row(self, image: Image, outputs: dict[str, Any]) -> Row:
        result = self._question.result(image, self._version, outputs)
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in fields.items()
        }


def question(signature: str, top_k: int) -> Question:
    """The client's question for a signature, so that results here are those of the client.

    Args:
        signature: one of `SIGNATURES`.
        top_k: how many classes `serving_default` gives, at least 1.

    Returns:
        The question.

    Raises:
        ValueError: if there is no such signature, or `top_k` is not positive.

    Example:
        >>> question("embed", 5).outputs
        ('embedding', 'valid')
    """
    known = (predictions(top_k), PROBABILITIES, EMBED, ATTENTION)
    for candidate in known:
        if candidate.signature == signature:
            return candidate
    raise ValueError(f"signature is {signature!r}; it must be one of {', '.join(SIGNATURES)}.")


def _fingerprint(path: str) -> str:
    # The index of the variables holds a checksum of each.
    digest = hashlib.sha256()
    for file in ("saved_model.pb", "variables/variables.index"):
        if tf.io.gfile.exists(f"{path}/{file}"):
            with tf.io.gfile.GFile(f"{path}/{file}", "rb") as opened:
                digest.update(opened.read())
    return digest.hexdigest()
