"""Where the files of published sets lie in a person's own copy; looked up without torch."""

from collections.abc import Sequence
from pathlib import Path

from lengthwise.names import PUBLISHED, home_of

_DEPTHS = ("", "*/", "*/*/")  # a copy as it was downloaded has them up to two folders down


def find_sets(names: Sequence[str], data: Path) -> dict[str, Path]:
    """From the tasks of published suites and single sets to their files, in the order of names.

    A suite is those of its sets that are there; a set that is named alone must be.

    Raises:
        ValueError: No folder, a set that is not there or lies there twice, or a suite of which no
            set is there.
    """
    if not data.is_dir():
        raise ValueError(f"--data: there is no folder {data}; name the one with your own copy")
    found: dict[str, Path] = {}
    for name in names:
        home = home_of(name)
        assert home is not None
        sets = PUBLISHED[home] if name in PUBLISHED else {name: PUBLISHED[home][name]}
        there = {task: file for task, form in sets.items() if (file := find(data, form))}
        if not there:
            wanted = ", ".join(list(sets.values())[:3]) + (" …" if len(sets) > 3 else "")
            raise ValueError(f"--data: {data} has no file of {name}; expected {wanted}")
        found |= there
    return found


def find(folder: Path, form: str) -> Path | None:
    """The one file of a name with `*` for anything, in the folder or up to two below it.

    Raises:
        ValueError: There are several.
    """
    found = [path for depth in _DEPTHS for path in sorted(folder.glob(depth + form))]
    found = [path for path in found if path.is_file()]
    if len(found) > 1:
        raise ValueError(f"--data: {found[0]} and {found[1]} are the same set; name one's folder")
    return found[0] if found else None


def left_out(names: Sequence[str], found: Sequence[str]) -> str:
    """How many sets of a suite are not there, in words; empty where all are."""
    parts = []
    for name in names:
        missing = [task for task in PUBLISHED.get(name, ()) if task not in found]
        if missing:
            parts.append(f"{len(missing)} of {len(PUBLISHED[name])} sets of {name}")
    return f"not in that folder, so left out: {', '.join(parts)}" if parts else ""
