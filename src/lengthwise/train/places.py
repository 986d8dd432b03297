"""What stands in the directory of a run, and whether a run may begin there; without torch."""

from pathlib import Path

from lengthwise.files import check_writable

MODEL, ADAPTER = "model", "adapter"
RUN, METRICS, RESULT, CHECKPOINTS, ROWS, TRACKER = (
    "run.json", "metrics.jsonl", "result.json", "checkpoints", "rows", "tracker",
)  # fmt: skip
OURS = (RUN, METRICS, RESULT, CHECKPOINTS, ROWS, TRACKER, MODEL, ADAPTER)
STEMS = {name.partition(".")[0] for name in OURS}


def check_folder(folder: Path, force: bool) -> None:
    """Refuse a directory in which something is that must not be lost.

    Raises:
        ValueError: If it is a file, holds other things, or a finished run without `force`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a directory")
    check_writable(folder)
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    others = [name for name in names if name.lstrip(".").partition(".")[0] not in STEMS]
    if others:
        raise ValueError(f"{folder} has {others[0]} and is no run's; choose another directory")
    if (folder / RESULT).is_file() and not force:
        raise ValueError(
            f"{folder} holds a finished run; choose another directory or begin anew with --force"
        )
