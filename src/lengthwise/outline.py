"""What a class can say without torch, whose import takes seconds: its options and their checks.

    outline("lengthwise.extend.scaling", "YaRN")(factor=0.5)    # raises what YaRN(0.5) raises

An outline is the class itself, made from its source: docstring, constants, fields, the signature of
`__call__`, and `__post_init__` with all that it calls. Everything else of it, and of its module, is
left out. So what is refused before torch is imported is refused by the same lines as afterwards.
"""

import __future__

import ast
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

CHECKS = {"__post_init__", "within"}  # the latter makes a method from a budget
LATER = __future__.annotations.compiler_flag  # annotations stay words
SOURCE = Path(__file__).parent.parent


def outline(module: str, name: str) -> Any:
    """What a module of lengthwise calls by a name: the outline of a class, or anything else whole.

    Raises:
        ImportError: If that, or a check of the class, needs more than Python itself.
    """
    return _outline(module, name, frozenset())


@cache
def _outline(module: str, name: str, also: frozenset[str]) -> Any:
    """The same, with functions `also` of a class that the checks of one above it call."""
    if not module.startswith("lengthwise"):
        if module.partition(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"{name} of {module} is not there before torch is imported")
        return getattr(import_module(module), name) if name else import_module(module)
    node, alias = _names(module)[name]
    if isinstance(node, ast.ImportFrom):
        assert node.module is not None and not node.level
        return _outline(node.module, alias, also)
    if isinstance(node, ast.Import):
        return _outline(alias, "", also)
    below: dict[str, frozenset[str]] = {}
    if isinstance(node, ast.ClassDef):
        node, used = _reduced(module, node, CHECKS | also)
        for base in map(ast.unparse, node.bases):
            below[base] = frozenset(used & _functions(module, base) - CHECKS)
    called = _called(node) & _names(module).keys() - {name}
    space = {one: _outline(module, one, below.get(one, frozenset())) for one in called}
    space["__name__"] = __name__
    exec(compile(ast.Module([node], []), str(_file(module)), "exec", LATER), space)
    return space[name]


def docstring(module: str) -> str:
    """Of a module of lengthwise; empty if it has none."""
    return ast.get_docstring(_tree(module)) or ""


def exports(module: str) -> dict[str, str]:
    """The classes and functions of a module's `__all__`, each with its docstring."""
    return {
        name: ast.get_docstring(node) or ""
        for name in outline(module, "__all__")
        if isinstance(node := _defined(module, name), ast.ClassDef | ast.FunctionDef)
    }


def _defined(module: str, name: str) -> ast.stmt:
    """The statement that gives a name what it is, in whichever module of lengthwise."""
    node, alias = _names(module)[name]
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lengthwise"):
        return _defined(node.module or "", alias)
    return node


def _file(module: str) -> Path:
    """As Python finds it: a folder without `__init__.py` (a leaving) hides no module."""
    path = SOURCE.joinpath(*module.split("."))
    return package if (package := path / "__init__.py").exists() else path.with_suffix(".py")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


@cache
def _names(module: str) -> dict[str, tuple[ast.stmt, str]]:
    """Every name at the top of a module: its statement, and what an import calls it there."""
    found: dict[str, tuple[ast.stmt, str]] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {one.asname or one.name: (node, one.name) for one in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = (node, "")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for one in (one for target in targets for one in ast.walk(target)):
                if isinstance(one, ast.Name):
                    found[one.id] = (node, "")
    return found


def _functions(module: str, name: str) -> set[str]:
    """Names of the functions of a class and of those below it."""
    node, alias = _names(module)[name]
    if isinstance(node, ast.ImportFrom):
        return _functions(node.module or "", alias)
    assert isinstance(node, ast.ClassDef)
    found = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    for base in map(ast.unparse, node.bases):
        found |= _functions(module, base) if _ours(module, base) else set()
    return found


def _reduced(module: str, node: ast.ClassDef, checks: set[str]) -> tuple[ast.ClassDef, set[str]]:
    """The class without what its options and checks do not need, and what these call."""
    functions = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
    kept: set[str] = set()
    used = set(checks)
    while wanted := used & functions.keys() - kept:
        kept |= wanted
        used |= {
            one.attr
            for name in wanted
            for one in ast.walk(functions[name])
            if isinstance(one, ast.Attribute)
        }
    body = [
        one
        for one in node.body
        if (isinstance(one, ast.Expr | ast.Assign) and _literal(one.value))
        or (isinstance(one, ast.AnnAssign) and not ast.unparse(one.annotation).startswith("Class"))
        or (isinstance(one, ast.FunctionDef) and one.name in kept)
    ]
    if "__call__" in functions:  # how it is called, not what it does
        call = functions["__call__"]
        body.append(ast.FunctionDef("__call__", call.args, [ast.Pass()], []))
    bases = [one for one in node.bases if _ours(module, ast.unparse(one))]
    reduced = ast.ClassDef(node.name, bases, [], [*body, ast.Pass()], node.decorator_list)
    return ast.fix_missing_locations(ast.copy_location(reduced, node)), used


def _ours(module: str, name: str) -> bool:
    """Whether a name in a module is something of lengthwise."""
    node = _names(module).get(name, (None, ""))[0]
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").startswith("lengthwise")
    return node is not None


def _literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _called(node: ast.stmt) -> set[str]:
    """Names that a statement reads when it is run, annotations left out."""
    words = {
        id(one)
        for part in ast.walk(node)
        for words in (getattr(part, "annotation", None), getattr(part, "returns", None))
        if words is not None
        for one in ast.walk(words)
    }
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and id(one) not in words}
