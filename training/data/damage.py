"""What happens to examples that cannot be read or decoded: named, counted, and never too many."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NoReturn

import tensorflow as tf

from training.data.decodable import undecodable_reason

BadImages = Literal["skip", "refuse"]
# Of shards, which nobody has looked through: more is no accident, but a broken disk or download.
LIMIT = 0.01
_SHOWN = 10


def leave_out(
    bad: Mapping[Any, str],
    total: int,
    *,
    bad_images: BadImages,
    report: Callable[[str], None],
    limit: float = LIMIT,
) -> None:
    """Say which examples are bad before a run begins.

    Args:
        bad: the name of each bad example -> the reason.
        total: how many examples there are.
        bad_images: "skip" to report them, "refuse" to raise.
        report: called with lines for the user.
        limit: share of the examples that may be bad with "skip". Default `LIMIT`.

    Raises:
        ValueError: with "refuse", or if more than the limit are bad.

    Example:
        >>> leave_out({"a.png": "it is empty"}, 10, bad_images="skip", report=print)
        1 images cannot be read:
          a.png: it is empty
        They are left out.
    """
    if not bad:
        return
    shown = "\n  ".join(f"{name}: {reason}" for name, reason in list(bad.items())[:_SHOWN])
    more = f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    text = f"{len(bad)} images cannot be read:\n  {shown}{more}"
    if bad_images == "refuse":
        raise ValueError(f"{text}\nRemove or mend them, or leave them out with --bad-images skip.")
    if len(bad) > (allowed := _allowed(total, limit)):
        raise ValueError(
            f"{text}\nAt most {allowed:,} of {total:,} may be left out: fetch or pack the data "
            f"again."
        )
    report(f"{text}\nThey are left out.")


class DamageLog:
    """The examples of a run that could not be read or decoded.

    Each is reported once, by name. With "refuse" the first one stops the run, with "skip" the one
    that goes beyond the limit does.

    Args:
        total: the number of examples in all splits.
        bad_images: "skip" or "refuse". Default "skip".
        report: called with a line for each. Default `print`.
        limit: share of the examples that may be skipped; one always may. Default `LIMIT`.
        was_decoded: whether all that can be read can be decoded, as `DataSource` says: then only
            empty examples are looked for, which costs nothing. Default False.

    Attributes:
        reasons: name -> reason of the examples met so far.

    Example:
        >>> log = DamageLog(100)
        >>> examples = tf.data.Dataset.from_tensors(
        ...     {"image_bytes": "no image", "label": 1, "name": "train-00003.tar/dog.jpg"})
        >>> decoded = log.guarded(
        ...     examples,
        ...     lambda example: tf.io.decode_png(example["image_bytes"])[:1, :1],
        ...     lambda example: tf.zeros([1, 1, 0], tf.uint8))
        >>> len(list(decoded))
        train-00003.tar/dog.jpg is left out: it is not a JPEG, PNG, GIF or BMP image.
        1
    """

    def __init__(
        self,
        total: int,
        *,
        bad_images: BadImages = "skip",
        report: Callable[[str], None] = print,
        limit: float = LIMIT,
        was_decoded: bool = False,
    ) -> None:
        self.reasons: dict[str, str] = {}
        self._total = total
        self._allowed = _allowed(total, limit) if bad_images == "skip" else 0
        self._bad_images = bad_images
        self._report = report
        self._was_decoded = was_decoded
        self._error = ""
        self._lock = threading.Lock()

    def guarded(
        self,
        dataset: tf.data.Dataset,
        function: Callable[..., Any],
        replacement: Callable[..., Any],
    ) -> tf.data.Dataset:
        """Map a function that decodes; an example for which it fails is replaced, not dropped.

        The order and the number of elements stay what they are, so that what a seed and a place
        decide is the same with and without damaged examples.

        Args:
            dataset: its elements end with an example as `DataSource.examples` gives it; one
                without a name is made up, and its function does not fail.
            function: called with the components of an element, in a tf.data graph.
            replacement: the same, for an element whose function failed; must give tensors of the
                same shapes and dtypes, and must not fail.

        Returns:
            A data set of what the functions return, in order, mapped in parallel.
        """
        if self._was_decoded:
            return self._without_empty(dataset, function, replacement)
        options = tf.data.Options()
        options.autotune.enabled = False  # of one element there is nothing to tune

        def safe(*element: Any) -> Any:
            # The one construction in which a failing operation can be passed over in a graph. The
            # data set of one element ends after an error: others may repeat it for ever.
            whole = tf.data.Dataset.from_tensors(element)
            good = whole.map(function).ignore_errors()
            instead = whole.filter(self._note).map(replacement)
            return good.concatenate(instead).take(1).with_options(options).get_single_element()

        return dataset.map(safe, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _without_empty(
        self,
        dataset: tf.data.Dataset,
        function: Callable[..., Any],
        replacement: Callable[..., Any],
    ) -> tf.data.Dataset:
        """As `guarded`, for functions that fail for no bytes, and for nothing else."""

        def instead(*element: Any) -> Any:
            # As an assertion, the note cannot be optimised away.
            with tf.control_dependencies([tf.debugging.Assert(self._note(*element), [""])]):
                return tf.nest.map_structure(tf.identity, replacement(*element))

        def safe(*element: Any) -> Any:
            example = element[-1]
            is_lost = (example["image_bytes"] == "") & (example["name"] != "")
            return tf.cond(is_lost, lambda: instead(*element), lambda: function(*element))

        return dataset.map(safe, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def stop(self, text: str) -> NoReturn:
        """Stop the run from inside a pipeline; `explained` gives the text to the user.

        Args:
            text: what is wrong, and what to do about it.

        Raises:
            ValueError: with the text.
        """
        with self._lock:
            self._error = text
        raise ValueError(text)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the error that tf.data raises when damage stops the run into one for the user.

        Raises:
            ValueError: in the place of the first error after `guarded` or `stop` stopped.

        Example:
            >>> with DamageLog(10).explained():
            ...     pass
        """
        try:
            yield
        except tf.errors.OpError as error:
            if not self._error:
                raise
            raise ValueError(self._error) from error

    def _note(self, *element: Any) -> tf.Tensor:
        # A stateful call would make deterministic runs map one example after the other; as a
        # filter it cannot be optimised away either.
        example = element[-1]
        noted = tf.numpy_function(
            self._record, [example["name"], example["image_bytes"]], tf.bool, stateful=False
        )
        return tf.ensure_shape(noted, ())

    def _record(self, name: bytes, image_bytes: bytes) -> bool:
        text = name.decode(errors="replace")
        with self._lock:
            if text in self.reasons:
                return True
            self.reasons[text] = reason = _reason(image_bytes)
            if len(self.reasons) <= self._allowed:
                self._report(f"{text} is left out: {reason}.")
                return True
            self._error = self._too_many(text, reason)
        raise ValueError(self._error)

    def _too_many(self, name: str, reason: str) -> str:
        if self._bad_images == "refuse":
            return (
                f"{name} cannot be used: {reason}. Remove or mend it, or leave such examples out "
                f"with --bad-images skip."
            )
        return (
            f"{len(self.reasons):,} of {self._total:,} examples cannot be used, and at most "
            f"{self._allowed:,} may be left out; the last is {name}: {reason}. Fetch or pack the "
            f"data again."
        )


def _allowed(total: int, limit: float) -> int:
    return max(1, math.floor(total * limit))


def _reason(image_bytes: bytes) -> str:
    if not image_bytes:
        return "its record is damaged or missing"
    return undecodable_reason(image_bytes) or "it can be decoded, but not prepared for the model"
