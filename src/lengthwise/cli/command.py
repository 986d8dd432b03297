"""A command and how its help looks."""

import re
from typing import Any

from typer.core import TyperCommand

from lengthwise.cli.inputs import MOST


class Command(TyperCommand):
    """A command whose help shows its options under the headings (panels) that they name."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] MODEL [NAME]`: what may be left out stands in brackets."""
        pieces = ["[OPTIONS]"]
        for one in self.get_params(ctx):
            if one.param_type_name == "argument":
                words = _metavar(one)
                pieces.append(words if one.required or words.startswith("[") else f"[{words}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then every panel in the order of its first option."""
        panels: dict[str, list[Any]] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                panel = getattr(one, "rich_help_panel", None) or f"{one.param_type_name}s".title()
                name = _metavar(one) if one.param_type_name == "argument" else record[0]
                panels.setdefault(panel, []).append((name, _ranged(record[1])))
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _ranged(words: str) -> str:
    """The help without an upper bound that nobody will meet."""
    words = re.sub(rf"(\d+)<=x<={MOST}|x>=(\d+)(\.0)?", r"\1\2 or more", words)
    words = re.sub(
        rf"(; )?x<={MOST}(; )?", lambda found: "; " if all(found.groups()) else "", words
    )
    return words.replace("  []", "")
