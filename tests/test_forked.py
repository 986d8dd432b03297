"""A forked process ends for itself, whatever happens in it, and takes its own children along."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests import forked


def test_how_work_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def kill_the_group() -> None:
        os.killpg(0, signal.SIGTERM)
        time.sleep(60)

    def unheard() -> None:
        os.close(1)
        print("said to nobody")

    assert forked.run(lambda: print("said"), log) == 0
    assert forked.run(lambda: sys.exit(3), log) == 3
    assert forked.run(lambda: sys.exit("a reason"), log) == 1
    assert forked.run(lambda: 1 / 0, log) == 70
    assert forked.run(unheard, log) == 70  # and never comes back as a second parent
    assert forked.run(kill_the_group, log) == -signal.SIGTERM  # and this process goes on
    assert forked.end(forked.begin(lambda: time.sleep(60), log), 0.2) == "no end in 0 s"
    said = log.read_text(encoding="utf-8")
    assert "said" in said and "a reason" in said and "ZeroDivisionError" in said


def test_what_it_began_ends_with_it(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def leave_one_behind() -> None:
        if not os.fork():
            told.write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(60)
        while not (told.exists() and told.read_text(encoding="utf-8")):
            time.sleep(0.01)

    assert forked.run(leave_one_behind, tmp_path / "log") == 0
    left = int(told.read_text(encoding="utf-8"))
    for _ in range(500):  # until somebody has taken note of its end
        try:
            os.kill(left, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{left}/stat")
        if stat.exists() and stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("a process that it began goes on")
