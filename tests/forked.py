"""Work in a process of its own, forked from one that has imported everything already.

A child has a session of its own: what it signals, its process group too, is never the parent.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

SECONDS = 600.0


def begin(work: Callable[[], object], log: Path) -> int:
    """Fork a process that does the work and appends what it writes to `log`; its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:  # from here on nothing leads back into the parent's code
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream, into in ((os.open(os.devnull, os.O_RDONLY), 0), (handle, 1), (handle, 2)):
            os.dup2(stream, into)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, "utf-8") for n in (1, 2))
        try:
            work()
            status = 0
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def end(child: int, seconds: float = SECONDS) -> int | str:
    """Its exit status, negative for a signal; or that it did not end in so many seconds.

    Processes that it began end with it.
    """
    limit, wait = time.monotonic() + seconds, 0.001
    try:
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > limit:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"no end in {seconds:.0f} s"
            time.sleep(wait)
            wait = min(2 * wait, 0.05)
        return os.waitstatus_to_exitcode(done[1])
    finally:
        leave(child)


def leave(child: int) -> None:
    """End whatever is left of the child's session."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def run(work: Callable[[], object], log: Path) -> int | str:
    return end(begin(work, log))
