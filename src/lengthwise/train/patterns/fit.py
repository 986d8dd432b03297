"""Fit a pattern to a decoder: a layout for each layer and head."""

from dataclasses import replace

from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapt, binding_of
from lengthwise.extend.engine import Engine
from lengthwise.extend.method import Layout, Method
from lengthwise.extend.plan import Groups, Several
from lengthwise.hf.binding import Binding
from lengthwise.train.patterns.pattern import Pattern


def fit_pattern(
    model: PreTrainedModel, pattern: Pattern | Layout, *methods: Method
) -> PreTrainedModel:
    """`lengthwise.adapt` with a pattern in the place of the layout, in place; `restore` undoes it.

    Where a layer's layout never reads far keys again, its cache is a ring that holds no more than
    it reads, unless a method for the store or the selector is given.

    Args:
        model: As for `adapt`, with rotary positions.
        pattern: One layout for all layers and heads, or a `Pattern`.
        methods: For the other axes.

    Raises:
        ValueError: As `adapt`; and if a method is a layout too, or the pattern does not fit the
            model's layers or heads.
    """
    if not isinstance(pattern, Pattern | Layout):
        raise ValueError(f"a pattern is a Layout or a Pattern, got {pattern!r}")
    others = [type(method).__name__ for method in methods if isinstance(method, Layout)]
    if others:
        raise ValueError(
            f"{others[0]} and {type(pattern).__name__} both say which keys are seen; choose one"
        )
    adapt(model, *methods, *([pattern] if isinstance(pattern, Layout) else []))
    binding = binding_of(model)
    if not isinstance(binding, Binding):
        binding.undo(model)
        raise ValueError(
            f"{model.config.model_type} has no rotary positions; patterns are for models with them"
        )
    axes, geometry = binding.engine.axes, binding.engine.geometry
    if isinstance(pattern, Layout):
        groups: list[Groups] = [[(range(geometry.heads), pattern)]] * len(geometry.layers)
    else:
        try:
            groups = pattern.parts(len(geometry.layers), geometry.heads)
        except ValueError:
            binding.undo(model)
            raise
        layouts = dict.fromkeys(layout for mine in groups for _, layout in mine)
        axes = replace(axes, layout=Several(repr(pattern), tuple(layouts)))
    binding.engine = Engine(geometry, axes, groups)
    return model
