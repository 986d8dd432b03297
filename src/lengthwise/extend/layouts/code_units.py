"""Where the functions of a program begin, in tokens: the positions that HiRoPE works with."""

import ast
import bisect
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lengthwise.extend.method import whole
from lengthwise.hf.prompts import encode_prompt

# What grammars call the nodes that are units, and those that hold units.
FUNCTION = re.compile(
    r"(function|method|constructor|arrow_function|subroutine|procedure)"
    r"(_(definition|declaration|item|expression))?|func_literal|lambda_expression"
)
HOLDER = re.compile(
    r".*(class|struct|impl|trait|interface|module|namespace|enum|object|mod)(_\w+)?|"
    r"program|source_file|translation_unit|\w*(body|block|list|statement)|"
    r"(decorated|template|export)\w*"
)


@dataclass(frozen=True)
class CodeUnits:
    """A text of code, cut into units.

    Attributes:
        starts: Tokens at which units begin, 0 first.
        ids: The tokens `[1, n]`, as the model is to read them.
        notes: One sentence for each file that could not be parsed.
    """

    starts: tuple[int, ...]
    ids: Tensor
    notes: tuple[str, ...]


def hirope_positions(
    files: str | Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    language: str = "python",
    longest: int | None = None,
) -> CodeUnits:
    """Parse code and say at which tokens its functions begin.

    A unit is a function or method with its decorators and everything inside it, or what stands
    between two of them. A file that cannot be parsed is cut at its unindented lines instead;
    a warning and `notes` say so.

    Args:
        files: One file, or several by name, read one after the other.
        tokenizer: A fast tokenizer: it knows which characters a token covers.
        language: `python` uses Python's own parser; any other name one of tree-sitter's, from
            the package `tree-sitter-<language>`.
        longest: Tokens of the longest unit, at least 1: longer ones are cut, because places
            inside a unit should stay within the trained window. None never cuts.

    Raises:
        ValueError: For a `longest` below 1, a slow tokenizer, a language without a parser, or no
            text at all.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            "hirope_positions needs a fast tokenizer (one with character offsets), got "
            f"{type(tokenizer).__name__}"
        )
    if longest is not None:
        whole("hirope_positions", "longest", longest, 1)
    named = {"the text": files} if isinstance(files, str) else dict(files)
    text, borders, notes = "", [0], []
    for name, code in named.items():
        try:
            found = sorted(set(_borders(code, language)))
        except SyntaxError as error:
            notes.append(
                f"{name} is no valid {language} ({error}): its units are its unindented lines"
            )
            warnings.warn(notes[-1], stacklevel=2)
            found = [match.start() for match in re.finditer(r"^\S", code, re.MULTILINE)]
        borders += [len(text), *(len(text) + at for at in found)]
        text += code if code.endswith("\n") else code + "\n"
    if not text.strip():
        raise ValueError("hirope_positions got no code: the text is empty")
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids = torch.tensor([encode_prompt(tokenizer, text)])
    offsets = encoded["offset_mapping"][: ids.shape[1]]  # without what closes the text
    borders = _with_code(sorted(set(borders)), text)
    starts, last = [0], 0
    for at, (low, high) in enumerate(offsets):
        # A token that begins with the white space before a border belongs behind it.
        unit = bisect.bisect_right(borders, high - 1 if high > low else low) - 1
        if unit > last:
            starts.append(at)
            last = unit
    starts = list(dict.fromkeys(starts))
    if longest is not None:
        stops = [*starts[1:], ids.shape[1]]
        starts = [
            at
            for first, stop in zip(starts, stops, strict=True)
            for at in range(first, max(stop, first + 1), longest)
        ]
    return CodeUnits(tuple(starts), ids, tuple(notes))


def _with_code(borders: list[int], text: str) -> list[int]:
    """The borders that have words on both sides: blanks and braces join the unit before them."""
    kept = [0]
    for at in borders[1:]:
        if re.search(r"\w", text[kept[-1] : at]):
            kept.append(at)
        elif len(kept) > 1:
            kept[-1] = at
    return kept if re.search(r"\w", text[kept[-1] :]) else kept[:-1] or [0]


def _borders(code: str, language: str) -> Iterator[int]:
    """Characters at which functions begin and end.

    Raises:
        SyntaxError: If the code cannot be parsed.
    """
    if language == "python":
        yield from _python(code)
    else:
        yield from _tree_sitter(code, language)


def _python(code: str) -> Iterator[int]:
    try:
        tree = ast.parse(code)
    except ValueError as error:  # null bytes
        raise SyntaxError(str(error)) from error
    # As the parser counts lines: a form feed or U+2028 ends none.
    lines = io.StringIO(code, newline="").readlines()
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))

    def walk(body: list[ast.stmt]) -> Iterator[int]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                assert node.end_lineno is not None
                yield begins[first - 1]
                yield begins[node.end_lineno]
            else:
                for field in ("body", "orelse", "finalbody", "handlers"):
                    inner = getattr(node, field, None)
                    if isinstance(inner, list):
                        yield from walk(inner)

    yield from walk(tree.body)


def _tree_sitter(code: str, language: str) -> Iterator[int]:
    try:
        parsers: Any = import_module("tree_sitter")
        grammar: Any = import_module(f"tree_sitter_{language.replace('-', '_')}")
    except ImportError as error:
        raise ValueError(
            f"no parser for {language!r}: pip install tree-sitter tree-sitter-{language}"
        ) from error
    # A package with several grammars, such as typescript's, names each of them.
    of = getattr(grammar, "language", None) or getattr(grammar, f"language_{language}")
    source = code.encode()
    tree = parsers.Parser(parsers.Language(of())).parse(source)
    if tree.root_node.has_error:
        raise SyntaxError("tree-sitter found an error")

    def characters(byte: int) -> int:
        return len(source[:byte].decode())

    def line_of(node: Any) -> int:
        """Where the node begins, or its line if nothing stands before it there."""
        start = source.rfind(b"\n", 0, node.start_byte) + 1
        return start if not source[start : node.start_byte].strip() else int(node.start_byte)

    def walk(node: Any) -> Iterator[int]:
        for child in node.children:
            if FUNCTION.fullmatch(child.type):
                whole = node if node.type.startswith(("decorated", "template", "export")) else child
                yield characters(line_of(whole))
                end = source.find(b"\n", whole.end_byte)
                rest = source[whole.end_byte : end if end >= 0 else None]
                yield characters(whole.end_byte if rest.strip() or end < 0 else end + 1)
            elif child.is_named and HOLDER.fullmatch(child.type):
                yield from walk(child)

    yield from walk(tree.root_node)
