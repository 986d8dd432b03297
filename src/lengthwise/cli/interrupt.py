"""Ctrl-C, from the first moment on.

While modules and models are loading there is nothing to keep, and a KeyboardInterrupt would not
do: extension modules turn it into a crash, and some imports swallow it. So the process ends at
once. From `work_begins` on it is a KeyboardInterrupt, so that work can keep what it has; whoever
presses Ctrl-C again ends the process whatever it is doing.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

STATUS = 130


def loading_begins() -> None:
    """From now on Ctrl-C ends the process at once. Call it once, from the main thread."""
    signal.signal(signal.SIGINT, _leave)


def work_begins() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt; without `loading_begins` it always was."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
    os.write(2, f"{show_cursor}Interrupted.\n".encode())
    os._exit(STATUS)
