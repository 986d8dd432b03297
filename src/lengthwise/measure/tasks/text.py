"""Long texts that every Python installation already has: its own standard library.

The bundled model is trained on the standard library, so some files of it are held out,
and measurements on the bundled model read only those.
"""

import os
import random
import sysconfig
from pathlib import Path

# Large modules that every CPython since 3.11 carries; their tests are held out with them.
HELD_OUT = (
    "_pydecimal", "argparse", "typing", "tarfile", "mailbox", "statistics", "ipaddress",
    "difflib", "optparse", "smtplib", "plistlib", "fractions", "pickletools",
)  # fmt: skip

# Tables rather than text: character maps, generated parsers, colour lists.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "encodings", "__pycache__", "pgen2", "config"}


def _is_held_out(path: Path) -> bool:
    return any(path.stem in (name, f"test_{name}", f"{name}_tests") for name in HELD_OUT)


def standard_library_files(held_out: bool) -> list[Path]:
    """The `.py` files of the running Python's standard library, in a fixed order.

    Args:
        held_out: True for the files that the bundled model never saw, False for the others.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    if held_out:  # only top-level modules: the same files on every installation
        return [path for path in found if path.parent == root and path.stem in HELD_OUT]
    return [path for path in found if not _is_held_out(path)]


def read_text(path: Path) -> str:
    """The file's text, or the empty string when it is not UTF-8 (some test files are not)."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def held_out_text(seed: int = 0) -> str:
    """All held-out files one after another, in an order drawn from `seed`."""
    files = standard_library_files(held_out=True)
    random.Random(seed).shuffle(files)
    return "\n".join(read_text(path) for path in files)
