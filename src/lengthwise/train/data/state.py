"""A directory that is being filled: one run at a time, and the next goes on where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lengthwise.files import write_text

WORK, PLAN, DONE, STATE = ".pack", "plan.json", "pack.json", "state.json"


def is_complete(folder: Path) -> bool:
    """Whether the directory holds a finished packing; its state is what is written last."""
    return (folder / STATE).is_file() and (folder / DONE).is_file()


def begin(folder: Path, plan: Mapping[str, Any], force: bool) -> bool:
    """Make the directory ready for a plan; call it under the lock.

    Args:
        plan: `tokens` and `rows`: everything that decides what the two passes write.
        force: Replace a packing that is there, finished or not.

    Returns:
        Whether something is there that this run goes on from.

    Raises:
        ValueError: If the directory holds anything else, or a packing that this run must not
            replace.
    """
    work = folder / WORK
    ours = is_complete(folder) or work.is_dir()
    if not ours and any(folder.iterdir()):
        raise ValueError(f"{folder} has files and is no packed data set; choose another directory")
    if not force and is_complete(folder):
        shutil.rmtree(work, ignore_errors=True)  # killed between finishing and tidying up
        raise ValueError(f"{folder} exists and is complete; pack into another or use --force")
    old = read_record(work / PLAN)
    if old is not None and not force:
        begun = any((work / "tokens").glob("*.json"))
        if old["tokens"] != plan["tokens"] and begun:
            raise ValueError(
                f"{folder} is half packed from something else: {_difference(old, plan)}; finish "
                "that, choose another directory or begin anew with --force"
            )
        if old["rows"] == plan["rows"]:
            _sweep(folder)
            return True
        # Tokens are the longer half of the work, and serve any capacity.
        keep = {work, work / "tokens"}
    else:
        keep = {work}
    work.mkdir(exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)  # from here on nothing takes it for complete
    for path in [*folder.iterdir(), *work.iterdir()]:
        if path not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("tokens", "rows"):
        (work / name).mkdir(exist_ok=True)
    _sweep(folder)
    write_record(work / PLAN, plan)
    return (work / "tokens") in keep


def abandon(folder: Path) -> None:
    """Leave nothing behind if nothing was finished, so that a corrected call can begin."""
    work = folder / WORK
    if not any((work / "tokens").glob("*.json")):
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # not empty, then
            folder.rmdir()


def finish(folder: Path, files: list[str], record: Mapping[str, Any]) -> None:
    """Make the directory what `datasets.load_from_disk` reads; only now is it complete."""
    # Without features, datasets of every version takes the columns from the files.
    write_text(folder / "dataset_info.json", json.dumps({"description": "", "features": None}))
    write_text(folder / DONE, json.dumps(record, indent=1))
    state = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": record["fingerprint"],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_text(folder / STATE, json.dumps(state, indent=1))
    shutil.rmtree(folder / WORK)


def write_record(path: Path, value: Any) -> None:
    """Note something in a small file of JSON that can tell whether it is what was written."""
    write_text(path, json.dumps({"sha256": _sum(value), "value": value}, indent=1))


def read_record(path: Path) -> Any:
    """What `write_record` noted; None if it is not there or damaged, which is done again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["value"] if found["sha256"] == _sum(found["value"]) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for path in folder.rglob("*.tmp"):
        path.unlink()


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    for key, value in new["tokens"].items():
        if old["tokens"].get(key) != value:
            return f"its {key.replace('_', ' ')} is {old['tokens'].get(key)!r}, now {value!r}"
    return "it was written by another version"
