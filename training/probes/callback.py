"""Probes while `fit` runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_vit import VisionTransformer
from training.data import DataSource
from training.probes.extraction import FeatureExtractor
from training.probes.nearest_neighbours import NUM_NEIGHBOURS
from training.probes.run import probe_names, run_probes


class ProbeCallback(keras.callbacks.Callback):
    """Put the accuracies of probes into the logs at the end of every n-th epoch.

    It runs after the first, every n-th and the last epoch. The epochs between them repeat the last
    numbers, so that all have the same columns. Callbacks that read the logs, such as
    `SaveProgress`, must come after it in the list.

    Args:
        model: the Vision Transformer that is trained.
        source: the data, which need not be that of the training; the features of its training
            split are probed on `split`.
        every: epochs from one probe to the next. Default 1.
        kinds: see `run_probes`. Default "knn" and "fewshot".
        shots: of "fewshot". Default 1 and 5.
        split: what is judged on. Default "test".
        batch_size: images per step. Default 64.
        num_neighbours: of "knn". Default 20.
        epochs: of the whole run, the last of which is probed. Default None: those that `fit` is
            told, which may be a part of them when a run goes on.
        last: the numbers until the next probe, of a run that goes on: its last row of metrics.
            Default None.
        report: called with lines for the user. Default `print`.

    Raises:
        ValueError: if `every` is below 1, the split does not exist, or a kind or a number of shots
            is none.

    Example:
        >>> from training.data import load_source
        >>> model = VisionTransformer(8, 4, hidden_dim=16, depth=1, num_heads=2, num_classes=10)
        >>> logs = {}
        >>> ProbeCallback(model, load_source("digits"), kinds=["knn"]).on_epoch_end(0, logs)
        >>> sorted(logs)
        ['knn_plain_top1', 'knn_top1']
    """

    def __init__(
        self,
        model: VisionTransformer,
        source: DataSource,
        every: int = 1,
        kinds: Sequence[str] = ("knn", "fewshot"),
        shots: Sequence[int] = (1, 5),
        *,
        split: str = "test",
        batch_size: int = 64,
        num_neighbours: int = NUM_NEIGHBOURS,
        epochs: int | None = None,
        last: Mapping[str, float] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be 1 epoch or more, not {every}.")
        if split not in source.splits:
            raise ValueError(
                f"{source.spec} has no split {split!r}; it has {', '.join(sorted(source.splits))}."
            )
        self._names = probe_names(kinds, shots)
        self._every = every
        self._epochs = epochs
        self._source = source
        self._split = split
        self._batch_size = batch_size
        self._options: dict[str, Any] = {
            "kinds": tuple(kinds),
            "shots": tuple(shots),
            "num_neighbours": num_neighbours,
        }
        self._report = report
        self._told: set[str] = set()
        self._extract = FeatureExtractor(model)
        known = last is not None and all(name in last for name in self._names)
        self._last = {name: last[name] for name in self._names} if last and known else {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Probe if it is time, and add the numbers to the logs."""
        done = epoch + 1
        is_last = done == (self._epochs or (self.params or {}).get("epochs"))
        if not self._last or done % self._every == 0 or is_last:
            # A `TrainedModel` is judged by the moving average of its weights where there is one.
            with getattr(self.model, "averaged_weights", contextlib.nullcontext)():
                train = self._extract(self._source, "train", self._batch_size)
                test = self._extract(self._source, self._split, self._batch_size)
            self._last = run_probes(
                train, test, len(self._source.labels), report=self._tell_once, **self._options
            )
        if logs is not None:
            logs.update(self._last)

    def _tell_once(self, line: str) -> None:
        """The same line after each epoch would say nothing new."""
        if line not in self._told:
            self._told.add(line)
            self._report(line)
