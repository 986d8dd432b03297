"""Every module imports, is short, names no machine and uses only what stands below it."""

import ast
import importlib.util
import re
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
FILES = sorted(SOURCE.rglob("*.py"))

# Made by tools, or by people for themselves; never part of the repository.
NOT_OURS = re.compile(r"\.(?!ci$|github$|gitignore$).*|__pycache__|build|dist|runs|.*\.egg-info")

# A folder in which somebody keeps his work, as an absolute path.
MACHINE_PATH = re.compile(
    r"(?<![\w.~/:-])/(?:home|Users|root|work|workspace|mnt|media|scratch)/\w|[A-Z]:\\Users\\"
)

# A room may use itself and the rooms of lower floors, and not its neighbours. Some are not built.
FLOORS = [
    {"core"},
    {"hf"},
    {"extend"},
    {"decode"},
    {"measure"},
    {"search", "serve", "train"},
    {"compress", "retrieve"},
    {"lab"},
    {"cli"},
]
ROOMS = set().union(*FLOORS)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """ "core" for `lengthwise.core.partial`; None outside lengthwise and on its top level."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lengthwise" and len(parts) > 1 else None


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, on top or inside functions."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from lengthwise import core` names the room only in its alias.
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def repository_files(folder: Path = ROOT) -> list[Path]:
    files = []
    for path in sorted(folder.iterdir()):
        if NOT_OURS.fullmatch(path.name):
            continue
        files += repository_files(path) if path.is_dir() else [path]
    return files


def test_every_module_imports() -> None:
    there = importlib.util.find_spec("lm_eval") is not None  # an extra that pins other versions
    failed = []
    for name in map(module_name, FILES):
        if name.endswith("__main__"):  # running it is its import
            continue
        if name.startswith("lengthwise.measure.engines.lm_eval.") and not there:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {error!r}")
    assert not failed, "\n".join(failed)


def test_every_file_is_under_400_lines() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = [f"{path.relative_to(SOURCE)} has {n} lines" for path, n in lines.items() if n >= 400]
    assert not long, "\n".join(long)


def test_arrows_between_rooms_point_down() -> None:
    wrong = []
    for path in FILES:
        here = room_of(module_name(path))
        floor = next((i for i, rooms in enumerate(FLOORS) if here in rooms), len(FLOORS))
        below = {here}.union(*FLOORS[:floor])
        upward = {name for name in imports(path) if room_of(name) in ROOMS - below}
        if upward:
            wrong.append(f"{module_name(path)} does not stand above {sorted(upward)}")
    assert not wrong, "\n".join(wrong)


def test_core_needs_torch_only() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "jaxtyping", "lengthwise"}
    for path in (SOURCE / "lengthwise" / "core").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
            assert room_of(name) in (None, "core"), f"{path.name} imports {name}"


def test_no_file_names_a_machine() -> None:
    found = []
    for path in repository_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for m in MACHINE_PATH.finditer(text)]
    assert not found, "\n".join(found)


def test_the_search_for_machine_paths_finds_them() -> None:
    for text in ("see " + "/home" + "/me/model", '"' + "/root" + '/x"', "C:" + "\\Users\\me"):
        assert MACHINE_PATH.search(text), text
    for text in ("a/home/b", "https://example.org/home/b", "~/home/b", "./root/b", "src/home/b"):
        assert not MACHINE_PATH.search(text), text


def test_the_network_is_refused() -> None:
    with socket.socket() as connection, pytest.raises(RuntimeError, match="offline"):
        connection.connect(("192.0.2.1", 80))  # an address reserved for documentation
