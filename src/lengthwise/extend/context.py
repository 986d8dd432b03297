"""A text that was read, in a file: what a cache holds, for another question on another day."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.adapt import binding_of, unwrapped
from lengthwise.extend.engine import Engine
from lengthwise.extend.method import Method
from lengthwise.extend.words import write_methods
from lengthwise.files import whole_file
from lengthwise.hf.binding import Binding
from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.positions import Past
from lengthwise.hf.weights import fingerprint

FORMAT = 1
NAME = "lengthwise context"  # of the entry in the file's header
PLAIN = "no method"


def save_context(
    model: PreTrainedModel, cache: LengthwiseCache, file: str | os.PathLike[str]
) -> None:
    """Write what a cache holds to a safetensors file, whole or not at all, in place of an older one.

        cache = lw.new_cache(model)
        model(ids, past_key_values=cache)
        lw.save_context(model, cache, "book.safetensors")

    The file holds keys and values in the form in which the store keeps them, their positions, the
    methods and a fingerprint of the model, and no text.

    Args:
        model: The adapted model that the cache is of.

    Raises:
        ValueError: If the cache is empty, broken off or another model's, or a method has no name
            that a file can hold.
        OSError: When the disk is full, with the file; nothing is left of it.
    """  # noqa: E501
    from safetensors.torch import save_file

    binding = _binding(model)
    if not isinstance(cache, LengthwiseCache) or cache.owner is not binding:
        raise ValueError(
            "save_context takes the cache of this very model; start with "
            "lengthwise.new_cache(model)"
        )
    cache.settle()
    if not cache.get_seq_length():
        raise ValueError("the cache is empty; let the model read a text first")
    tensors: dict[str, Tensor] = {}
    held = {
        "layers": [layer.state for layer in cache.layers],
        "past": cache.past,
        "packed": cache.packed,
        "whole": cache.whole,
        "predictor": cache.predictor,
    }
    about = _about(model, binding)
    about["fingerprint"] = fingerprint(unwrapped(model))
    about["held"] = {name: _apart(thing, tensors) for name, thing in held.items()}
    with whole_file(Path(file)) as fresh:
        save_file(tensors, fresh, {NAME: json.dumps(about)})


def load_context(model: PreTrainedModel, file: str | os.PathLike[str]) -> LengthwiseCache:
    """The cache that `save_context` wrote, for a model with the same weights and methods.

        cache = lw.load_context(model, "book.safetensors")
        model(question, past_key_values=cache)

    Raises:
        ValueError: If the file is missing, damaged or something else, or of another model, method
            or type of numbers; the message says which.
    """
    binding = _binding(model)
    about, tensors = _read(Path(file))
    here = _about(model, binding)
    for what in ("family", "dtype", "methods"):
        if about[what] != here[what]:
            said = {key: _said(what, one[what]) for key, one in (("its", about), ("own", here))}
            raise ValueError(
                f"{file} was read with {said['its']}, and this model has {said['own']}; adapt the "
                "model as it was then, or read the text again"
            )
    if about["fingerprint"] != fingerprint(unwrapped(model)):
        raise ValueError(
            f"{file} was read by a model with other weights; load that one, or read the text again"
        )
    cache, held = binding.new_cache(), about["held"]
    tensors = {name: one.to(unwrapped(model).device) for name, one in tensors.items()}
    try:
        for layer, saved in zip(cache.layers, held["layers"]["list"], strict=True):
            layer.state = _together(saved, tensors, layer.state)
        past = _together(held["past"], tensors, Past())
        cache.restart(past.seen, past.lengths)
        cache.past, cache.packed, cache.whole = past, held["packed"], held["whole"]
        cache.predictor = _together(held["predictor"], tensors, None)
    except (KeyError, TypeError, AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or of another version: {error}") from error
    return cache


def _binding(model: PreTrainedModel) -> Binding[Engine]:
    binding = binding_of(model)
    if not isinstance(binding, Binding):
        raise ValueError("this model keeps no cache of lengthwise's; contexts are of causal models")
    return binding


def _about(model: PreTrainedModel, binding: Binding[Engine]) -> dict[str, Any]:
    """What must be the same, in the order in which it is looked at, as JSON has it."""
    engine, inner = binding.engine, unwrapped(model)
    about = {
        "format": FORMAT,
        "family": engine.geometry.family,
        "dtype": str(inner.dtype).removeprefix("torch."),
        "methods": write_methods(engine.to_save()),
    }
    whole: dict[str, Any] = json.loads(json.dumps(about))
    return whole


def _said(what: str, value: Any) -> str:
    if what == "methods":
        words = []
        for entry in value:
            options = ", ".join(f"{k}={v}" for k, v in entry.items() if k != "method")
            words.append(f"{entry['method']}({options})")
        return " + ".join(words) or PLAIN
    return f"numbers of the type {value}" if what == "dtype" else f"a model of the family {value}"


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            words = (opened.metadata() or {}).get(NAME)
            # Copies: a file that is mapped could change under them.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except OSError as error:
        raise ValueError(f"cannot read a context from {file}: {error}") from error
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated, or no safetensors file: {error}") from error
    if words is None:
        raise ValueError(f"{file} holds no context; write one with lengthwise.save_context")
    about: dict[str, Any] = json.loads(words)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{file} holds a context of format {about.get('format')!r}; this version reads {FORMAT}"
        )
    return about, tensors


# What states are made of: tensors, numbers, collections, and objects of this package with these
# in their attributes. Methods are not written twice: a fresh state has them.


def _apart(thing: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON, with the names of tensors, which are put into `tensors`."""
    if isinstance(thing, Tensor):
        one = thing.detach().contiguous()
        at = one.untyped_storage().data_ptr()
        if any(other.untyped_storage().data_ptr() == at for other in tensors.values()):
            one = one.clone()  # a file holds everything once
        name = f"{len(tensors):06}"
        tensors[name] = one
        return {"tensor": name}
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, torch.dtype):
        return {"dtype": str(thing).removeprefix("torch.")}
    if isinstance(thing, Method):
        return {"method": type(thing).__name__}
    kind = type(thing)
    if kind in (list, tuple, set):
        return {kind.__name__: [_apart(one, tensors) for one in thing]}
    assert kind.__module__.startswith("lengthwise."), f"no file can hold a {kind.__name__}"
    parts = thing._asdict() if isinstance(thing, tuple) else thing.__getstate__() or {}  # type: ignore[attr-defined]
    named = {name: _apart(one, tensors) for name, one in parts.items()}
    return {"class": [kind.__module__, kind.__qualname__], "parts": named}


def _together(saved: Any, tensors: dict[str, Tensor], fresh: Any) -> Any:
    """What `_apart` was given.

    Args:
        fresh: What stands in its place in a new cache.
    """
    if not isinstance(saved, dict):
        return saved
    if "tensor" in saved:
        return tensors[saved["tensor"]]
    if "method" in saved:
        if type(fresh).__name__ != saved["method"]:
            raise ValueError(f"no {saved['method']} is there")
        return fresh
    if "dtype" in saved:
        return getattr(torch, saved["dtype"])
    for kind in (list, tuple, set):
        if kind.__name__ in saved:
            return kind(_together(one, tensors, None) for one in saved[kind.__name__])
    module, name = saved["class"]
    if not module.startswith("lengthwise."):
        raise ValueError(f"{module} is no part of lengthwise")
    made = getattr(importlib.import_module(module), name)
    parts = {
        key: _together(one, tensors, getattr(fresh, key, None))
        for key, one in saved["parts"].items()
    }
    if issubclass(made, tuple):
        return made(**parts)
    whole = fresh if type(fresh) is made else object.__new__(made)
    for key, one in parts.items():
        object.__setattr__(whole, key, one)  # some are frozen
    return whole
