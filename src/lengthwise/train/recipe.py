"""What a tuning run does, in one frozen dataclass: written in Python, in TOML, or by name.

    read_recipe("pose", ["base=demo", "target=2048"])
    read_recipe("mine.toml")                            # may begin with extends = "pose"
    read_recipe("mine.py:recipe")                       # a function that returns a Recipe

Methods, transforms, layouts and objectives are written as `name:option=value,option=value`, as on
the command line of `lengthwise run`. In these, `{window}`, `{target}`, `{factor}`, `{theta}` and
`{rope_base}` stand for numbers that are known once the base model is.
"""

import dataclasses
import inspect
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from lengthwise.catalogue import pieces
from lengthwise.catalogue import room as methods
from lengthwise.specs import READERS, hint, pairs, read
from lengthwise.train.named import check

CHOICES = {
    "documents": ("joined", "apart"),
    "weigh": ("tokens", "documents"),
    "tune": ("full", "lora"),
    "optimizer": ("adamw", "sgd", "momentum"),
    "schedule": ("constant", "linear", "cosine"),
    "precision": ("no", "bf16", "fp16"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
}
MOST = 1 << 31
# Whole numbers, from and to.
RANGES = {
    "target": (0, MOST), "length": (0, MOST), "rank": (1, 1 << 16), "warmup": (0, MOST),
    "steps": (1, 10**7), "step_tokens": (1, MOST), "rows": (1, 1 << 20), "seed": (0, MOST),
    "save_every": (1, MOST), "evaluate_every": (0, MOST), "texts": (1, 10**4),
    "passkeys": (0, 10**4),
}  # fmt: skip
OF_ADAPTERS = ("rank", "alpha", "dropout", "adapt")
ALSO = ("embeddings", "norms", "head")


@dataclass(frozen=True)
class Recipe:
    """One way to tune a model to a longer window.

    Args:
        about: One sentence for `lengthwise train --list`.
        source: The paper that it follows.
        base: A checkpoint's directory, a name on the hub, or `demo`.
        adapter: A directory with a peft adapter of that base to go on from; empty starts fresh.
        scaled_base: Whether the base may carry a rotary scaling already: methods replace it, and
            without methods this goes on from it.
        data: A directory of `lengthwise pack` or `datasets`, or text as `lengthwise pack` reads it.
        target: Tokens of the window that is wanted, at least the base's own.
        length: Tokens of a row in training; 0 is the target, or with a transform what that wants.
        methods: Scalings that stay: they are in the checkpoint that comes out.
        transform: A class of `lengthwise.train.tuning` that gives rows positions.
        layout: A class of `lengthwise.train.patterns`: attention in training, dense afterwards.
        objective: A class of `lengthwise.train.objectives` or `.tuning`, instead of the loss of the
            next token.
        documents: `joined`: attention and positions go through a packed row; `apart`: they do not.
        weigh: In the loss, all `tokens` count the same, or all `documents`.
        mixed_window: Rows within the base's window are read with its own frequencies, longer ones
            with those of `methods` (LongRoPE2); a step holds rows of one kind.
        short_share: Of the steps, those with rows of the base's window, from 0 to 1.
        tune: `full`: all weights; `lora`: adapters, and what `also` names.
        rank, alpha, dropout: Of the adapters.
        adapt: Names of the linear layers that get adapters; none means all below the head.
        also: What is trained as a whole beside the adapters: embeddings, norms, head.
        four_bit: Whether the frozen base is held in 4 bits (QLoRA); with `tune = "lora"`.
        optimizer: adamw, sgd or momentum.
        learning_rate: At its highest, above 0.
        betas: Of AdamW.
        weight_decay: On matrices, at least 0.
        clip: The gradient's largest norm; 0 leaves it alone.
        schedule: constant, linear (to 0) or cosine (to 0), after `warmup` steps.
        steps: Optimizer steps.
        step_tokens: Tokens of one step over all rows, micro-batches and processes.
        rows: Of a micro-batch; the rest is gradient accumulation.
        precision: Of mixed-precision arithmetic: no, bf16 or fp16.
        dtype: Of the weights in memory; `auto` is the checkpoint's own.
        checkpointing: Whether layers are computed again going back.
        memory: Methods of `lengthwise.train.memory`, such as `streambp:chunk=2048+tiledloss`.
        seed: Of adapters, rows, transforms and dropout.
        save_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations; 0 is at the start and the end alone.
        evaluate_lengths: Tokens; none means from the base's window to the target, doubling.
        evaluate_text: A file; empty is the held-out part of Python's standard library.
        texts, passkeys: Texts and passkeys of an evaluation at each length.

    Raises:
        ValueError: If a value is of another type or out of its range.
    """

    about: str = ""
    source: str = ""
    base: str = ""
    adapter: str = ""
    scaled_base: bool = False
    data: str = ""
    target: int = 0
    length: int = 0
    methods: str = ""
    transform: str = ""
    layout: str = ""
    objective: str = ""
    documents: str = "joined"
    weigh: str = "tokens"
    mixed_window: bool = False
    short_share: float = 0.0
    tune: str = "full"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    adapt: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    four_bit: bool = False
    optimizer: str = "adamw"
    learning_rate: float = 2e-5
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: str = "constant"
    warmup: int = 20
    steps: int = 1000
    step_tokens: int = 1 << 19
    rows: int = 1
    precision: str = "no"
    dtype: str = "float32"
    checkpointing: bool = False
    memory: str = ""
    seed: int = 0
    save_every: int = 50
    evaluate_every: int = 0
    evaluate_lengths: tuple[int, ...] = ()
    evaluate_text: str = ""
    texts: int = 4
    passkeys: int = 4

    def __post_init__(self) -> None:
        for name, value in self.settings().items():
            _check_type(name, value)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = ", ".join(choices)
                raise ValueError(f"{name} must be one of {wanted}, got {getattr(self, name)!r}")
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must be at least {least} and at most {most:,}, got "
                    f"{getattr(self, name)}"
                )
        for name in ("alpha", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.short_share <= 1:
            raise ValueError(f"short_share must be from 0 to 1, got {self.short_share}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {self.betas}")
        for name in self.also:
            if name not in ALSO:
                raise ValueError(f"also must name {', '.join(ALSO)}, got {name!r}")
        if not all(2 <= length <= MOST for length in self.evaluate_lengths):
            raise ValueError(
                f"evaluate_lengths must be at least 2 and at most {MOST:,}, got "
                f"{self.evaluate_lengths}"
            )
        self._check_together()

    def _check_together(self) -> None:
        if self.tune == "full":
            for name in ("also", "adapter", "four_bit"):
                if getattr(self, name):
                    raise ValueError(f'{name} goes with tune = "lora"; tune = "full" trains all')
            self._leave_out(OF_ADAPTERS, 'tune = "full" has no adapters; write tune = "lora"')
        if self.optimizer != "adamw":
            self._leave_out(("betas",), f"{self.optimizer} has none; they are AdamW's")
        if self.objective:
            self._leave_out(("weigh",), "an objective weighs tokens itself")
            if "tiledloss" in self.memory.lower():
                raise ValueError(
                    "tiledloss is for the loss of the next token, and an objective makes its own; "
                    "leave one of the two out"
                )
        if self.weigh == "documents" and "tiledloss" in self.memory.lower():
            raise ValueError(
                'tiledloss counts all tokens the same; leave it out with weigh = "documents"'
            )
        if self.mixed_window and not self.methods:
            raise ValueError(
                "mixed_window needs methods: the frequencies of rows beyond the base's window"
            )

    def _leave_out(self, names: Sequence[str], why: str) -> None:
        """Raise ValueError for a key that says something and would not be read."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                raise ValueError(f"{field.name}={value!r} would not be read: {why}")

    def settings(self) -> dict[str, Any]:
        """Every field by its name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def ready(self) -> None:
        """Raise ValueError unless base, data and target are given and all parts can be built."""
        for name, example in (("base", "demo"), ("data", "FOLDER"), ("target", "32768")):
            if not getattr(self, name):
                raise ValueError(f"the recipe has no {name}; give it, as in {name}={example}")
        for words in pieces(self.methods) if self.methods else ():
            methods().check(words)
        for kind in ("transform", "layout", "objective", "memory"):
            if getattr(self, kind):
                check(kind, getattr(self, kind))


KINDS = typing.get_type_hints(Recipe)


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A named recipe, a TOML file or a function in a file of Python, with `key=value` on top.

    Raises:
        ValueError: If there is no such recipe or key, or a value does not fit.
    """
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        recipe = _from_python(Path(path), function)
    elif name.endswith(".toml"):
        recipe = from_toml(Path(name))
    else:
        recipe = named(name)
    given = pairs(name, overrides, "what is to differ from the recipe as key=value", empty=True)
    for key in given:
        known_key(key)
    changes = {key: read(key, _kind(key), words) for key, words in given.items()}
    return dataclasses.replace(recipe, **changes)


def named(name: str) -> Recipe:
    """A recipe of `lengthwise.train.recipes`.

    Raises:
        ValueError: If there is none of that name; the message says the nearest.
    """
    from lengthwise.train.recipes import RECIPES

    if name in RECIPES:
        return RECIPES[name]
    every = f"recipes: {', '.join(RECIPES)}, or a file as mine.toml or mine.py:function"
    raise ValueError(f"no recipe {name!r}; {hint(name, RECIPES, every)}")


def from_toml(path: Path) -> Recipe:
    """A recipe from TOML; with `extends` it begins with a named one.

    Raises:
        ValueError: If it is no TOML, or has an unknown key or a value of another type.
    """
    if not path.is_file():
        raise ValueError(f"there is no recipe {path}")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    start = found.pop("extends", None)
    try:
        if start is not None and not isinstance(start, str):
            raise ValueError(f"extends must be the name of a recipe, got {start!r}")
        return replaced(Recipe() if start is None else named(start), found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def replaced(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, as TOML and JSON hold them: lists for tuples."""
    for key in changes:
        known_key(key)
    tuples: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()
    }
    return dataclasses.replace(recipe, **tuples)


def known_key(key: str) -> None:
    """Raise ValueError for a key that recipes lack, with the nearest that they have."""
    if key not in KINDS:
        rest = hint(key, KINDS, f"its keys: {', '.join(KINDS)}")
        raise ValueError(f"a recipe has no key {key!r}; {rest}")


def _from_python(path: Path, function: str) -> Recipe:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(f"{path} has no function {function!r}")
    recipe = make()
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"{path}:{function} must return a lengthwise.train.Recipe, got {type(recipe).__name__}"
        )
    return recipe


def _check_type(name: str, value: Any) -> None:
    kind = KINDS[name]
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        good = number and math.isfinite(value)
    elif kind is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    elif kind in (bool, str):
        good = isinstance(value, kind)
    else:
        item = typing.get_args(kind)[0]
        allowed = (int, float) if item is float else item
        good = isinstance(value, tuple) and all(isinstance(one, allowed) for one in value)
    if not good:
        raise ValueError(f"{name} must be {READERS[_kind(name)][1]}, got {value!r}")


def _kind(key: str) -> str:
    return inspect.formatannotation(KINDS[key])
