"""`adapt`: methods become one model that works as before, at lengths it was not built for."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry
from lengthwise.extend.engine import Engine
from lengthwise.extend.layouts import Causal
from lengthwise.extend.method import (
    AXES,
    NO_ANGLES,
    Layout,
    Method,
    Scaling,
    Selector,
    Store,
    by_axis,
)
from lengthwise.extend.plan import Axes
from lengthwise.extend.scaling import OwnScaling
from lengthwise.extend.scores import ScoreEngine, bind_scores, check_fit
from lengthwise.extend.selectors import AllPages
from lengthwise.extend.stores import FullStore
from lengthwise.extend.words import write_methods, write_words
from lengthwise.hf.binding import Binding, own_config
from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.families import read_geometry, refuse_unsupported
from lengthwise.hf.other import HookBinding, kind_of

# Who may not give what others need, and what gives it.
GIVEN_BY: dict[str, Method] = {"all keys": FullStore(), "mass": AllPages()}


def compose(methods: tuple[Method, ...]) -> Axes:
    """One method for each axis: those named, then what they bring, then the identities.

    Raises:
        ValueError: If two methods fill one axis, a need cannot be met, or something is no method.
    """
    for method in methods:
        if not isinstance(method, Method):
            raise ValueError(f"adapt takes methods such as lw.YaRN(factor=4), got {method!r}")
    filled = by_axis(methods)
    for method in list(filled.values()):
        for brought in method.brings():
            filled.setdefault(brought.axis, brought)
    identities = (OwnScaling(), Causal(), AllPages(), FullStore())
    for identity in identities:
        filled.setdefault(identity.axis, identity)
    scaling, layout, selector, store = (filled[axis] for axis in AXES)
    assert isinstance(scaling, Scaling) and isinstance(layout, Layout)
    assert isinstance(selector, Selector) and isinstance(store, Store)
    if scaling.absolute and (layout != Causal() or selector.by_rank):
        mover = selector if selector.by_rank else layout
        raise ValueError(
            f"{type(scaling).__name__} gives the first tokens angles of their own, so scores do "
            f"not depend on distances alone and {type(mover).__name__} cannot move them; use "
            "start_tokens=0 or name lw.Causal()"
        )
    if selector.by_rank and layout not in (Causal(), *selector.brings()):
        raise ValueError(
            f"{type(selector).__name__} gives far keys places by their rank among those that are "
            f"read, which leaves nothing for {type(layout).__name__} to say; name no layout"
        )
    for method in filled.values():
        for need in sorted(method.needs & GIVEN_BY.keys()):
            giver = filled[GIVEN_BY[need].axis]
            if need not in giver.offers:
                raise ValueError(
                    f"{type(method).__name__} needs {need}, which {type(giver).__name__} does not "
                    f"give; use {type(GIVEN_BY[need]).__name__}"
                )
    return Axes(scaling, layout, selector, store)


def adapt(model: PreTrainedModel, *methods: Method) -> PreTrainedModel:
    """Fit methods into a transformers model, in place; `restore` takes them out again.

    Without methods the model computes what it did before, through lengthwise's attention.

    Args:
        model: A causal language model of a supported family (`lengthwise.hf.families`); or one
            without rotary positions (`lengthwise.hf.other`), which takes a scaling of its own kind
            and no other axis.
        methods: At most one for each axis, in any order.

    Raises:
        ValueError: If the model is adapted already or not supported, or the methods do not fit
            it or each other.
    """
    if is_adapted(model):
        raise ValueError("the model is adapted already; call lengthwise.restore(model) first")
    kind = kind_of(model)
    if kind is None:
        refuse_unsupported(model)
    axes = compose(methods)
    if kind is not None:
        bind_scores(model, kind, axes)
        return _carrying(model)
    check_fit(model, "rotary", axes)
    own_config(model)
    geometry = read_geometry(model)
    rotaries = [layer.rotary for i, layer in enumerate(geometry.layers) if not geometry.local(i)]
    rotary = next((one for one in rotaries if one is not None), None)
    if rotary is not None:
        axes.scaling.check_base(rotary)
        axes.layout.check_base(rotary)
        geometry = replace(geometry, window=axes.scaling.counts_from(rotary, geometry.window))
    for method in (axes.scaling, axes.layout, axes.selector, axes.store):
        method.check(geometry.window)
    axes.scaling.check_geometry(geometry)
    named = axes.layout in methods and axes.layout != Causal()
    if named and not geometry.turns and _hides_nothing(axes.layout, geometry):
        name, why = type(axes.layout).__name__, NO_ANGLES.format(geometry.family)
        raise ValueError(f"{name} would change nothing: {why}")
    Binding(model, Engine(geometry, axes))
    return _carrying(model)


def _hides_nothing(layout: Layout, geometry: Geometry) -> bool:
    """Whether a token far beyond the window sees everything before it."""
    keys = torch.arange(4 * geometry.window + 1)
    return bool(layout.reference(keys[-1:, None], keys[None])[0].all())


def _carrying(model: PreTrainedModel) -> PreTrainedModel:
    """Let what transformers saves, and Trainer and `push_to_hub` through it, carry the methods."""
    binding_of(model).methods.put("save_pretrained", _save_pretrained)
    return model


def _save_pretrained(
    self: PreTrainedModel, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
) -> Any:
    """transformers' `save_pretrained`, with the methods in config.json, in version 5's words.

    A pattern of `fit_pattern` that no file can name is left out with a warning: it is there to
    train with, and a refusal would lose what was trained.

    Raises:
        ValueError: For other methods that no file can name, and with `push_to_hub`.
    """
    binding = binding_of(self)
    engine, axes = binding.engine, None
    try:  # refused before anything is written
        write_methods(engine.to_save())
    except ValueError:
        if not getattr(engine, "for_training", False):
            raise
        axes = replace(engine.axes, layout=Causal())
        warnings.warn(
            f"{engine.axes.layout} is not written: no checkpoint can name it, and this one is "
            "loaded with attention to all tokens before",
            stacklevel=2,
        )
    if kwargs.get("push_to_hub"):
        raise ValueError(
            "save_pretrained(push_to_hub=True) of an adapted model would send it off before its "
            "methods are written; call model.push_to_hub(…)"
        )
    saved = binding.methods.before("save_pretrained")(save_directory, *args, **kwargs)
    config_file = Path(save_directory) / "config.json"
    if (args[0] if args else kwargs.get("is_main_process", True)) and config_file.exists():
        write_words(binding, config_file, axes=axes, both=False)
    return saved


def restore(model: PreTrainedModel) -> PreTrainedModel:
    """Take the methods out again: the model computes bit for bit what it did before `adapt`.

    Raises:
        ValueError: If the model is not adapted.
    """
    binding_of(model).undo(unwrapped(model))
    return model


@contextmanager
def adapted(model: PreTrainedModel, *methods: Method) -> Iterator[PreTrainedModel]:
    """`adapt` for the length of a `with` block, `restore` at its end whatever happens."""
    adapt(model, *methods)
    try:
        yield model
    finally:
        restore(model)


def new_cache(model: PreTrainedModel) -> LengthwiseCache:
    """An empty cache for an adapted model.

    Pass it as `past_key_values`, or as `cache`, which is its name since transformers 5.24.

    Raises:
        ValueError: If the model is not adapted.
    """
    return binding_of(model).new_cache()


def is_adapted(model: nn.Module) -> bool:
    """Whether `adapt` was called and `restore` was not; also of a model inside wrappers."""
    return "_lengthwise" in unwrapped(model).__dict__


def unwrapped(model: Any) -> Any:
    """The transformers model inside what peft, torch.compile and data parallelism put around it."""
    while not isinstance(model, PreTrainedModel):
        of_peft = getattr(model, "get_base_model", None)
        if callable(of_peft):
            model = of_peft()
            continue
        inside = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inside, nn.Module):
            break
        model = inside
    return model


def binding_of(model: nn.Module) -> Binding[Engine] | HookBinding[ScoreEngine]:
    """What ties an adapted model, or the one inside wrappers, to its engine.

    Raises:
        ValueError: If the model is not adapted.
    """
    if not is_adapted(model):
        raise ValueError("the model is not adapted; call lengthwise.adapt(model, …) first")
    binding = unwrapped(model).__dict__["_lengthwise"]
    assert isinstance(binding, Binding | HookBinding)
    return binding
