"""Checkpoints in and out: plain ones where transformers can say it, ours where it cannot."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from lengthwise.extend.adapt import adapt, binding_of, is_adapted, unwrapped
from lengthwise.extend.words import (
    BLOCK,
    read_methods,
    write_methods,
    write_tokenizer_words,
    write_words,
)
from lengthwise.files import restore, whole_directory
from lengthwise.hf.files import find_checkpoint
from lengthwise.hf.loading import FINDING, load_model, load_tokenizer


def load(path_or_hub_id: str | os.PathLike[str], **kw: Any) -> tuple[PreTrainedModel, Tokenizer]:
    """A causal language model and its tokenizer, adapted again if it was saved adapted.

    Encoders without rotary positions (T5, BERT and their kin) load as what they were saved as.
    Weights load from safetensors only, and remote code never runs unless `trust_remote_code=True`
    is passed. `demo` names the bundled lab model.

    Args:
        path_or_hub_id: A checkpoint's directory, or a name on the Hugging Face hub.
        kw: Passed on to transformers, `dtype=torch.bfloat16` for instance.

    Raises:
        ValueError: If there is no such checkpoint, its weights are missing or damaged, or it asks
            to run code of its own.
    """
    name = find_checkpoint(str(path_or_hub_id))
    finding = {key: kw[key] for key in (*FINDING, "trust_remote_code") if key in kw}
    tokenizer = load_tokenizer(name, **finding)
    model, found = load_model(name, **kw)
    # transformers would go on with random numbers.
    for key, what in (("missing_keys", "missing"), ("mismatched_keys", "of another shape")):
        if found[key]:
            some = sorted(map(str, found[key]))
            raise ValueError(
                f"cannot load {name!r}: weights are {what} ({len(some)}), as {some[0]}"
            )
    block = getattr(model.config, BLOCK, None)
    return (model if block is None else adapt(model, *read_methods(block))), tokenizer


def save(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    directory: str | os.PathLike[str],
    *,
    force: bool = False,
    beside: Mapping[str, str] | None = None,
    window: int = 0,
) -> str:
    """Write a checkpoint that loads with its methods; all of it appears, or none.

    A scaling that transformers can express is written in its words, those of version 5 and of
    version 4: the installed one is asked whether it reads the same. Everything else goes into a
    `lengthwise` block of config.json, which `load` applies.

    Args:
        model: Adapted or not, and not one of peft's: merge its adapters first.
        force: Replace a directory that exists; it stands until the new one is whole.
        beside: Further files of the directory: texts by their names.
        window: Tokens that the checkpoint should claim at least, as after tuning at a length.

    Returns:
        Who was asked or checked to read the checkpoint as meant.

    Raises:
        ValueError: If the directory exists and `force` is not set, or is a file; if no file can
            say what the model is adapted by.
        OSError: When the disk is full, with the directory; nothing is left of it.
    """
    inner = unwrapped(model)
    if hasattr(model, "get_base_model"):
        raise ValueError(
            f"save writes whole models, and a {type(model).__name__} is adapters beside one; pass "
            "model.merge_and_unload(), or write the adapters alone with model.save_pretrained(…)"
        )
    binding = binding_of(inner) if is_adapted(inner) else None
    if binding is not None:
        write_methods(binding.engine.to_save())  # refused before anything is written
    target = Path(directory)
    restore(target)
    if target.exists() and not force:
        raise ValueError(f"{target} exists; choose another directory or pass force=True (--force)")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; name a directory")
    with whole_directory(target) as fresh:
        inner.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        note = write_words(binding, fresh / "config.json", window=window)
        write_tokenizer_words(binding, fresh)
        if any(hasattr(module, "lengthwise_pattern") for module in inner.modules()):
            note = (
                "A plain checkpoint, which cannot name the pattern of an encoder: it has full "
                "attention until set_encoder_pattern is called again."
            )
        for name, text in (beside or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
    return note
