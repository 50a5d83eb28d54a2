"""The version manager: loads what appears on disk, unloads what is no longer wanted."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import grpc
import tensorflow as tf

from serving.configuration.batching import BATCHING_FILE, BatchingParameters
from serving.configuration.models import ModelConfig
from serving.local_server.metrics import Metrics
from serving.local_server.servable import Servable
from serving.local_server.status import StatusError, code_of, invalid, raise_runtime_error
from serving.local_server.warmup import warm_up
from serving.version_directory import list_versions, snapshot

logger = logging.getLogger(__name__)

Batching = BatchingParameters | Literal["per_version"] | None


class State(IntEnum):
    """States of a version, numbered as in `GetModelStatus`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Version:
    """What is known of one version of a model.

    Attributes:
        path: its directory.
        state: where it is in its life.
        servable: the loaded model while there is one.
        users: requests that are running on it.
        error: why it could not be loaded.
        files: snapshot of the directory at the failed attempt.
    """

    path: str
    state: State = State.START
    servable: Servable | None = None
    users: int = 0
    error: Exception | None = None
    files: Any = None


class ModelManager:
    """Keeps the wanted versions of all models in service.

    A new version is loaded before an old one goes, and an old one goes only when its last request
    has been answered. A version that cannot be loaded ends with its error and the old one stays;
    it is tried again when its files change, so that a slow copy heals itself.

    Args:
        configs: the models to serve.
        poll_seconds: how often to look at the directories, above 0.
        metrics: where what happens is counted. Default: nowhere that anyone looks.
        batching: sizes and times of batches; "per_version" takes them from the file
            `batching_params.pbtxt` of each version, if it has one. Default None: no batching.

    Example:
        `manager = ModelManager([ModelConfig("digits", "/models/digits")], poll_seconds=1.0)`
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        poll_seconds: float,
        metrics: Metrics | None = None,
        batching: Batching = None,
    ):
        self._configs = {config.name: config for config in configs}
        self._poll_seconds = poll_seconds
        self.metrics = metrics or Metrics()
        self._batching = batching
        self._versions: dict[str, dict[int, Version]] = {}
        # Guards the tables above; held for moments only, never while loading.
        self._changed = threading.Condition()
        # One look at the directories at a time; the poller and reload requests take turns.
        self._cycle_lock = threading.Lock()
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="version-poller", daemon=True)

    def start(self) -> None:
        """Begin to look at the directories each `poll_seconds`."""
        self._poller.start()

    def stop(self) -> None:
        """Stop polling and unload everything; requests still running are cut off."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        if self._poller.is_alive():
            self._poller.join()
        for name, versions in self._versions.items():
            for number, entry in versions.items():
                if entry.state is State.AVAILABLE:
                    self._unload(name, number, entry)

    def refresh(self) -> None:
        """Look at all directories once; load and unload what they ask for."""
        with self._cycle_lock:
            for name in {*self._configs, *self._versions}:
                try:
                    self._refresh_model(name)
                except (tf.errors.OpError, OSError, ValueError) as error:
                    # As on TF Serving, a directory that cannot be read unloads nothing.
                    logger.warning("cannot look for versions of %s: %s", name, error)

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Replace the set of models, and wait until the new set is in service.

        Args:
            configs: the models to serve from now on.

        Raises:
            StatusError: if a label in use would move to a version that is not available, or a new
                version cannot be loaded.
        """
        with self._changed:
            for config in configs:
                self._check_labels(config)
            self._configs = {config.name: config for config in configs}
        self.refresh()
        for config in configs:
            try:
                aspired = config.aspired(list_versions(config.base_path))
            except tf.errors.OpError as error:
                raise_runtime_error(error)
            for version, entry in self.versions(config.name).items():
                if entry.error is not None and version in aspired:
                    raise StatusError(code_of(entry.error), str(entry.error))

    def configs(self) -> list[ModelConfig]:
        """The models as they are configured now."""
        with self._changed:
            return list(self._configs.values())

    def versions(self, model: str) -> dict[int, Version]:
        """List what is known of a model's versions.

        Args:
            model: its name.

        Returns:
            Entries by number, newest first, with those that ended.
        """
        with self._changed:
            return dict(sorted(self._versions.get(model, {}).items(), reverse=True))

    @contextmanager
    def servable(self, spec: Any) -> Iterator[Servable]:
        """Use the version that a request asks for; it stays loaded until the block ends.

        Args:
            spec: the request's `ModelSpec`.

        Yields:
            The loaded version.

        Raises:
            StatusError: if it is not in service.
        """
        entry, servable = self._acquire(spec)
        try:
            yield servable
        finally:
            with self._changed:
                entry.users -= 1
                self._changed.notify_all()

    def _acquire(self, spec: Any) -> tuple[Version, Servable]:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        with self._changed:
            wanted, asked = self._resolve(spec)
            entry = None if wanted is None else self._versions.get(spec.name, {}).get(wanted)
            if entry is None or entry.servable is None or entry.state is not State.AVAILABLE:
                raise StatusError(
                    grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}"
                )
            entry.users += 1
            return entry, entry.servable

    def _resolve(self, spec: Any) -> tuple[int | None, str]:
        """Turn a version choice into a number and TF Serving's name for the choice."""
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            config = self._configs.get(spec.name)
            if config is None or spec.version_label not in config.labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            version = config.labels[spec.version_label]
        elif choice == "version":
            version = spec.version.value
        else:
            entries = self._versions.get(spec.name, {}).items()
            available = [number for number, entry in entries if entry.state is State.AVAILABLE]
            return max(available, default=None), f"Latest({spec.name})"
        return version, f"Specific({spec.name}, {version})"

    def _check_labels(self, config: ModelConfig) -> None:
        """A label in use moves only to a version that can answer; a new one may come early."""
        old = self._configs.get(config.name)
        for label, version in config.labels.items():
            moves = old is not None and old.labels.get(label, version) != version
            entry = self._versions.get(config.name, {}).get(version)
            if moves and (entry is None or entry.state is not State.AVAILABLE):
                raise StatusError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference",
                )

    def _poll(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            self.refresh()

    def _refresh_model(self, name: str) -> None:
        config = self._configs.get(name)
        on_disk = {} if config is None else list_versions(config.base_path)
        aspired = set() if config is None else config.aspired(on_disk)
        known = self._versions.setdefault(name, {})
        for number in sorted(aspired, reverse=True):
            entry = known.get(number)
            if entry is not None and entry.state is not State.END:
                continue  # in service
            if entry is not None and entry.error and entry.files == snapshot(on_disk[number]):
                continue  # as broken as before
            self._load(name, number, on_disk[number])
        # Availability first: nothing goes before something that is wanted can answer.
        ready = any(known[number].state is State.AVAILABLE for number in aspired)
        for number, entry in list(known.items()):
            loaded = entry.state is State.AVAILABLE
            if loaded and number not in aspired and (ready or not aspired):
                self._unload(name, number, entry)

    def _load(self, name: str, number: int, path: str) -> None:
        entry = Version(path, State.LOADING, files=snapshot(path))
        with self._changed:
            self._versions[name][number] = entry
        logger.info("loading %s version %d from %s", name, number, path)
        servable = None
        start = time.monotonic()
        try:
            servable = Servable(name, number, path)
            warm_up(servable, path, self.metrics)
            if (parameters := self._batching_parameters(path)) is not None:
                servable.start_batching(parameters, self.metrics)
        except Exception as error:  # noqa: BLE001 - broken files raise anything; old versions go on
            if servable is not None:
                servable.close()
            self.metrics.loaded(path, time.monotonic() - start, success=False)
            logger.error("cannot load %s version %d: %s", name, number, error)
            with self._changed:
                entry.state, entry.error = State.END, error
            return
        with self._changed:
            entry.state, entry.servable = State.AVAILABLE, servable
        self.metrics.loaded(path, time.monotonic() - start, success=True)
        logger.info("%s version %d is available", name, number)

    def _batching_parameters(self, path: str) -> BatchingParameters | None:
        if self._batching != "per_version":
            return self._batching
        file = f"{path}/{BATCHING_FILE}"
        if not tf.io.gfile.exists(file):
            return None  # as on TF Serving: a model without the file is not batched
        with tf.io.gfile.GFile(file) as opened:
            return BatchingParameters.parse(opened.read())

    def _unload(self, name: str, number: int, entry: Version) -> None:
        with self._changed:
            entry.state = State.UNLOADING
            self._changed.wait_for(lambda: entry.users == 0 or self._stopping.is_set())
            servable, entry.servable, entry.state = entry.servable, None, State.END
        if servable is not None:
            servable.close()
        logger.info("%s version %d is unloaded", name, number)
