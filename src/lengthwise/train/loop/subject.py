"""The model that is trained: a base, its new frequencies, and what of it learns."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.checkpoint import load
from lengthwise.extend.method import Method
from lengthwise.extend.scaling import PI
from lengthwise.hf.families import read_geometry, refuse_unsupported
from lengthwise.train.loop.adapters import base_print, quantise, with_adapters
from lengthwise.train.loop.facts import Facts, sentence_ends
from lengthwise.train.loop.frequencies import Own, read_methods, stretch
from lengthwise.train.recipe import Recipe


@dataclass
class Subject:
    """A model on its way to a longer window.

    Attributes:
        model: What is called in training: the model itself, or peft's wrapper.
        inner: The transformers model inside.
        methods: Those that stay.
        own: The base's own frequencies while others stand in for them; None where methods needed
            `adapt`, or there are none.
        fingerprint: Of the base's weights.
    """

    model: nn.Module
    inner: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: Facts
    methods: tuple[Method, ...]
    own: Own | None
    fingerprint: str

    @property
    def lora(self) -> bool:
        """Whether peft holds the model."""
        return self.model is not self.inner


def open_subject(recipe: Recipe, device: torch.device) -> Subject:
    """Load the base, give it the recipe's frequencies and decide what of it learns.

    Raises:
        ValueError: If the base is scaled already, the target lies below its window, or an adapter
            belongs to another model.
    """
    dtype = recipe.dtype if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    model, tokenizer = load(recipe.base, dtype=dtype)
    refuse_unsupported(model)
    facts = read_facts(model, recipe)
    if "{ends}" in recipe.transform:
        facts = replace(facts, ends=sentence_ends(tokenizer))
    known = base_print(model)
    model.to(device)
    methods = read_methods(model, recipe, facts)
    own = stretch(model, methods)
    if recipe.tune == "full":
        model.requires_grad_(True)
        return Subject(model, model, tokenizer, facts, methods, own, known)
    if recipe.four_bit:
        quantise(model)
    wrapped = with_adapters(model, recipe, known)
    return Subject(wrapped, model, tokenizer, facts, methods, own, known)


def read_facts(model: PreTrainedModel, recipe: Recipe) -> Facts:
    """The base's window and frequencies, once it is clear that the recipe fits it.

    Args:
        model: The base, or its skeleton without weights.

    Raises:
        ValueError: If it carries methods or a scaling, or its window is beyond the target.
    """
    if is_adapted(model):
        raise ValueError(
            f"{recipe.base} carries methods of lengthwise; tune the checkpoint it was made from"
        )
    geometry = read_geometry(model)
    rotaries = [
        layer.rotary
        for index, layer in enumerate(geometry.layers)
        if layer.rotary is not None and not geometry.local(index)
    ]
    if not rotaries:
        raise ValueError(f"{recipe.base} has no layer with rotary positions to be stretched")
    own = rotaries[0]
    if own.kind != "default" and not recipe.scaled_base:
        raise ValueError(
            f"{recipe.base} is scaled already, by rope_type {own.kind!r}; tune the checkpoint it "
            "was made from, or write scaled_base=true: methods then replace its own scaling, and "
            "without methods it goes on from it"
        )
    window = geometry.window
    if recipe.methods:  # what factors count from
        window = PI(factor=1).counts_from(own, window)
    if recipe.target < window:
        raise ValueError(
            f"target must be at least the base's window of {window:,} tokens, got "
            f"{recipe.target:,}; a window needs no tuning to become shorter"
        )
    first = getattr(model.config, "bos_token_id", None)
    return Facts(window, recipe.target, own.theta, own.dim, first)


def open_reference(recipe: Recipe, device: torch.device) -> PreTrainedModel:
    """The base as it was, frozen: what a preference is held to."""
    dtype = recipe.dtype if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    model, _ = load(recipe.base, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)
