"""Make the evidence of claims again: measured here, or by a script of experiments/."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import lengthwise
from lengthwise.lab import evidence
from lengthwise.lab.claims import Claim
from lengthwise.lab.evidence import Evidence

HEADS = "measure/positional_heads"
SCRIPTS = Path(lengthwise.__file__).parents[2] / "experiments"


def check(chosen: Sequence[Claim], passkeys: int | None, samples: int | None) -> None:
    """Refuse what cannot be made, before torch is imported.

    Raises:
        ValueError: A script that is not there, or numbers of items for what has its own.
    """
    for claim in chosen:
        if claim.script and not (SCRIPTS / claim.script[0]).is_file():
            raise ValueError(f"{claim.name} is made by experiments/{claim.script[0]}, which comes "
                             "with the sources and not with an installed package")  # fmt: skip
        if (claim.script or claim.name == HEADS) and (passkeys or samples):
            raise ValueError(f"{claim.name} has numbers of items of its own; leave out --passkeys "
                             "and --samples")  # fmt: skip


def reproduce(
    chosen: Sequence[Claim],
    root: Path,
    *,
    passkeys: int | None = None,
    samples: int | None = None,
) -> Iterator[Evidence]:
    """Make and write the evidence of every claim, those that are measured here first.

    Raises:
        ValueError: As `check`, and for a script that fails.
        KeyboardInterrupt: Passed on; the same call goes on where it was.
    """
    check(chosen, passkeys, samples)
    measured = [claim for claim in chosen if not claim.script and claim.name != HEADS]
    if measured:
        from lengthwise.lab.extension import judged, measure

        systems = [claim.system for claim in measured]
        results = measure(systems, root, passkeys=passkeys, samples=samples)
        for claim in measured:
            found = judged(claim, results)
            evidence.write(root, found)
            yield found
    for claim in chosen:
        if claim.name == HEADS:
            from lengthwise.lab.heads import of_the_bundled_model

            found = of_the_bundled_model()
            evidence.write(root, found)
            yield found
        elif claim.script:
            yield by_script(claim, root)


def by_script(claim: Claim, root: Path) -> Evidence:
    """Run the script, which shows its own progress, and read what it wrote.

    Raises:
        ValueError: It fails, or writes nothing.
    """
    file, *arguments = claim.script
    place = evidence.place(root, claim.name)
    before = place.stat().st_mtime_ns if place.exists() else 0
    command = [sys.executable, str(SCRIPTS / file), *arguments, "--evidence", str(root)]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ValueError(f"experiments/{file} ended with status {status}; what it says is above")
    if not place.exists() or place.stat().st_mtime_ns == before:
        raise ValueError(f"experiments/{file} wrote no {place}; what it says is above")
    return evidence.load(place)
