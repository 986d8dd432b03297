"""`lengthwise methods`: what there is, and everything about one of them."""

from typing import TYPE_CHECKING, Annotated

import typer

from lengthwise.cli.listing import indented

if TYPE_CHECKING:
    from lengthwise.catalogue import Description

NAME_HELP = "A method, to be described in full; case and punctuation do not matter."


def methods(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP, show_default=False)] = "",
) -> None:
    """List the methods, or describe one."""
    from lengthwise import catalogue

    if name:
        print(_in_full(catalogue.describe(name)))
        return
    names = [one for one in catalogue.room().homes if one not in catalogue.INTERNAL]
    described = [catalogue.describe(one) for one in names]
    for axis in catalogue.AXES:
        print(f"{axis.capitalize()}: {_lower(catalogue.about(axis))}")
        for one in (one for one in described if one.axis == axis):
            print(indented(f"  {one.name:<15}", one.summary))
            print(indented(" " * 17, one.example))
        print()
    print("At most one for each axis; join them with +, as in --method yarn:factor=8+streamingllm")
    print("All about one of them: lengthwise methods NAME")


def _in_full(method: "Description") -> str:
    parts = [f"{method.name} ({method.axis})", ""]
    for paragraph in method.details.split("\n\n"):
        parts += [indented("  ", " ".join(paragraph.split())), ""]
    for title, text in (
        ("Source", method.source),
        ("Differs from the source", method.differs),
        ("Reduces to", method.reduces),
    ):
        if text:
            parts += [indented(f"  {title}: ", text, hang=4), ""]
    if method.options:
        width = max(len(option.name) for option in method.options)
        parts.append("  Options")
        for option in method.options:
            default = "" if option.default is None else f" Default {option.default}."
            parts.append(indented(f"    {option.name:<{width}}  ", option.text + default))
        parts.append("")
    arguments = method.example.partition(":")[2].replace(",", ", ")
    parts.append(f"  --method {method.example}")
    parts.append(f"  lw.adapt(model, lw.{method.name}({arguments}))")
    return "\n".join(parts)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].strip()
