"""What a run measured, one JSON object a line; after a kill no line stands there twice."""

import json
import os
from pathlib import Path
from typing import Any

from lengthwise.files import write_text


class Metrics:
    """Appends lines to a file.

    Args:
        path: Of the file.
        done: Steps that are done; lines of later ones are from a run that was killed, and go.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= done] if done else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(self, step: int, **values: Any) -> None:
        """One line; it begins with the number of steps that are done.

        Raises:
            OSError: With the path, when the disk is full for instance.
        """
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def to_disk(self) -> None:
        """Make sure of the lines so far; called before a checkpoint claims their steps."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; what a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            lines.append(found)
    return lines


def evaluation_before(path: Path) -> dict[str, Any]:
    """What was measured before the first step.

    Raises:
        ValueError: If it is not there any more.
    """
    for line in read_metrics(path):
        if line["step"] == 0 and "evaluation" in line:
            found: dict[str, Any] = line["evaluation"]
            return found
    raise ValueError(
        f"{path} has lost the evaluation before training, which the result is held against; begin "
        "anew with --force, or in another directory"
    )
