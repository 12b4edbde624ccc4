"""Being asked to stop: Ctrl-C, or the SIGTERM of a cluster that wants its machine back."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Stop:
    """`asked` once a signal came; the run then ends after the step it is in. A second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] (what signal() gave us)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
