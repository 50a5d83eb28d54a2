"""Checkpoints that a killed run can trust: written whole or not at all, verified when read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_vit.atomic_files import hidden_sibling, publish

_NAME = re.compile(r"epoch_(\d{5})")
_NUMBER = re.compile(r"_\d+(?=/|$)")
_STATE = "state.json"


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds beside the variables.

    Args:
        epoch: epochs that are done.
        history: one row of metrics for each of them.
    """

    epoch: int
    history: list[dict[str, float]]


class Checkpoints:
    """The checkpoints of one run, in one directory, the newest few of them kept.

    A checkpoint is a directory `epoch_00012/` with every variable in TensorFlow's own format and a
    `state.json` that lists the sha256 of each file. It is written under a hidden name and renamed
    when it is complete.

    Args:
        directory: where they are kept.
        variables: what they hold: the model's variables, its random states and the optimizer's.
        keep: how many are kept. Default 2.
        report: called with one line for the user when a checkpoint is passed over.

    Example:
        >>> import tempfile
        >>> variable = keras.Variable([1.0], name="weight")
        >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()), [variable])
        >>> checkpoints.save(TrainingState(1, [{"loss": 0.5}]))
        >>> checkpoints.restore_newest().epoch
        1
    """

    def __init__(
        self,
        directory: Path,
        variables: list[keras.Variable],
        keep: int = 2,
        report: Callable[[str], None] = print,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._report = report
        # By place and path. Keras numbers some names (random states, optimizers) by how many were
        # made before in the process: the numbers say nothing and are left out.
        self._checkpoint = tf.train.Checkpoint(
            variables={
                f"{place:05d} {_NUMBER.sub('', variable.path)}": variable.value
                for place, variable in enumerate(variables)
            }
        )

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint of now, then drop the oldest beyond `keep`."""
        target = self._directory / f"epoch_{state.epoch:05d}"
        with hidden_sibling(target) as temporary:
            temporary.mkdir(parents=True)
            self._checkpoint.write(str(temporary / "variables"))
            digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
            content = dataclasses.asdict(state) | {"sha256": digests}
            (temporary / _STATE).write_text(json.dumps(content, indent=1) + "\n")
            publish(temporary, target)
        for old in self._all()[self._keep :]:
            shutil.rmtree(old)

    def restore_newest(self) -> TrainingState | None:
        """Load the newest checkpoint that is intact into the variables.

        Returns:
            Its state; None if there is none.

        Raises:
            ValueError: if an intact checkpoint is of another model.
        """
        for path in self._all():
            try:
                state = self._verified_state(path)
            except (OSError, KeyError, TypeError, ValueError) as error:
                self._report(f"The checkpoint {path} is damaged ({error}); trying the one before.")
                continue
            try:
                self._checkpoint.read(str(path / "variables")).assert_consumed()
            except (AssertionError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"The checkpoint {path} is of another model ({reason}): use another --workdir, "
                    f"or delete this one to start again."
                ) from error
            return state
        return None

    def _all(self) -> list[Path]:
        """Checkpoint directories, newest first."""
        if not self._directory.is_dir():
            return []
        return sorted(p for p in self._directory.iterdir() if _NAME.fullmatch(p.name))[::-1]

    def _verified_state(self, path: Path) -> TrainingState:
        content: dict[str, Any] = json.loads((path / _STATE).read_text())
        for name, digest in content["sha256"].items():
            if _sha256(path / name) != digest:
                raise ValueError(f"{name} is not what was written")
        return TrainingState(epoch=content["epoch"], history=content["history"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
