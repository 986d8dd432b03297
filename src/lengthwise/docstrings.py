"""What docstrings say, in their parts: `Source:`, `Args:` and the rest."""

import inspect
import re


def first_sentence(text: str) -> str:
    """Up to the first full stop or colon that a space follows, in one line."""
    return re.split(r"(?<=[.:])\s", " ".join(text.split()), maxsplit=1)[0]


def sections(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the sections, and every section under its title."""
    head: list[str] = []
    found: dict[str, list[str]] = {}
    lines = head
    for line in docstring.splitlines():
        title = re.match(
            r"(Source|Command|Differs from the source|Reduces to|Args|Raises):\s*(.*)", line
        )
        if title:
            lines = found.setdefault(title[1], [title[2]])
        else:
            lines.append(line)
    keep = ("Args", "Raises")
    joined = {
        name: "\n".join(body) if name in keep else " ".join(" ".join(body).split())
        for name, body in found.items()
    }
    return "\n".join(head).strip(), joined


def arguments(cls: type) -> dict[str, str]:
    """The entries of a class's `Args:` section, each in one line."""
    texts: dict[str, str] = {}
    name = ""
    block = sections(inspect.getdoc(cls) or "")[1].get("Args", "")
    for line in inspect.cleandoc("\n" + block).splitlines():
        entry = re.match(r"([\w, ]+): (.*)", line)
        if entry:
            name = entry[1]
            texts[name] = entry[2]
        elif name:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return {one.strip(): text for names, text in texts.items() for one in names.split(",")}
