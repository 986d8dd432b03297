"""Pages: one HTML file each that needs nothing else, from templates.

A template is named by its path in this package and extends `html/page.html`, the frame of all
pages with the style sheet. What is put into a template is escaped, unless it says `safe`.
"""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lengthwise.files import write_text


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("lengthwise", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"grouped": grouped, "breakable": breakable}
    return made


def grouped(number: int) -> str:
    """1,024."""
    return f"{number:,}"


def breakable(name: str) -> Markup:
    """A name that may break where its settings begin."""
    return Markup(str(escape(name)).replace(":", ":<wbr>").replace(",", ",<wbr>"))


def page(template: str, **values: Any) -> str:
    """A page as text."""
    return _environment().get_template(template).render(values)


def drawing_style() -> str:
    """The rules of the style sheet that drawings need, in light colours."""
    light, dark = page("html/style.css").split("@media (prefers-color-scheme: dark)", 1)
    rules = [line for line in dark.splitlines() if line.startswith("svg")]
    return "\n".join([light.replace("light dark", "light"), *rules])


def write_page(path: Path, text: str) -> None:
    """Write a page; a file that is there already is replaced as a whole."""
    # A reply may hold half of a character, which UTF-8 cannot say.
    write_text(path, text.encode(errors="replace").decode())
