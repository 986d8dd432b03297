"""Every fenced block of README.md, CONTRIBUTING.md and docs/ does what it says.

Python blocks run in the order of the page in one namespace, shell blocks run between them in the
same empty folder. `make` lines are only checked to name a target. A block that must not run (it
trains, downloads or waits) is headed by `<!-- not run: reason -->`; its names are still checked.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from tests import forked

from lengthwise.cli import main
from lengthwise.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

SHELL = {"console", "sh"}
SHOWN = {"text", "json", "jsonl", "toml", "html", "mermaid", "makefile"}  # nothing to run
SHOWN |= {"{eval-rst}", "{toctree}"}  # words to the site's builder
FENCE = re.compile(r"^( *)(`{3,})([\w{}-]*)[^\n`]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
EXEMPT = re.compile(r"<!-- not run: \S.*-->\s*\Z")

# What pip installed beside this interpreter; not resolved, for it may be a link.
COMMAND = Path(sys.executable).parent / "lengthwise"


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int  # of the first line of code, from 1
    runs: bool


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page in Markdown."""
    found = []
    for match in FENCE.finditer(text):
        indent, _, language, code = match.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(language, code, line, not EXEMPT.search(text[: match.start()])))
    return found


def commands_of(code: str) -> list[str]:
    """The commands of a shell block: prompts and continuations joined, output and remarks gone."""
    lines = code.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def run(command: str, folder: Path) -> str:
    """Run a line of `lengthwise` in a process of its own; what is wrong, or nothing."""
    words, log = shlex.split(command, comments=True), folder / ".log"
    assert not re.search("[|<>;&$`*]", " ".join(words)), "a line for a shell is not run here"

    def work() -> None:
        os.chdir(folder)
        os.environ["COLUMNS"] = "200"  # wide, or help texts are cut
        sys.argv = words
        main()

    status = forked.run(work, log)
    said = log.read_text(encoding="utf-8")
    log.unlink()
    return "" if status == 0 else f"{command} ended with {status}\n{said}"


def check_make(command: str) -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = command.split("#")[0].split()[1:]
    for target in (word for word in words if "=" not in word and not word.startswith("-")):
        assert re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE), f"no target {target}"


def check_lengthwise(command: str) -> None:
    """A line that is not run names a command, a subcommand and options that exist."""
    here = typer.main.get_command(app)
    words = shlex.split(command, comments=True)[1:]
    name = "lengthwise"
    while hasattr(here, "commands"):
        assert words and words[0] in here.commands, f"{name} has no command {words[:1]}"
        here, name = here.commands[words[0]], f"{name} {words.pop(0)}"
    known = {"--help"}.union(*([*x.opts, *x.secondary_opts] for x in here.params))
    for option in (word.partition("=")[0] for word in words if re.match("--?[a-z]", word)):
        assert option in known, f"{name} has no option {option}"


def run_shell(block: Block, folder: Path) -> None:
    for command in commands_of(block.code):
        if command.startswith("make "):
            check_make(command)
        elif command.startswith("lengthwise ") and not block.runs:
            check_lengthwise(command)
        elif command.startswith("lengthwise "):
            wrong = run(command, folder)
            assert not wrong, wrong
        else:
            assert not block.runs, f"{command!r}: mark the block <!-- not run: reason -->"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            # The empty lines make a traceback name the line of the page.
            program = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            if block.runs:
                exec(program, namespace)
        elif block.language in SHELL:
            try:
                run_shell(block, tmp_path)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from None
        else:
            assert block.language in SHOWN, f"{where}: unknown language {block.language!r}"


def test_a_line_that_fails_is_noticed(tmp_path: Path) -> None:
    wrong = run("lengthwise methods yran", tmp_path)
    assert "ended with 2" in wrong and "unknown method 'yran'" in wrong
    assert run("lengthwise methods yarn  # a remark", tmp_path) == ""


def test_pip_installs_the_command() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lengthwise ")


def test_the_readme_has_something_to_run() -> None:
    blocks = blocks_of(README.read_text(encoding="utf-8"))
    assert any(block.language == "python" and block.runs for block in blocks)
    assert any(block.language in SHELL for block in blocks)


def test_blocks_are_found_with_their_lines_and_reasons() -> None:
    page = "# A\n\n```python\nx = 1\n```\n\n<!-- not run: slow -->\n```sh\nmake demo\n```\n"
    assert blocks_of(page) == [
        Block("python", "x = 1\n", 4, True),
        Block("sh", "make demo\n", 9, False),
    ]
    assert blocks_of("<!-- not run: -->\n```sh\nls\n```\n")[0].runs  # a reason must be given


def test_commands_are_told_from_output() -> None:
    assert commands_of("$ lengthwise methods \\\n    yarn\nYaRN\n") == [
        "lengthwise methods      yarn"
    ]
    assert commands_of("# a remark\nmake demo\n\nmake test\n") == ["make demo", "make test"]


def test_a_target_that_does_not_exist_is_noticed() -> None:
    check_make("make demo PYTHON=python3.12  # a remark")
    with pytest.raises(AssertionError, match="no target fly"):
        check_make("make fly")


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("lengthwise measur demo", "no command"),
        ("lengthwise lab", "no command"),
        ("lengthwise lab reproduc", "no command"),
        ("lengthwise lab reproduce --widow 4", "reproduce has no option --widow"),
        ("lengthwise measure demo -q", "no option -q"),
    ],
)
def test_a_command_or_option_that_does_not_exist_is_noticed(command: str, wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        check_lengthwise(command)
    check_lengthwise("lengthwise measure demo --lengths 4096  # and so on")
