"""What comes out of a run: a checkpoint for plain transformers, and the adapter beside it."""

import json
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapt, is_adapted, restore
from lengthwise.extend.checkpoint import save
from lengthwise.files import whole_directory
from lengthwise.train.loop.adapters import BASE_FILE, dequantise
from lengthwise.train.loop.subject import Subject
from lengthwise.train.places import ADAPTER, MODEL
from lengthwise.train.recipe import Recipe


def write_result(subject: Subject, recipe: Recipe, folder: Path) -> str:
    """Write `folder/model`, and `folder/adapter` where peft trained; the subject is used up.

    The model has adapters merged, 4-bit weights as plain numbers, the methods' frequencies as plain
    `rope_parameters` where transformers has words for them, and the target as its window.

    Returns:
        One sentence that says who reads the checkpoint as meant.
    """
    inner = subject.inner
    if subject.lora:
        inner = merged(subject, recipe, folder)
    if is_adapted(inner):
        restore(inner)
    if subject.own is not None:
        subject.own.give_back(inner)
    inner.eval()
    if subject.methods:
        adapt(inner, *subject.methods)
    target = subject.facts.target
    return save(inner, subject.tokenizer, folder / MODEL, force=True, window=target)


def merged(subject: Subject, recipe: Recipe, folder: Path) -> PreTrainedModel:
    """Save the adapter, then put it into the weights."""
    wrapped: nn.Module = subject.model
    made_for = {"base": recipe.base, "fingerprint": subject.fingerprint}
    with whole_directory(folder / ADAPTER) as fresh:
        wrapped.save_pretrained(fresh)  # type: ignore[operator]
        (fresh / BASE_FILE).write_text(json.dumps(made_for, indent=1) + "\n", encoding="utf-8")
    if recipe.four_bit:
        from peft import PeftModel

        base = wrapped.unload()  # type: ignore[operator]
        dequantise(base)
        wrapped = PeftModel.from_pretrained(base, folder / ADAPTER)
    whole = wrapped.merge_and_unload()  # type: ignore[operator]
    assert isinstance(whole, PreTrainedModel)
    return whole
