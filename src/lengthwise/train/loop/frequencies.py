"""The frequencies that a model is tuned with, in transformers' own words wherever it has them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lengthwise.catalogue import parse_many
from lengthwise.extend.adapt import adapt, binding_of, restore
from lengthwise.extend.layouts import Causal
from lengthwise.extend.method import Method, Scaling
from lengthwise.extend.plan import Axes
from lengthwise.extend.scaling import LongRoPE2
from lengthwise.extend.scaling.frequencies import unscaled
from lengthwise.extend.selectors import AllPages
from lengthwise.extend.stores import FullStore
from lengthwise.hf.families import decoder, read_geometry
from lengthwise.train.loop.facts import Facts
from lengthwise.train.recipe import Recipe


def read_methods(model: PreTrainedModel, recipe: Recipe, facts: Facts) -> tuple[Method, ...]:
    """The methods that stay; with `mixed_window`, beside the base's own frequencies."""
    if not recipe.methods:
        return ()
    methods = parse_many(facts.fill(recipe.methods))
    others = [type(method).__name__ for method in methods if method.axis != "scaling"]
    if others:
        raise ValueError(
            f"methods are scalings, which stay in the checkpoint; {', '.join(others)} is none: "
            "adapt the tuned checkpoint with it"
        )
    if not recipe.mixed_window or isinstance(methods[0], LongRoPE2):
        return methods
    geometry = read_geometry(model)
    base = next(layer.rotary for layer in geometry.layers if layer.rotary is not None)
    assert isinstance(methods[0], Scaling)
    methods[0].check_base(base)
    long = methods[0].rotary(base, geometry.window, torch.tensor([facts.target]))
    factors = (unscaled(base) / long.inv_freq.flatten().cpu()).tolist()
    sharp = float(torch.as_tensor(long.attention_factor).flatten()[0])
    return (LongRoPE2(tuple(factors), facts.target / facts.window, sharp),)


@dataclass(frozen=True)
class Own:
    """What the base says of its positions, while other frequencies stand in for its own."""

    rotary: nn.Module
    parameters: dict[str, Any]
    window: int

    def give_back(self, model: PreTrainedModel) -> None:
        """Let the model have its own frequencies again."""
        decoder(model).rotary_emb = self.rotary
        model.config.rope_parameters = self.parameters
        model.config.max_position_embeddings = self.window


def stretch(model: PreTrainedModel, methods: tuple[Method, ...]) -> Own | None:
    """Give the model its new frequencies; what it said of its own, if transformers has words.

    What transformers can say in `rope_parameters` is trained by transformers' own fast attention.
    Everything else is trained as `adapt` runs it.
    """
    if not methods:
        return None
    adapt(model, *methods)
    engine = binding_of(model).engine
    axes, geometry = engine.axes, engine.geometry
    alone = axes == Axes(axes.scaling, Causal(), AllPages(), FullStore())
    mixed = any(geometry.local(index) for index in range(len(geometry.layers)))
    base = next(layer.rotary for layer in geometry.layers if layer.rotary is not None)
    plain = axes.scaling.rope_parameters(base, geometry.window) if alone and not mixed else None
    if plain is None:
        return None
    restore(model)
    config, below = model.config, decoder(model)
    rotary: Any = below.rotary_emb
    own = Own(rotary, config.rope_parameters, config.max_position_embeddings)
    kept = ("partial_rotary_factor",)
    old = {key: value for key, value in own.parameters.items() if key in kept}
    config.rope_parameters = {**plain, **old}
    config.max_position_embeddings = max(axes.scaling.reach(geometry.window), geometry.window)
    below.rotary_emb = type(rotary)(config=config).to(model.device)
    return own
