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

_NAME = re.compile(r"epoch_\d{5}_step_\d{7}")
_NUMBER = re.compile(r"_\d+(?=/|$)")
_STATE = "state.json"
# Where in a graph an error came up: "{{function_node …}} what happened [Op:SaveV2]".
_OPERATION = re.compile(r"\{\{.*?\}\}|\[Op:\w+\]")


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds beside the variables: the place in the data, and the past.

    Args:
        epoch: epochs that are done, with their evaluation.
        epoch_step: steps of the next epoch that are done. Default 0.
        history: one row of metrics for each epoch that is done. Default none.
        seconds: that the next epoch has taken so far. Default 0.
        batch_size: of those steps. Default 0: unknown.
    """

    epoch: int = 0
    epoch_step: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    batch_size: int = 0

    def in_steps_of(self, batch_size: int) -> TrainingState:
        """The same place in the data, counted in batches of another size.

        Args:
            batch_size: from now on. A part of a batch is seen again.

        Returns:
            The state.

        Example:
            >>> TrainingState(epoch_step=5, batch_size=64).in_steps_of(128).epoch_step
            2
        """
        steps = self.epoch_step
        if self.batch_size:
            steps = steps * self.batch_size // batch_size
        return dataclasses.replace(self, epoch_step=steps, batch_size=batch_size)

    @property
    def name(self) -> str:
        """Of its checkpoint; they sort by age."""
        return f"epoch_{self.epoch:05d}_step_{self.epoch_step:07d}"


class Checkpoints:
    """The checkpoints of one run, in one directory, the newest few of them kept.

    A checkpoint is a directory `epoch_00012_step_0000000/` with every variable in TensorFlow's own
    format and a `state.json` that lists the sha256 of each file and of what it says itself. It is
    written under a hidden name and renamed when it is complete.

    Args:
        directory: where they are kept.
        variables: what they hold: the model's variables, its random states and the optimizer's.
        keep: how many are kept. Default 2.
        report: called with one line for the user when a checkpoint is passed over.

    Example:
        >>> import tempfile
        >>> variable = keras.Variable([1.0], name="weight")
        >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()), [variable])
        >>> checkpoints.save(TrainingState(1, 0, [{"loss": 0.5}]))
        True
        >>> checkpoints.restore_newest().name
        'epoch_00001_step_0000000'
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

    @property
    def newest(self) -> str | None:
        """The name of the newest checkpoint; None if there is none."""
        return next((path.name for path in self._all()), None)

    def save(self, state: TrainingState) -> bool:
        """Write a checkpoint of now, then drop the oldest beyond `keep`.

        Args:
            state: what to keep beside the variables.

        Returns:
            Whether it is there. A full disk is reported and loses nothing that was complete.
        """
        target = self._directory / state.name
        if self._damage(target) is None:
            return True
        try:
            with hidden_sibling(target) as temporary:
                temporary.mkdir(parents=True)
                self._checkpoint.write(str(temporary / "variables"))
                digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
                content = dataclasses.asdict(state) | {"sha256": digests}
                content["sha256"][_STATE] = _digest_of_state(content)
                (temporary / _STATE).write_text(json.dumps(content, indent=1) + "\n")
                publish(temporary, target)
        except (OSError, tf.errors.OpError) as error:
            last = f"the last one is {self.newest}" if self.newest else "there is none before it"
            self._report(
                f"The checkpoint {target} could not be written ({_first_line(error)}); {last}. "
                f"Training goes on."
            )
            return False
        for old in self._all()[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)
        return True

    def restore_newest(self) -> TrainingState | None:
        """Load the newest checkpoint that is intact into the variables.

        Returns:
            Its state; None if there is none.

        Raises:
            ValueError: if an intact checkpoint is of another model.
        """
        for path in self._all():
            damage = self._damage(path)
            if damage is not None:
                self._report(f"The checkpoint {path} is damaged ({damage}); trying the one before.")
                continue
            try:
                self._checkpoint.read(str(path / "variables")).assert_consumed()
            except (AssertionError, ValueError) as error:
                raise ValueError(
                    f"The checkpoint {path} is of another model ({_first_line(error)}): use "
                    f"another --workdir, or delete this one to start again."
                ) from error
            return _read_state(path)
        return None

    def remove_leftovers(self) -> None:
        """Delete what killed runs were writing; only while no other run writes here."""
        if self._directory.is_dir():
            for path in self._directory.glob(".epoch_*"):
                shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Checkpoint directories, newest first."""
        if not self._directory.is_dir():
            return []
        return sorted(p for p in self._directory.iterdir() if _NAME.fullmatch(p.name))[::-1]

    def _damage(self, path: Path) -> Exception | None:
        """What is wrong with a checkpoint; None if it is intact."""
        try:
            _read_state(path)
            content = json.loads((path / _STATE).read_text())
            written = content["sha256"]
            now = {name: _sha256(path / name) for name in written if name != _STATE}
            now[_STATE] = _digest_of_state(content)
            for name, digest in now.items():
                if written[name] != digest:
                    raise ValueError(f"{name} is not what was written")
        except (OSError, KeyError, TypeError, ValueError) as error:
            return error
        return None


def _read_state(path: Path) -> TrainingState:
    content: dict[str, Any] = json.loads((path / _STATE).read_text())
    return TrainingState(
        **{field.name: content[field.name] for field in dataclasses.fields(TrainingState)}
    )


def _digest_of_state(content: dict[str, Any]) -> str:
    """The sha256 of what `state.json` says, without this digest itself."""
    files = {name: digest for name, digest in content["sha256"].items() if name != _STATE}
    text = json.dumps(content | {"sha256": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return _OPERATION.sub("", line).strip()
