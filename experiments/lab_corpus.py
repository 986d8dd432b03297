"""Texts of six kinds for a small model: Python's standard library, and five of Debian's packages.

    python experiments/lab_corpus.py --out corpus

python      standard library of this Python                             PSF licence
essay       anarchism, An Anarchist FAQ, as web pages                   GPL-2
manual      perl-doc, the manuals of Perl                               GPL-1+ or Artistic
dictionary  dict-gcide, the Collaborative International Dictionary      GPL-2+
bible       bible-kjv-text, King James Version, public domain; bible-kjv prints it (GPL-2+)
handbook    debian-reference-en, a handbook of Debian                   GPL-2+

Packages are had by `apt-get download` and held against their hashes; `dpkg-deb` unpacks them, and
nothing is installed. Elsewhere than on Debian 12, or when Debian has newer ones, put the files that
the message names into the folder by hand, from snapshot.debian.org. Of every kind some documents
are held out: no model is trained on them.
"""

import argparse
import gzip
import hashlib
import html
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lengthwise.files import write_text
from lengthwise.measure.tasks.text import read_text, standard_library_files

PACKAGES = "packages"  # the folder of the files as Debian has them


@dataclass(frozen=True)
class Package:
    """A file of Debian 12, and its SHA-256."""

    name: str
    version: str
    sha256: str
    machine: str = "all"

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version}_{self.machine}.deb"


@dataclass(frozen=True)
class Kind:
    """What a kind of text is made of: packages, and the documents by name in their files."""

    packages: tuple[Package, ...]
    documents: Callable[[Path], dict[str, str]]
    held_out: Callable[[int, str], bool]


def without_marks(page: str) -> str:
    """The words of a web page, a paragraph a line."""
    page = re.sub(r"(?is)<(head|script|style)\b.*?</\1>", "", page)
    page = re.sub(r"\s+", " ", page)
    page = re.sub(r"(?i)</?(p|h\d|li|blockquote|div|tr|dt|dd|br|pre)\b[^>]*>", "\n", page)
    lines = (line.strip() for line in html.unescape(re.sub(r"<[^>]*>", "", page)).split("\n"))
    return "\n".join(line for line in lines if line)


def pages(folder: Path, pattern: str) -> dict[str, str]:
    """Web pages by name."""
    found = sorted(folder.glob(pattern))
    return {
        path.name: without_marks(path.read_text(encoding="utf-8", errors="replace"))
        for path in found
    }


def manuals(folder: Path) -> dict[str, str]:
    """Manuals of Perl, without the histories of its releases."""
    paths = sorted(folder.glob("usr/share/perl/*/pod/*.pod"))
    return {path.name: read_text(path) for path in paths if "delta" not in path.name}


def dictionary(folder: Path, size: int = 20_000) -> dict[str, str]:
    """Entries in their order, about `size` characters of them a document."""
    packed = (folder / "usr/share/dictd/gcide.dict.dz").read_bytes()
    entries = re.split(r"\n\n(?=\S)", gzip.decompress(packed).decode("utf-8", errors="replace"))
    found, part = dict[str, str](), list[str]()
    for entry in entries:
        part.append(entry)
        if sum(map(len, part)) >= size:
            found[f"{len(found):05}"] = "\n\n".join(part)
            part = []
    return found


def bible(folder: Path) -> dict[str, str]:
    """Books by name, a verse a line."""
    command = [str(folder / "usr/bin/bible"), "-p", f"{folder}/usr/lib/", "-l100000"]
    done = subprocess.run(
        [*command, "gen1:1-rev22:21"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    found = dict[str, str]()
    for part in re.split(r"\n\n(?=\S[^\n]* \d+\n)", done.stdout):
        name = part.strip().split("\n")[0].rpartition(" ")[0]
        found[name] = found.get(name, "") + part.strip() + "\n"
    if "Revelation" not in "".join(found):
        raise ValueError(f"the program of bible-kjv printed no Bible: {done.stderr.strip()}")
    return found


def python(folder: Path) -> dict[str, str]:
    """The standard library, with the files that measurements read."""
    files = {*standard_library_files(held_out=True), *standard_library_files(held_out=False)}
    return {str(path): read_text(path) for path in sorted(files)}


def every(count: int, first: int) -> Callable[[int, str], bool]:
    """Holds out one document of so many."""
    return lambda index, name: index % count == first


KINDS = {
    "python": Kind((), python, lambda i, name: Path(name) in _UNSEEN),
    "essay": Kind(
        (
            Package(
                "anarchism", "15.3-3",
                "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
            ),
        ),
        lambda folder: pages(folder, "usr/share/doc/anarchism/html/*.html"),
        every(12, 5),
    ),
    "manual": Kind(
        (
            Package(
                "perl-doc", "5.36.0-7+deb12u4",
                "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8",
            ),
        ),
        manuals,
        every(12, 5),
    ),
    "dictionary": Kind(
        (
            Package(
                "dict-gcide", "0.48.5+nmu2",
                "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
            ),
        ),
        dictionary,
        every(50, 5),
    ),
    "bible": Kind(
        (
            Package(
                "bible-kjv-text", "4.38",
                "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a",
            ),
            Package(
                "bible-kjv", "4.38",
                "75a49c032a6efa9faa2beb4a9acb70974380122906329d0e100de36cc88ff02d", "amd64",
            ),
        ),
        bible,
        every(12, 5),
    ),
    "handbook": Kind(
        (
            Package(
                "debian-reference-en", "2.100",
                "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f",
            ),
        ),
        lambda folder: pages(folder, "usr/share/debian-reference/*.html"),
        every(8, 3),
    ),
}  # fmt: skip
_UNSEEN: set[Path] = {*standard_library_files(held_out=True)}


def downloaded(package: Package, folder: Path) -> Path:
    """The file of a package, with the right hash.

    Raises:
        ValueError: It cannot be had, or is another one.
    """
    file = folder / package.file
    if not file.is_file():
        name = f"{package.name}={package.version}"
        done = subprocess.run(
            ["apt-get", "download", "-qq", name], cwd=folder, capture_output=True, text=True
        ) if _has_apt() else None  # fmt: skip
        if not file.is_file():
            said = done.stderr.strip().split("\n")[-1] if done else "this is no Debian"
            raise ValueError(
                f"{name} could not be had by apt-get ({said}); get {package.file} from "
                f"https://snapshot.debian.org/package/{package.name}/ and put it into {folder}"
            )
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(f"{file} is another file than it was: its SHA-256 is {found}")
    return file


def _has_apt() -> bool:
    return Path("/usr/bin/apt-get").is_file()


def make(name: str, out: Path) -> Path:
    """The file of a kind: its documents, and those held out, as JSON.

    Raises:
        ValueError: A package cannot be had.
    """
    target, kind = out / f"{name}.json", KINDS[name]
    if target.is_file():
        return target
    (out / PACKAGES).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for package in kind.packages:
            file = downloaded(package, out / PACKAGES)
            subprocess.run(["dpkg-deb", "-x", str(file), folder], check=True)
        documents = {key: text for key, text in kind.documents(Path(folder)).items() if text}
    rows = enumerate(documents.items())
    marked = [(kind.held_out(i, key), text) for i, (key, text) in rows]
    parts = {
        part: [text for held, text in marked if held is (part == "held out")]
        for part in ("seen", "held out")
    }
    write_text(target, json.dumps(parts))
    return target


def read_kinds(corpus: Path, held_out: bool = False) -> dict[str, list[str]]:
    """Documents of every kind: those to be trained on, or those held out.

    Raises:
        ValueError: A kind is not there.
    """
    found = {}
    for name in KINDS:
        file = corpus / f"{name}.json"
        if not file.is_file():
            command = f"python experiments/lab_corpus.py --out {corpus}"
            raise ValueError(f"{file} is not there; make it with {command}")
        parts = json.loads(file.read_text("utf-8"))
        found[name] = parts["held out" if held_out else "seen"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        for name in KINDS:
            print(make(name, given.out), flush=True)
            parts = json.loads((given.out / f"{name}.json").read_text("utf-8"))
            for part, texts in parts.items():
                print(f"  {part}: {len(texts)} documents, {sum(map(len, texts)):,} characters")
    except (ValueError, OSError) as error:
        raise SystemExit(f"lab_corpus: {error}") from None


if __name__ == "__main__":
    main()
