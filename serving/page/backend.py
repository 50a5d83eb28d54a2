"""What the page asks the model server, and how the answers look as JSON."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from serving.client import (
    TLS,
    AttentionMap,
    Client,
    InvalidRequestError,
    ModelNotFoundError,
    Prediction,
    SignatureNotFoundError,
)
from serving.configuration.models import ModelConfig
from serving.label_history import read_history
from serving.page.headers import read_header
from serving.page.placement import covered, crop, read_card

AT_ONCE = 8  # images that are asked about at the same time; others wait
_TOP = 5
_STATE_TIMEOUT = 5.0
_Answer = TypeVar("_Answer")


class NotServedError(Exception):
    """What was asked for is not there to be tried.

    Example:
        >>> str(NotServedError("there is no model 'cats'"))
        "there is no model 'cats'"
    """


@dataclasses.dataclass(frozen=True)
class PageModel:
    """A model that can be tried on the page.

    Args:
        name: on the server.
        base: directory with its versions, whose cards say where the attention lies on an image.
            Default None: not known here.
        labels: of versions, beside those in BASE/labels.json. Default none.
    """

    name: str
    base: str | None = None
    labels: tuple[str, ...] = ()


def page_models(configs: Iterable[ModelConfig]) -> list[PageModel]:
    """The models of a server's configuration.

    Args:
        configs: its models.

    Returns:
        The same for the page.

    Example:
        >>> page_models([ModelConfig("digits", "/models/digits", labels={"stable": 3})])
        [PageModel(name='digits', base='/models/digits', labels=('stable',))]
    """
    return [PageModel(config.name, config.base_path, tuple(config.labels)) for config in configs]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which model, and which version of it, is to answer.

    Args:
        model: its name. Default None: the first.
        version: its number. Default None: the newest, or the one with the label.
        label: of a version. Default None.
    """

    model: str | None = None
    version: int | None = None
    label: str | None = None


class Backend:
    """The one server behind the page, asked by gRPC.

    Args:
        address: HOST:PORT of its gRPC port.
        models: gives the models that can be tried, at least one; called for each question, as a
            server's models may change.
        tls: as for `Client`. Default False: plain text.
        timeout: seconds that an answer may take. Default 60.

    Example:
        `Backend("localhost:8500", lambda: [PageModel("photos")]).state()`
    """

    def __init__(
        self,
        address: str,
        models: Callable[[], Sequence[PageModel]],
        *,
        tls: bool | TLS = False,
        timeout: float = 60.0,
    ) -> None:
        self._models = models
        self._connect = functools.partial(Client, address, tls=tls, timeout=timeout)
        self._pool = ThreadPoolExecutor(AT_ONCE, "page")

    def state(self, name: str | None = None) -> dict[str, Any]:
        """The models, and the versions and labels of one that can answer.

        Args:
            name: of the model. Default None: the first.

        Returns:
            JSON values: `models`, `model`, `versions` newest first, and the version of each of
            `labels`.

        Raises:
            ServingError: if the server does not answer.
            NotServedError: if there is no such model.
        """
        model = self._find(name)
        with self._connect(model.name) as client:
            versions = [
                entry.version
                for entry in client.status(timeout=_STATE_TIMEOUT)
                if entry.state == "AVAILABLE"
            ]
        labels = {label: self._labelled(model, label) for label in _labels(model)}
        return {
            "models": [known.name for known in self._models()],
            "model": model.name,
            "versions": versions,
            "labels": {label: version for label, version in labels.items() if version is not None},
        }

    def answer(self, image_bytes: bytes, choice: Choice) -> dict[str, Any]:
        """Labels and attention of one image; both are asked for at the same time.

        Args:
            image_bytes: the file as it is.
            choice: who is to answer.

        Returns:
            JSON values: `model`, `version`, `valid`, `milliseconds` that the server took, `labels`
            with their `score`, and `attention` with `rows`, `columns`, `values` and its `place` on
            the image. What the model cannot tell is None.

        Raises:
            ServingError: if the server does not answer.
            NotServedError: if there is no such model, or it has neither labels nor attention.
        """
        model = self._find(choice.model)
        start = time.perf_counter()
        with self._connect(
            model.name, version=choice.version, version_label=choice.label
        ) as client:
            asked = self._pool.submit(_if_able, lambda: client.attention(image_bytes)[0])
            prediction = _if_able(lambda: client.predict(image_bytes, top_k=_TOP)[0])
            attention = asked.result()
        milliseconds = (time.perf_counter() - start) * 1e3
        told = prediction or attention
        if told is None:
            raise NotServedError(
                f"{model.name} has neither the signature serving_default nor attention: the page "
                "needs one of them, as keras-vit export writes them"
            )
        if prediction and attention and prediction.version != attention.version:
            return self.answer(image_bytes, choice)  # the version changed between the two
        return {
            "model": model.name,
            "version": told.version,
            "valid": told.valid,
            "milliseconds": round(milliseconds, 1),
            "labels": _labels_json(prediction),
            "attention": _attention_json(attention),
            **_place(model, told.version, image_bytes, attention),
        }

    def _find(self, name: str | None) -> PageModel:
        models = self._models()
        for model in models:
            if name in (None, model.name):
                return model
        raise NotServedError(f"there is no model {name!r}; there is {[m.name for m in models]}")

    def _labelled(self, model: PageModel, label: str) -> int | None:
        """The version that has a label; None if the server has no such label."""
        # Not GetModelStatus: it overlooks labels.
        with self._connect(model.name, version_label=label) as client:
            try:
                return client.metadata(timeout=_STATE_TIMEOUT).version
            except (InvalidRequestError, ModelNotFoundError):
                return None


def _if_able(ask: Callable[[], _Answer]) -> _Answer | None:
    try:
        return ask()
    except SignatureNotFoundError:
        return None


def _labels(model: PageModel) -> list[str]:
    """The labels that versions of a model may have."""
    try:
        history = {} if model.base is None else read_history(Path(model.base))
    except (OSError, ValueError):
        history = {}  # `keras-vit promote` says what is wrong with the file
    return sorted({*model.labels, *history})


def _labels_json(prediction: Prediction | None) -> list[dict[str, Any]] | None:
    if prediction is None:
        return None
    return [
        {"label": label, "score": score if math.isfinite(score) else None}
        for label, score in zip(prediction.labels, prediction.scores, strict=True)
    ]


def _attention_json(attention: AttentionMap | None) -> dict[str, Any] | None:
    if attention is None or not attention.valid:
        return None
    rows, columns = attention.attention.shape
    values = [float(f"{value:.4g}") for value in attention.attention.ravel().tolist()]
    if not all(math.isfinite(value) for value in values):
        return None
    return {"rows": rows, "columns": columns, "values": values}


def _place(
    model: PageModel, version: int, image_bytes: bytes, attention: AttentionMap | None
) -> dict[str, Any]:
    """Where on the image what the model sees lies, and where its patches."""
    header, card = read_header(image_bytes), read_card(model.base, version)
    seen = patches = None
    if header is not None and card is not None:
        seen = crop(card["preprocessing"], header.height, header.width)
        if attention is not None and attention.valid:
            patches = covered(card, seen, *attention.attention.shape)
    return {
        "seen": seen and dataclasses.asdict(seen),
        "patches": patches and dataclasses.asdict(patches),
        "turned": header is not None and header.is_turned,
    }
