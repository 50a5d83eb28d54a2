"""JSON text to values and, for messages, back: in the words and the layout of TF Serving."""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.local_server.status import StatusError, invalid

_INDENT = 4
WHOLE = {"float32": 2**24 - 1, "float64": 2**53 - 1}  # the largest whole number that is taken
_LARGEST = {name: float(np.finfo(name).max) for name in WHOLE}


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a request's body.

    Args:
        body: JSON text; NaN and Infinity are numbers.

    Returns:
        The object it holds.

    Raises:
        StatusError: if it is not a JSON object.

    Example:
        >>> parse_body(b'{"instances": [1]}')
        {'instances': [1]}
    """
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty")
    try:
        parsed = json.loads(body)
        if b"\\ud" in body.lower():  # half of a surrogate pair is in no string that can be sent on
            json.dumps(parsed, ensure_ascii=False).encode()
    except ValueError as error:  # of the JSON or of its Unicode
        raise invalid(f"JSON Parse error: {error}") from error
    except RecursionError as error:
        raise invalid("JSON Parse error: The document is nested too deeply") from error
    if not isinstance(parsed, dict):
        raise refused(parsed, "Is not object")
    return parsed


def refused(value: Any, words: str) -> StatusError:
    """An error that shows the value that it is about."""
    return invalid(f"JSON Value: {_shown(value)} {words}")


def wrong_type(value: Any, expected: str) -> StatusError:
    """The error for a value of another type than the tensor's."""
    return refused(value, f"Type: {kind(value)} is not of expected type: {expected}")


def lossy(value: float, target: str) -> StatusError:
    """The error for a number that a floating point type does not hold."""
    return invalid(
        f"Cannot convert JSON value: {_shown(value)} to {target} without loss of precision."
    )


def kind(value: Any) -> str:
    """What RapidJSON calls the type of a value.

    Args:
        value: of `json.loads`.

    Returns:
        "Null", "False", "True", "Object", "Array", "String" or "Number".

    Example:
        >>> kind(True), kind([1])
        ('True', 'Array')
    """
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    for expected, name in ((dict, "Object"), (list, "Array"), (str, "String")):
        if isinstance(value, expected):
            return name
    return "Number"


def is_base64(value: Any) -> bool:
    """Whether a value stands for bytes: an object with the one key `b64`, and text."""
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def decode_base64(value: Mapping[str, str]) -> bytes:
    """The bytes of a `{"b64": …}`. White space is skipped; `=` at the end may be missing."""
    compact = "".join(value["b64"].split())
    digits = compact.rstrip("=")
    padding = -len(digits) % 4
    try:
        if len(compact) - len(digits) not in (0, padding):
            raise ValueError("the padding does not fit the length")
        return base64.b64decode(digits + "=" * padding, validate=True)
    except ValueError as error:
        raise invalid("Unable to base64 decode") from error


def exceeds(number: float, dtype: str) -> bool:
    """Whether a JSON number is refused for a floating point type.

    A fraction has to be in its range. A whole number has to have at most as many bits as its
    mantissa; one that does not fit into 64 bits counts as a fraction.

    Args:
        number: an int or a float.
        dtype: "float32" or "float64".

    Example:
        >>> exceeds(2**24, "float32"), exceeds(2.0**24, "float32")
        (True, False)
    """
    if isinstance(number, int) and -(2**63) <= number < 2**64:
        return abs(number) > WHOLE[dtype]
    return abs(number) > _LARGEST[dtype] and abs(number) != math.inf


def _shown(value: Any) -> str:
    """A value as RapidJSON prints it: lists on one line, each member of an object on its own."""
    try:
        return _text(value, 0)
    except RecursionError:
        return "(nested too deeply to show)"


def _text(value: Any, level: int) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_text(item, level + 1) for item in value) + "]"
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    indent = " " * _INDENT * (level + 1)
    members = (
        f"{indent}{json.dumps(key, ensure_ascii=False)}: {_text(item, level + 1)}"
        for key, item in value.items()
    )
    return "{\n" + ",\n".join(members) + "\n" + " " * _INDENT * level + "}"
