"""How a server gathers the requests of many callers into batches."""

from __future__ import annotations

import dataclasses
from typing import Any

from serving.configuration.text import new_message, parse_text, write_text

BATCHING_FILE = "batching_params.pbtxt"  # inside a version, for a server that reads it per model
_WRAPPED = (
    "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads",
    "thread_pool_name", "enable_large_batch_splitting", "max_execution_batch_size",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's batching parameters, with its defaults.

    Args:
        max_batch_size: most rows of one request, and of a batch unless `max_execution_batch_size`
            says less. Default 1000.
        batch_timeout_micros: how long a batch waits for more. Default 0.
        max_enqueued_batches: batches that may wait; more are refused. Default 10.
        num_batch_threads: batches that run at the same time. Default None: as many as there are
            cores; that is too many where one batch uses all cores.
        thread_pool_name: a label of the metrics.
        allowed_batch_sizes: sizes that batches are filled up to, increasing. Default: any.
        pad_variable_length_inputs: fill up inputs of different shapes. Default False.
        enable_large_batch_splitting: split requests that do not fit into a batch. Default False.
        max_execution_batch_size: most rows of a batch, with splitting. Default None: those of
            `max_batch_size`.

    Raises:
        ValueError: for what TF Serving would refuse when it starts, or when it loads a model.

    Example:
        >>> BatchingParameters.parse("max_batch_size { value: 8 }").max_batch_size
        8
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int | None = None
    thread_pool_name: str = ""
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self) -> None:
        positive = ("max_batch_size", "max_enqueued_batches", "num_batch_threads")
        for name in (*positive, "max_execution_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if self.batch_timeout_micros < 0:
            raise ValueError(
                f"batch_timeout_micros must be 0 or more, not {self.batch_timeout_micros}."
            )
        if self.max_execution_batch_size is not None:
            if not self.enable_large_batch_splitting:
                raise ValueError(
                    "max_execution_batch_size works only with enable_large_batch_splitting."
                )
            if self.max_execution_batch_size > self.max_batch_size:
                raise ValueError(
                    f"max_execution_batch_size is {self.max_execution_batch_size}: it must not be "
                    f"above max_batch_size, {self.max_batch_size}."
                )
        sizes = self.allowed_batch_sizes
        largest = self.max_execution_batch_size or self.max_batch_size
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != largest):
            raise ValueError(
                f"allowed_batch_sizes are {list(sizes)}: they must increase, and the last must be "
                f"{largest}, the largest batch."
            )

    @classmethod
    def parse(cls, text: str) -> BatchingParameters:
        """Read the text of a `--batching_parameters_file`.

        Args:
            text: in protobuf's text format.

        Returns:
            The parameters.

        Raises:
            ValueError: if it is something else, or TF Serving would refuse it.
        """
        message = parse_text("BatchingParameters", text)
        fields: dict[str, Any] = {
            name: getattr(message, name).value for name in _WRAPPED if message.HasField(name)
        }
        return cls(
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            pad_variable_length_inputs=message.pad_variable_length_inputs,
            **fields,
        )

    def to_text(self) -> str:
        """The text of a `--batching_parameters_file`; what has its default is left out."""
        message = new_message("BatchingParameters")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name in _WRAPPED:
                getattr(message, field.name).value = value
            elif field.name == "allowed_batch_sizes":
                message.allowed_batch_sizes.extend(value)
            else:
                setattr(message, field.name, value)
        return write_text(message)
