"""The language model inside a model of several media, as one of a family that is known."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lengthwise.hf.families import UnsupportedModelError

# Whose text model is whose. On text alone Qwen2.5-VL turns by one position in all three of its
# sections, as a Qwen2 does, and its weights have a Qwen2's names.
INNER = {"gemma3": "gemma3_text", "qwen2_5_vl": "qwen2"}
OTHERWISE = ("model_type", "architectures", "mrope_section", "type")  # what a Qwen2 has not


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal language model inside a Gemma 3 or Qwen2.5-VL, sharing its weights.

    It reads text as the whole model reads it without images, and is adapted, tuned, measured and
    saved as any other of its family; the whole model can go on beside it.

    Raises:
        UnsupportedModelError: For a model of another kind.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in INNER or not hasattr(model, "lm_head"):
        raise UnsupportedModelError(
            f"text_model takes the language model out of {' or '.join(INNER)}, got "
            f"{type(model).__name__}"
        )
    inside, head = model.get_decoder(), model.get_output_embeddings()
    config = text_config(model.config)
    config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight
    with torch.device("meta"):
        text = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=False)
    weights = {f"model.{name}": tensor for name, tensor in inside.state_dict().items()}
    text.load_state_dict({**weights, "lm_head.weight": head.weight}, assign=True)
    text.tie_weights()
    for name, buffer in inside.named_buffers():  # those that are not saved
        place, _, leaf = name.rpartition(".")
        text.model.get_submodule(place).register_buffer(leaf, buffer, persistent=False)
    text.generation_config = model.generation_config
    assert isinstance(text, PreTrainedModel)
    return text.train(model.training)


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the language model inside; any other as it is."""
    if config.model_type not in INNER:
        return config
    text: Any = config.get_text_config()
    settings = {k: v for k, v in text.to_dict().items() if k not in OTHERWISE}
    rope = settings["rope_parameters"]
    settings["rope_parameters"] = {k: v for k, v in rope.items() if k not in OTHERWISE}
    settings["tie_word_embeddings"] = config.tie_word_embeddings
    found = CONFIG_MAPPING[INNER[config.model_type]].from_dict(settings)
    assert isinstance(found, PreTrainedConfig)
    return found
