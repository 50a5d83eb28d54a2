"""Statuses: how a request fails, in the codes and words of TF Serving."""

from typing import NoReturn

import grpc
import tensorflow as tf

# TF Serving cuts longer messages, so that they fit into HTTP/2 headers.
_MAX_MESSAGE = 1024

_CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class StatusError(Exception):
    """A request that ends with a gRPC status.

    Attributes:
        code: the status code.
        message: what is wrong, as TF Serving says it.

    Example:
        >>> StatusError(grpc.StatusCode.NOT_FOUND, "no such model").code.name
        'NOT_FOUND'
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = cut(message)


def cut(message: str) -> str:
    """Shorten a message as TF Serving does.

    Args:
        message: of any length.

    Returns:
        The message, or its first 1024 characters and a mark.

    Example:
        >>> len(cut("x" * 5000))
        1036
    """
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "...TRUNCATED"


def invalid(message: str) -> StatusError:
    """Make the most common failure.

    Args:
        message: what is wrong with the request.

    Returns:
        An INVALID_ARGUMENT to raise.

    Example:
        >>> invalid("Missing ModelSpec").code.name
        'INVALID_ARGUMENT'
    """
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def raise_runtime_error(error: tf.errors.OpError) -> NoReturn:
    """Pass on what TensorFlow's runtime said.

    Args:
        error: the runtime's error.

    Raises:
        StatusError: always, with the same code and words.
    """
    raise StatusError(code_of(error), error.message) from error


def code_of(error: BaseException) -> grpc.StatusCode:
    """Find the status code for an error of any origin.

    Args:
        error: what was raised.

    Returns:
        Its own code if it has one, else INTERNAL.

    Example:
        >>> code_of(tf.errors.NotFoundError(None, None, "gone")).name
        'NOT_FOUND'
    """
    if isinstance(error, StatusError):
        return error.code
    if isinstance(error, tf.errors.OpError):
        return _CODE_OF_NUMBER.get(error.error_code, grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.INTERNAL
