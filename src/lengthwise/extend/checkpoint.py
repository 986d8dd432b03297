"""Checkpoints in and out: plain ones where transformers can say it, ours where it cannot."""

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import safetensors
from safetensors import safe_open
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
    name = str(path_or_hub_id)
    if name == "demo":
        name = str(files("lengthwise") / "assets" / "lab")
    path = Path(name)
    restore(path)
    if path.exists():
        _check_directory(path)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"no checkpoint at {name}: there is no such directory")
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
    return (adapt(model, *read_methods(block)) if block else model), tokenizer


def _check_directory(path: Path) -> None:
    if not path.is_dir() or not (path / "config.json").is_file():
        raise ValueError(f"no checkpoint at {path}: it has no config.json")
    _check_base(path / "config.json")
    weights = sorted(path.glob("*.safetensors"))
    adapter = path / "adapter_config.json"  # transformers would load it, from whatever is there
    pickled = adapter.exists() and not (path / "adapter_model.safetensors").exists()
    if not weights or pickled or not _all_safe(path):
        raise ValueError(
            f"{path} has no *.safetensors{' for its adapter' * pickled}; other weight formats can "
            "run code and are refused"
        )
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is damaged or cut short: {error}") from error


def _all_safe(path: Path) -> bool:
    """Whether every part that a list of weights names is a safetensors file of this directory."""
    for file in path.glob("*.safetensors.index.json"):
        try:
            parts = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is damaged: it is no list of weights") from error
        if not all(str(p).endswith(".safetensors") and Path(str(p)).name == p for p in parts):
            return False
    return True


def _check_base(config_file: Path) -> None:
    """Refuse rotary parameters without a base, for which transformers would take 10,000."""
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError:
        return  # transformers has its own words for it
    given = config.get("rope_parameters")
    if not isinstance(given, dict) or "rope_theta" in config:
        return
    nested = [value for value in given.values() if isinstance(value, dict)]
    if any("rope_theta" not in one for one in nested or [given]):
        raise ValueError(
            f"{config_file} has rope_parameters without rope_theta, the base of its frequencies; "
            "write the base that the model was trained with"
        )


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
