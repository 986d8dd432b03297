"""A model without weights, from its configuration alone: shapes to count and to plan with."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lengthwise.hf.families import refuse_unsupported
from lengthwise.hf.loading import load_config


def read_config(name: str) -> PreTrainedConfig:
    """The configuration of a checkpoint: its directory, a config.json, a hub name, or `demo`.

    Raises:
        ValueError: If there is none, or it describes no model that transformers knows.
    """
    path = files("lengthwise") / "assets" / "lab" if name == "demo" else Path(name)
    file = Path(str(path))
    if file.is_dir():
        file = file / "config.json"
        if not file.is_file():
            raise ValueError(f"no checkpoint at {name}: it has no config.json")
    if not file.is_file():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".json"):
            raise ValueError(f"there is no directory and no configuration {name}")
        return _from_hub(name)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    kind = settings.pop("model_type", None) if isinstance(settings, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{file} is no model's configuration: it has no model_type")
    return _checked(str(file), kind, settings)


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """A supported model on torch's meta device: every shape, no numbers.

    Raises:
        ValueError: If the configuration fits no supported causal language model.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
    except Exception as error:  # whatever a wrong setting runs into inside transformers
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"the configuration of {config.model_type} makes no model: {first}") from (
            error
        )
    refuse_unsupported(model)
    assert isinstance(model, PreTrainedModel)
    return model


def _from_hub(name: str) -> PreTrainedConfig:
    try:
        return load_config(name)
    except ValueError as error:
        raise ValueError(f"there is no directory {name} here; {error}") from None


def _checked(file: str, kind: str, settings: dict[str, Any]) -> PreTrainedConfig:
    try:
        config = AutoConfig.for_model(kind, **settings)
    except Exception as error:
        first = str(error).strip().split("\n")[0].split(". Should contain")[0]
        raise ValueError(f"{file} is no configuration that transformers knows: {first}") from error
    assert isinstance(config, PreTrainedConfig)
    return config
