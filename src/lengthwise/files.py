"""Files and directories that appear whole or not at all, however the process ends; and locks."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lengthwise.names import LOCK


def write_text(path: Path, text: str) -> None:
    """Write a file that appears as a whole, in place of the one that is there.

    Raises:
        OSError: As `whole_file`.
    """
    with whole_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A file to be written, which then takes the place of `path`, whatever is there.

    What a kill leaves of it is written over the next time.

    Args:
        shared: Whether another process may be writing it too, one that outlives a kill for
            instance: then each writes a file of its own, and whoever starts them sweeps.

    Raises:
        OSError: With `path`, when the disk is full, for instance; nothing is left.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        os.replace(fresh, path)
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        _name(path, fresh, error)
        raise


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A directory to be filled, which then takes the place of `target`, whatever is there.

    What is there stands until then: a kill between the two renames leaves it aside, and the next
    call, or `restore`, puts it back. What killed processes left half filled is removed.

    Raises:
        OSError: With `target`, when the disk is full, for instance; nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    restore(target)
    for left in _aside(target, "new"):
        if not _in_use(left):
            shutil.rmtree(left, ignore_errors=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    held = [_hold(fresh)]
    try:
        yield fresh
        if target.exists():
            held.append(_hold(target))  # nobody is to put it back meanwhile
            os.replace(target, old)
        os.replace(fresh, target)
    except Exception as error:
        _name(target, fresh, error)
        raise
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        for handle in held:
            os.close(handle)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder alone while something is written there; it is made where it is missing.

    The lock belongs to the operating system: it ends with the process, however that ends.

    Raises:
        ValueError: Another run holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another lengthwise is writing into {folder}; wait for it, or choose another "
                "directory"
            ) from None
        yield
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written or made, before hours of work for it.

    Raises:
        ValueError: With the reason.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file, and no directory; choose another place")
    try:
        tempfile.TemporaryDirectory(prefix=".", dir=there).cleanup()
    except OSError as error:
        raise ValueError(
            f"nothing can be written in {there}: {error.strerror}; choose another place"
        ) from None


def leftovers(file: str) -> set[str]:
    """Names of what a run that was killed at its very beginning leaves beside a file to be."""
    return {LOCK, f".{file}.tmp", f"{file}.tmp"}


def restore(target: Path) -> None:
    """Put back a directory that a killed process had set aside, or remove it if it was replaced."""
    for left in _aside(target, "old"):
        if _in_use(left):
            continue
        if target.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            os.replace(left, target)


def _aside(target: Path, kind: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(target.name)}\.\d+\.{kind}")
    if not target.parent.is_dir():
        return []
    return sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))


def _hold(folder: Path) -> int:
    """Lock a directory; the lock ends with the process, or when the handle is closed."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: then nobody removes it either
        fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _in_use(folder: Path) -> bool:
    """Whether a process that is alive holds it, or may: not every file system has locks."""
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True  # its process has just finished with it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _name(path: Path, fresh: Path, error: BaseException) -> None:
    """Raise an error of the disk anew with the path that the person named; pass over any other.

    Libraries in Rust report one in words: "No space left on device (os error 28)".
    """
    said = re.search(r"\(os error (\d+)\)", str(error))
    number, words = (int(said[1]), os.strerror(int(said[1]))) if said else (None, "")
    if isinstance(error, OSError):
        number = error.errno or errno.EIO
        words = os.strerror(number) if error.errno else str(error)
        there = fresh if error.filename is None else Path(os.fsdecode(error.filename))
        if not there.is_relative_to(fresh) and not fresh.is_relative_to(there):
            return  # of something that was read meanwhile
    if number is not None:
        raise OSError(number, words, str(path)) from error
