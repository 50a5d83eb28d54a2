"""Being told to stop: Ctrl-C, and SIGTERM as machines that are taken away send it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class TrainingInterruptedError(KeyboardInterrupt):
    """The run was told to stop, and has saved where it is.

    Args:
        signal_number: what told it so.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class StopRequest:
    """Whether the run has been told to stop.

    Attributes:
        signal_number: what told it so; None so far.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request, so that a run can save before it stops.

    A second one acts as it always does. In another thread than the main one nothing is changed,
    since Python allows no handlers there.

    Yields:
        The request, false until the signal comes.

    Example:
        >>> import os
        >>> with stop_requests() as request:
        ...     before = bool(request)
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     before, bool(request)
        (False, True)
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal_number = number
        # Not the handlers of before: a shell lets what it starts with `&` ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
