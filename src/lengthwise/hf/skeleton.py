"""A model without weights, from its configuration alone: shapes to count and to plan with."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lengthwise.hf.families import refuse_unsupported
from lengthwise.hf.files import find_config, read_object
from lengthwise.hf.gguf import honour
from lengthwise.hf.gguf_file import check_gguf, is_gguf
from lengthwise.hf.inner import text_config
from lengthwise.hf.loading import check_activation, in_words, load_config, refuse_kernels


def read_config(name: str) -> PreTrainedConfig:
    """The configuration of a checkpoint: its directory, a config.json, a hub name, or `demo`.

    Raises:
        ValueError: If there is none, or it describes no model that transformers knows.
    """
    if is_gguf(name):
        config = load_config(name)
        honour(check_gguf(Path(name)), config)
        return config
    file = find_config(name)
    if file is None:
        return _from_hub(name)
    settings = read_object(file)
    kind = settings.pop("model_type", None)
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
        raise ValueError(
            f"the configuration of {config.model_type} makes no model: {in_words(error)}"
        ) from error
    refuse_unsupported(model)
    assert isinstance(model, PreTrainedModel)
    return model


def _from_hub(name: str) -> PreTrainedConfig:
    try:
        return text_config(load_config(name))
    except ValueError as error:
        raise ValueError(f"there is no directory {name} here; {error}") from None


def _checked(file: str, kind: str, settings: dict[str, Any]) -> PreTrainedConfig:
    try:
        config = AutoConfig.for_model(kind, **settings)
    except Exception as error:
        said = in_words(error).split(". Should contain")[0]
        raise ValueError(f"{file} is no configuration that transformers knows: {said}") from error
    assert isinstance(config, PreTrainedConfig)
    refuse_kernels(config, file)
    check_activation(config, file)
    return text_config(config)
