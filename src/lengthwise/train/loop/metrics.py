"""What a run measured, one JSON object a line; after a kill no line stands there twice."""

import json
import os
from pathlib import Path
from typing import Any


class Metrics:
    """Appends lines to a file.

    Args:
        path: Of the file.
        done: Steps that are done; lines of later ones are from a run that was killed, and go.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= done] if done else []
        fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(fresh, path)
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(self, step: int, **values: Any) -> None:
        """One line; it begins with the number of steps that are done."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")

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
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
