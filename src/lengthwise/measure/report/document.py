"""The frame of a report: one HTML file that needs nothing else."""

from html import escape
from pathlib import Path

from lengthwise.files import write_text
from lengthwise.measure.report.style import STYLE


def document(title: str, body: str, style: str = STYLE) -> str:
    """A whole page around its body; the title is plain text, the style CSS."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing may be fetched: the browser enforces what the report promises.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def section(title: str, what: str, *content: str) -> str:
    """A card with a heading and a sentence on what it shows; all of it HTML."""
    return f'<section><h2>{title}</h2><p class="what">{what}</p>{"".join(content)}</section>'


def figure(drawing: str, caption: str) -> str:
    """A drawing over the whole width with its caption, which is HTML."""
    return f'<figure class="wide">{drawing}</figure><figcaption>{caption}</figcaption>'


def write_page(path: Path, page: str) -> None:
    """Write a page; a file that is there already is replaced as a whole."""
    # A reply may hold half of a character, which UTF-8 cannot say.
    write_text(path, page.encode(errors="replace").decode())
