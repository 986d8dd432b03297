"""The file of a measurement, in which nothing finished is lost.

Line 1 is the plan. Behind it, in the order in which they were finished, stand lines of

    {"session": …}  one run of the command
    {"item": …}     an answered item, `ItemRow`
    {"reading": …}  a reading of the model itself, `ReadingRow`
    {"block": …}    a part of a reading that is not finished; it is gone when the reading is
"""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lengthwise.files import write_text
from lengthwise.measure.run.appending import append, begin, is_a, is_row, line, parsed
from lengthwise.measure.run.plan import FORMAT, read_plan
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, ItemRow, ReadingRow
from lengthwise.names import RESULTS

_ITEM, _READING, _BLOCK, _SESSION = "item", "reading", "block", "session"
# What a session must hold for a report to be made of it.
SESSION: Mapping[str, Any] = {
    "command": str, "started": str, "versions": Mapping[str, str], "hardware": Mapping[str, Any],
    "suite": str, "methods": Mapping[str, str], "tasks": Mapping[str, str],
    "items": Mapping[str, int], "lengths": list[int],
}  # fmt: skip
# The values of our own readings; others have values of their own.
VALUES: Mapping[str, Mapping[str, Any]] = {
    "loss": {"block": int, "losses": list[float]},
    "speed": {
        "first_token_seconds": float, "tokens_per_second": float, "cache_bytes": int,
        "peak_bytes": int | None,
    },
}  # fmt: skip

# What was not in files at first, and is left out where it is empty.
_LATER = {"groups", "characters", "shortcuts", "parts", "found", "read"}

Key = tuple[str, str, int, int]  # method, task, length, and which item or sample


def load(path: Path) -> Results:
    """Read a file, or the file in a folder; see `Results.load`."""
    return _read(path / RESULTS if path.is_dir() else path)[0]


def _read(path: Path) -> tuple[Results, dict[Key, list[float]], int]:
    """What a file holds, the blocks of unfinished readings, and how many of its bytes are sound."""
    lines = path.read_bytes().split(b"\n")
    results = Results(read_plan(path))
    rows: dict[Key, ItemRow] = {}
    readings: dict[Key, ReadingRow] = {}
    blocks: dict[Key, list[float]] = {}
    sound = len(lines[0]) + 1
    last = len(lines) - 2 if lines[-1] == b"" else len(lines) - 1
    for number, words in enumerate(lines[1:-1], start=1):
        kind, entry = _entry(words)
        if kind == _SESSION and _is_session(entry):
            results.sessions.append(entry)
        elif kind == _ITEM and _is_item(entry, results.sessions):
            lists = {key: tuple(entry.get(key, ())) for key in ("depths", "found")}
            item = ItemRow(**{**entry, **lists})
            rows.pop(item.key, None)  # one that was refused for now, and asked again
            rows[item.key] = item
        elif kind == _READING and _is_reading(entry, results.sessions):
            reading = ReadingRow(**entry)
            readings[reading.key] = reading
        elif kind == _BLOCK and (key := _key_of(entry)) and is_a(entry.get("value"), float):
            blocks.setdefault(key, []).append(float(entry["value"]))
        elif number == last:
            break
        else:
            raise ValueError(
                f"{path}: line {number + 1} is damaged; delete that line to measure it again"
            )
        sound += len(words) + 1
    results.rows.extend(rows.values())
    results.readings.extend(readings.values())
    return results, blocks, sound


def _entry(words: bytes) -> tuple[str, Any]:
    """The kind of a line and what it says; no kind if it is damaged."""
    entry = parsed(words) or {}
    return next(iter(entry.items())) if len(entry) == 1 else ("", None)


def _is_session(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() >= SESSION.keys()
        and all(is_a(entry[key], hint) for key, hint in SESSION.items())
        and entry["tasks"].keys() == entry["items"].keys()
    )


def _belongs(entry: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row is of a session that has its task and method."""
    if not 0 <= entry["session"] < len(sessions) or entry["length"] < 1 or entry["seconds"] < 0:
        return False
    session = sessions[entry["session"]]
    return entry["task"] in session["tasks"] and entry["method"] in (REFERENCE, *session["methods"])


def _is_item(entry: Any, sessions: Sequence[Mapping[str, Any]]) -> bool:
    return (
        is_row(entry, ItemRow)
        and _belongs(entry, sessions)
        and all(0 <= x <= 1 for x in (entry["chance"], entry["score"] or 0, *entry["depths"]))
        and all(0 <= x <= 1 for x in entry.get("found", ()))
        and all(0 <= x <= 1 for x in entry.get("shortcuts", {}).values())
        and len(entry.get("found", ())) in (0, len(entry["depths"]))
        and min(entry["index"], entry["tokens"], entry.get("characters", 0)) >= 0
    )


def _is_reading(entry: Any, sessions: Sequence[Mapping[str, Any]]) -> bool:
    if not is_row(entry, ReadingRow) or not _belongs(entry, sessions) or entry["sample"] < 0:
        return False
    values, hints = entry["values"], VALUES.get(entry["task"])
    if entry["refused"] or hints is None:
        return True
    if values.keys() != hints.keys() or not all(is_a(values[k], h) for k, h in hints.items()):
        return False
    if entry["task"] == "loss":
        block = values["block"]
        return block >= 1 and len(values["losses"]) == -(-entry["length"] // block)
    return all(x is None or x >= 0 for x in values.values())


def _key_of(entry: Any) -> Key | None:
    """The reading of a block."""
    if not isinstance(entry, dict) or entry.keys() != {*_KEY, "value"}:
        return None
    key = tuple(entry[name] for name in _KEY)
    return key if all(is_a(*pair) for pair in zip(key, _KEY.values(), strict=True)) else None


_KEY: Mapping[str, Any] = {"method": str, "task": str, "length": int, "sample": int}


class ResultsFile:
    """Appends rows, so that a kill at any moment loses what is not measured and nothing else.

    with hold(folder):
        file = ResultsFile(folder, plan)
        file.begin(session)
        file.add(row)
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Open or begin the file; the folder must be held.

        Raises:
            ValueError: The file belongs to another plan, or is no file of results.
        """
        self.path = folder / RESULTS
        self.results = Results({"lengthwise_results": FORMAT, **plan})
        self._blocks: dict[Key, list[float]] = {}
        self._open()
        self._again = {row.key for row in self.results.rows if row.again}

    def _open(self) -> None:
        if not self.path.exists():
            begin(self.path, self.results.plan)
            return
        # As JSON has it: a tuple of the new plan is a list in the file.
        new = json.loads(line(self.results.plan))
        self.results, self._blocks, sound = _read(self.path)
        _check_same(self.path, self.results.plan, new)
        os.truncate(self.path, sound)

    @property
    def count(self) -> int:
        """Items and readings that are finished."""
        return len(self.results.finished)

    @property
    def unfinished(self) -> bool:
        """Whether there are parts of a reading that is not finished."""
        return bool(self._blocks)

    def check(self, session: Mapping[str, Any]) -> None:
        """Refuse a run that calls another thing by a name that the file has.

        Raises:
            ValueError: Which method or task, and how both are set.
        """
        for name, spec in session["methods"].items():
            before = self.results.specs.get(name, spec)
            if before != spec:
                raise ValueError(
                    f"{self.path} measured {name!r} as {before or 'the plain model'}, now it is "
                    f"{spec or 'the plain model'}; give it another name"
                )
        for key, known in (("tasks", self.results.settings), ("items", self.results.counts)):
            now = {name: value for name, value in session[key].items() if name in known}
            _check_same(self.path, {key: known}, {key: known | now})

    def begin(self, session: Mapping[str, Any]) -> int:
        """Append the line of a run; its number, which the rows of the run bear."""
        self._append({_SESSION: dict(session)})
        self.results.sessions.append(dict(session))
        return len(self.results.sessions) - 1

    def add(self, row: ItemRow | ReadingRow) -> None:
        """Append a row; it is on the disk when this returns.

        An item takes the place of one that was refused for now, a reading that of its blocks.

        Raises:
            OSError: The disk is full, for one. What was there before is still there, whole.
        """
        if isinstance(row, ItemRow):
            entry = asdict(row)
            entry = {key: value for key, value in entry.items() if value or key not in _LATER}
            self._append({_ITEM: entry})
            if row.key in self._again:
                self.results.rows[:] = [old for old in self.results.rows if old.key != row.key]
            self.results.rows.append(row)
            return
        if row.key in self._blocks:
            self._replace_blocks(row)
            del self._blocks[row.key]
        else:
            self._append({_READING: asdict(row)})
        self.results.readings.append(row)

    def blocks(self, key: Key) -> list[float]:
        """The parts that are known of a reading."""
        return list(self._blocks.get(key, []))

    def keep(self, key: Key, values: Sequence[float]) -> None:
        """Keep the next parts of a reading until it is finished.

        They are not forced to the disk one by one: no more is lost with the machine than a reading.
        """
        entry = dict(zip(_KEY, key, strict=True))
        with open(self.path, "ab") as file:
            for value in values:
                file.write(line({_BLOCK: {**entry, "value": value}}).encode())
        self._blocks.setdefault(key, []).extend(values)

    def _append(self, entry: Mapping[str, Any]) -> None:
        append(self.path, entry, f"the {self.count} measurements")

    def _replace_blocks(self, row: ReadingRow) -> None:
        """Write the file anew with a reading in the place of its blocks, at once or not at all."""

        def is_block(words: bytes) -> bool:
            kind, entry = _entry(words)
            return kind == _BLOCK and _key_of(entry) == row.key

        lines = self.path.read_bytes().split(b"\n")[:-1]
        kept = [words.decode() + "\n" for words in lines if not is_block(words)]
        try:
            write_text(self.path, "".join(kept) + line({_READING: asdict(row)}))
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"{error.strerror}; the {self.count} measurements before it are kept: make room "
                "and run the same command again",
                str(self.path),
            ) from None


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        before = old.get(key)
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):  # name what differs, not all
            inner = next(k for k in [*before, *value] if before.get(k) != value.get(k))
            key, before, value = f"{key} {inner}", before.get(inner), value.get(inner)
        raise ValueError(
            f"{path} belongs to another measurement: its {key.replace('_', ' ')} is {before!r}, "
            f"now it is {value!r}; choose another directory or add --force"
        )
