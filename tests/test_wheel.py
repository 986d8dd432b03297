"""What `pip install` brings: the built wheel, away from the checkout, with all that it needs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python(*arguments: str, cwd: Path, path: str | None = None) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = path
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_the_model_and_the_commands(tmp_path: Path) -> None:
    options = ("--no-deps", "--disable-pip-version-check", "-q")
    python(
        "-m", "pip", "wheel", *options, "--no-build-isolation", "-w", str(tmp_path), str(ROOT),
        cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("lengthwise-*.whl")
    there = tmp_path / "there"
    python("-m", "pip", "install", *options, "--target", str(there), str(wheel), cwd=tmp_path)
    where = python(
        "-c", "import lengthwise; print(lengthwise.__file__)", cwd=tmp_path, path=str(there)
    )
    assert Path(where.strip()).is_relative_to(there)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(
        "The passkey is 48213. Remember it: 48213 is the passkey.\n" + "x = 1\n" * 200, "utf-8"
    )
    said = python(
        "-m", "lengthwise", "run", "demo", "--method", "selfextend:group=16,window=128",
        "--prompt-file", str(prompt), "--question", "What is the passkey? The passkey is",
        "--max-new-tokens", "6", cwd=tmp_path, path=str(there),
    )  # fmt: skip
    assert "48213" in said
