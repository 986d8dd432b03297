"""Other people's files, as transformers reads them; code that lies among them never runs unasked.

Where a checkpoint names code of its own, transformers asks on the standard input whether to run it,
unless `trust_remote_code` says no. Every configuration, tokenizer and model is loaded from here,
where it does.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.activations import ACT2FN

from lengthwise.hf.gguf import load_gguf, split_as_said
from lengthwise.hf.gguf_file import is_gguf, read_head
from lengthwise.hf.inner import INNER, text_model
from lengthwise.hf.other.kinds import ABSOLUTE, T5
from lengthwise.hf.weights import renew_threads

LONGEST = 300  # characters of transformers' own words
# What concerns finding files, of all that `from_pretrained` of a model takes.
FINDING = ("revision", "token", "cache_dir", "local_files_only")


def load_config(name: str, *, trust_remote_code: bool = False, **kw: Any) -> PreTrainedConfig:
    """The configuration of a checkpoint: its directory, or a name on the Hugging Face hub.

    Raises:
        ValueError: If there is none, it is damaged, or it asks to run code of its own.
    """
    with _in_one_line(name, "config.json of "):
        config = AutoConfig.from_pretrained(
            *_place(name, kw), trust_remote_code=trust_remote_code is True, **kw
        )
    assert isinstance(config, PreTrainedConfig)
    if trust_remote_code is not True:
        refuse_kernels(config, name)
        check_activation(config, name)
    return config


def check_activation(config: PreTrainedConfig, name: str) -> None:
    """Refuse an activation that transformers lacks; it would only say the name.

    Raises:
        ValueError: Which.
    """
    for field in ("hidden_act", "hidden_activation", "activation_function"):
        asked = getattr(config, field, None)
        if isinstance(asked, str) and asked not in ACT2FN:
            raise ValueError(
                f"{name} has {field} {asked!r} in its config.json, and transformers has no such "
                f"function; it has {', '.join(list(ACT2FN)[:4])} …"
            )


def refuse_kernels(config: PreTrainedConfig, name: str) -> None:
    """Refuse a configuration whose attention is code from the Hugging Face hub (`kernels`).

    Raises:
        ValueError: Which repository it names.
    """
    parts = [config, *(getattr(config, part, None) for part in config.sub_configs)]
    for part in parts:
        asked = getattr(part, "_attn_implementation", None)
        if isinstance(asked, str) and "/" in asked:
            raise ValueError(
                f"{name} asks to run code of its own (config.json: attn_implementation names "
                f"{asked}), and it is not run; remove it from config.json"
            )


def load_tokenizer(
    name: str, *, trust_remote_code: bool = False, **kw: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    That of a GGUF file is no class of its family: such a class splits texts in its own way when it
    is saved and read again, whatever the file said.

    Raises:
        ValueError: If there is none, it is damaged, or it asks to run code of its own.
    """
    try:
        with _in_one_line(name, "a tokenizer from "):
            kind: Any = PreTrainedTokenizerFast if is_gguf(name) else AutoTokenizer
            tokenizer = kind.from_pretrained(
                *_place(name, kw), trust_remote_code=trust_remote_code is True, **kw
            )
            if is_gguf(name):
                split_as_said(tokenizer, read_head(Path(name)))
    except ValueError:
        if (Path(name) / "config.json").is_file():  # transformers reads it too: say so if it failed
            load_config(name, trust_remote_code=trust_remote_code)
        raise
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    limit: object = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
        raise ValueError(
            f"cannot load a tokenizer from {name!r}: in tokenizer_config.json model_max_length "
            f"must be a number of at least 1, got {limit!r}"
        )
    return tokenizer


def load_model(
    name: str, *, trust_remote_code: bool = False, **kw: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model from safetensors or a GGUF file, and what transformers says of missing weights.

    Encoders without rotary positions are what they were saved as, all else a causal language model:
    of a Gemma 3 or Qwen2.5-VL with a vision tower that inside.

    Raises:
        ValueError: If there is none, it is damaged, or it asks to run code of its own.
    """
    import_bitsandbytes()
    renew_threads()  # transformers reads weights in several
    finding = {key: kw[key] for key in FINDING if key in kw}
    config = load_config(name, trust_remote_code=trust_remote_code, **finding)
    if is_gguf(name):
        with _in_one_line(name):
            return load_gguf(Path(name), config, **kw)
    kind: Any = AutoModelForCausalLM
    if config.model_type in (*T5, *ABSOLUTE) and config.architectures:
        kind = getattr(transformers, str(config.architectures[0]), None)
        if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
            raise ValueError(
                f"cannot load {name!r}: its config.json names {config.architectures[0]!r} among "
                "architectures, and transformers has no such model"
            )
    if config.model_type in INNER:
        kind = AutoModelForImageTextToText
    with _in_one_line(name):
        model, found = kind.from_pretrained(
            name,
            trust_remote_code=trust_remote_code is True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kw,
        )
        if config.model_type in INNER:
            model = text_model(model)
    return model, found


def import_bitsandbytes() -> None:
    """Import bitsandbytes before peft and transformers do, without code from the hub.

    On some processors importing it fetches a kernel through `kernels`, where that is installed, and
    runs it. Without it bitsandbytes has code of its own.
    """
    if find_spec("kernels") is None or find_spec("bitsandbytes") is None:
        return
    there = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        with suppress(Exception):  # a damaged one is for those who use it
            import bitsandbytes  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    finally:
        del sys.modules["kernels"]
        if there is not None:
            sys.modules["kernels"] = there


def _place(name: str, kw: dict[str, Any]) -> tuple[str]:
    """How transformers finds it: a GGUF file is a keyword beside the directory that it lies in."""
    if not is_gguf(name):
        return (name,)
    kw["gguf_file"] = Path(name).name
    return (str(Path(name).parent),)


@contextmanager
def _in_one_line(name: str, what: str = "") -> Iterator[None]:
    """Whatever transformers runs into in somebody's files becomes a ValueError of one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise  # of this machine, not of the files
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name} asks to run code of its own ({_code_of(name)}), and it is not run; in "
                "Python lengthwise.load(..., trust_remote_code=True) runs the code of those whom "
                "you trust"
            ) from error
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise ValueError(
                f"cannot load {what}{name!r}: this machine has not the memory for a model of the "
                "sizes in its config.json (hidden_size, intermediate_size, vocab_size …)"
            ) from error
        raise ValueError(f"cannot load {what}{name!r}: {in_words(error)}") from error


def in_words(error: Exception) -> str:
    """What an error says, in one line of at most 300 characters."""
    words = " ".join(str(error).split())
    if not words or not isinstance(error, (OSError, ValueError, StrictDataclassError)):
        words = f"{type(error).__name__}: {words}".removesuffix(": ")
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def _code_of(name: str) -> str:
    """Where a checkpoint names code, as far as its directory can be read here."""
    for file in ("config.json", "tokenizer_config.json"):
        try:
            asked = json.loads((Path(name) / file).read_text(encoding="utf-8"))["auto_map"]
            return f"{file}: auto_map names {', '.join(map(str, _leaves(asked)))}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "auto_map in its configuration"


def _leaves(asked: Any) -> list[Any]:
    values = asked.values() if isinstance(asked, dict) else asked
    return [leaf for one in values for leaf in (one if isinstance(one, list) else [one]) if leaf]
