"""Checkpoints that are whole or not there: written aside, renamed, and checked when they are read.

`step-00000120/` holds `state.pt` (what torch can read without running code) and `manifest.json`
with its SHA-256. The last two are kept: a damaged one falls back to the one before.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from lengthwise.files import whole_directory

KEPT = 2
STATE, MANIFEST = "state.pt", "manifest.json"
BLOCK = 1 << 24


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps; the older ones stand until it is whole.

    Raises:
        OSError: When the disk is full, for instance; nothing is left of the new one.
    """
    target = folder / f"step-{step:08d}"
    if target.exists():  # what would be written again is what is there, unless it is damaged
        with contextlib.suppress(ValueError):
            _manifest(target)
            return target
    with whole_directory(target) as fresh:
        with open(fresh / STATE, "wb") as file:
            sink = _Hashed(file)
            try:
                torch.save(state, cast(IO[bytes], sink))
            except RuntimeError as error:  # torch's own words for a write that failed
                raise sink.failure or error from None
            _to_disk(file)
        record = {"step": step, "bytes": sink.size, "sha256": sink.digest.hexdigest()}
        with open(fresh / MANIFEST, "w", encoding="utf-8") as file:
            json.dump(record, file)
            _to_disk(file)
    handle = os.open(folder, os.O_RDONLY)  # the rename itself must reach the disk
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    _prune(folder)
    return target


def load_checkpoint(
    folder: Path, say: Callable[[str], None], device: torch.device
) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint, as (steps done, state); None if there is none at all.

    Args:
        say: Told about every damaged one that is passed over.

    Raises:
        ValueError: If there are checkpoints and all of them are damaged.
    """
    for left in folder.glob(".step-*"):  # half written
        shutil.rmtree(left, ignore_errors=True)
    found = checkpoints(folder)
    for place in found:
        try:
            step = _manifest(place)
            state = torch.load(place / STATE, map_location=device, weights_only=True)
            _prune(folder)  # a kill may have come between the newest and this
            return step, state
        except (ValueError, OSError) as error:
            say(f"{place.name} is damaged ({error}); falling back to the one before")
    if found:
        raise ValueError(
            f"every checkpoint in {folder} is damaged; begin anew with --force, or in another "
            "directory"
        )
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Those that are there, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def _prune(folder: Path) -> None:
    for old in checkpoints(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _manifest(place: Path) -> int:
    """The step of a checkpoint whose bytes are what was written.

    Raises:
        ValueError: If they are not.
    """
    try:
        record = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        wanted, step = record["sha256"], int(record["step"])
        size = (place / STATE).stat().st_size
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its manifest or state cannot be read: {error}") from None
    if size != record["bytes"]:
        raise ValueError(f"{STATE} has {size:,} bytes and was written with {record['bytes']:,}")
    digest = hashlib.sha256()
    with open(place / STATE, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != wanted:
        raise ValueError(f"the SHA-256 of {STATE} is not what was written")
    return step


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Hashed:
    """A file that is hashed while it is written, and remembers why a write failed."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = int(self.file.write(data))
        except OSError as error:
            self.failure = error
            raise
        self.digest.update(data)
        self.size += written
        return written

    def flush(self) -> None:
        self.file.flush()
