"""The directory that a run writes to: one run's, with one set of settings."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from training.config import Recipe, difference


def check_workdir(
    workdir: Path, recipe: Recipe, allow_changed: bool, report: Callable[[str], None]
) -> None:
    """Refuse a workdir that is a file, or holds a run with other settings.

    Args:
        workdir: the directory.
        recipe: of the run that is about to start.
        allow_changed: whether other settings are only reported.
        report: called with lines for the user.

    Raises:
        ValueError: with the differences, one a line.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"The workdir {workdir} is a file: give a directory.")
    config = workdir / "config.json"
    if not config.exists():
        return
    try:
        old = json.loads(config.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{config} cannot be read ({error}): use another --workdir.") from error
    if lines := difference(old, recipe.to_dict()):
        changes = "\n  ".join(lines)
        if allow_changed:
            report(f"Going on with other settings:\n  {changes}")
            return
        raise ValueError(
            f"{workdir} holds a run with other settings:\n  {changes}\nUse another --workdir, "
            f"the settings of that run to go on with it, or --allow-changed to go on with these."
        )


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Keep a workdir to one run: two would destroy each other's checkpoints.

    Args:
        workdir: is made if it does not exist.

    Raises:
        ValueError: if another run is writing to it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"Another run is writing to {workdir}: wait for it, stop it, or use another "
                f"--workdir."
            ) from error
        yield
