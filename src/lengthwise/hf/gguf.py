"""Models in a GGUF file, as llama.cpp writes them.

transformers reads them, but passes over in silence what it does not know: a scaling of positions,
the frequencies of Llama 3, a window of Phi-3. Here each statement of a file about its model is
honoured or refused by name.
"""

import io
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import is_progress_bar_enabled
from transformers.utils.quantization_config import GgufConfig

from lengthwise.hf.gguf_file import LLAMA3, LONG, SCALING, SHORT, Head, check_gguf
from lengthwise.hf.gguf_table import ARCHITECTURES, DIGITS, EXPRESSIONS

# (factor, low_freq_factor, high_freq_factor, original window) of the models whose frequencies a
# file holds as `rope_freqs`: Llama 3.1, Llama 3.2 and 3.3.
_LLAMA3_KINDS = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))
# Layers of the two Gemmas whose queries are scaled by another number than the size of a head
# (llama.cpp tells them apart in the same way).
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}


def load_gguf(
    path: Path, config: PreTrainedConfig, **kw: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with its weights as plain numbers, and what transformers says of missing ones.

    Args:
        config: As transformers reads it from the file.
        kw: Passed on to transformers, `dtype=torch.bfloat16` for instance. `auto` is the type of
            a file in halves, and float32 for one that is quantised.

    Raises:
        ValueError: As `check_gguf`, and for a scaling of positions that is not known.
    """
    head = check_gguf(path)
    honour(head, config)
    if kw.get("dtype", "auto") == "auto":
        kw["dtype"] = _dtype(head)
    # The bar that transformers draws while it unpacks numbers is deaf to transformers' own switch.
    with nullcontext() if is_progress_bar_enabled() else redirect_stderr(io.StringIO()):
        model, found = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            output_loading_info=True,
            **kw,
        )
    # What has been read is a plain model: transformers would still refuse to save it.
    model.hf_quantizer, model.is_quantized = None, False
    for part in (model.config, config):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return model, found


def honour(head: Head, config: PreTrainedConfig) -> None:
    """Write what a file states into the configuration that transformers made of it."""
    holds = ARCHITECTURES[head.architecture]
    for key, attribute in holds.attributes.items():
        if (value := head.get(key)) is not None:
            setattr(config, attribute, value)
        elif attribute == "sliding_window" and config.model_type == "phi3":
            config.sliding_window = None  # its by default, not the file's
    if config.model_type == "mistral":
        config.sliding_window = None
    if not holds.rotates:
        return
    width = config.hidden_size // config.num_attention_heads
    size = head.get("attention.key_length") or getattr(config, "head_dim", None) or width
    turned = head.get("rope.dimension_count", size)
    full = config.rope_parameters.get("full_attention", config.rope_parameters)
    if (base := head.get("rope.freq_base")) is not None:
        full["rope_theta"] = base
    if holds.partial:
        full["partial_rotary_factor"] = turned / size
    elif turned != size:
        raise ValueError(
            f"{head.path} rotates {turned} of the {size} numbers of a head, which is not read here"
        )
    if head.architecture in _GEMMA_27B:
        largest = config.num_hidden_layers == _GEMMA_27B[head.architecture]
        config.query_pre_attn_scalar = width if largest else size
    if scaling := rope_scaling(head):
        full.update(scaling)
        before = head.get("rope.scaling.original_context_length")
        if scaling["rope_type"] == "linear" and before is not None:
            config.original_max_position_embeddings = before
        if hasattr(config, "original_max_position_embeddings") and LONG in head.tensors:  # twice
            config.original_max_position_embeddings = full["original_max_position_embeddings"]


def split_as_said(tokenizer: PreTrainedTokenizerFast, head: Head) -> None:
    """Let a tokenizer split texts before it merges as a file says, where transformers cannot."""
    said = head.metadata.get("tokenizer.ggml.pre")
    if said in DIGITS:
        first: Any = Digits(individual_digits=True)
    elif said in EXPRESSIONS:
        first = Split(Regex(EXPRESSIONS[said]), behavior="isolated")
    else:
        return
    then = ByteLevel(add_prefix_space=False, use_regex=said in DIGITS)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([first, then])


def rope_scaling(head: Head) -> dict[str, Any]:
    """How a file says that positions are scaled, as transformers writes it; empty if they are not.

    Raises:
        ValueError: For a scaling that cannot be said so.
    """
    said = {
        key.removeprefix(f"{head.architecture}.{SCALING}"): value
        for key, value in head.metadata.items()
        if key.startswith(f"{head.architecture}.{SCALING}")
    }
    said.pop("finetuned", None)
    original = said.pop("original_context_length", None)
    kind, factor = said.pop("type", "none"), said.pop("factor", None)
    attention = said.pop("attn_factor", 1.0)
    if LLAMA3 in head.tensors:
        return _llama3(head)
    if LONG in head.tensors:
        if original is None:
            raise ValueError(f"{head.path} has {LONG} without the window that it is for")
        # transformers works the factor of attention out as the Phi-3 authors do; a file that
        # states one means that.
        stated = {"attention_factor": attention} if attention != 1.0 else {}
        return {
            "rope_type": "longrope",
            "short_factor": _numbers(head, SHORT).tolist(),
            "long_factor": _numbers(head, LONG).tolist(),
            "original_max_position_embeddings": original,
            **stated,
        }
    if kind == "none" or (kind == "linear" and factor in (None, 1.0)):
        return {}
    if kind == "linear" and not said:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor and original and attention == 1.0 and not said:
        scaled = {"rope_type": "yarn", "factor": factor}
        return {**scaled, "original_max_position_embeddings": original}
    stated = {"type": kind, "factor": factor, "attn_factor": attention, **said}
    raise ValueError(f"{head.path} scales positions as {stated}, which is not read here")


def _llama3(head: Head) -> dict[str, Any]:
    """The scaling of Llama 3 whose factors a file holds, one for each frequency."""
    wanted = _numbers(head, LLAMA3)
    base = head.get("rope.freq_base", 10_000.0)
    inverse = base ** (-torch.arange(len(wanted), dtype=torch.float64) / len(wanted))
    for factor, low, high, window in _LLAMA3_KINDS:
        turns = window * inverse / (2 * torch.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        factors = 1 / ((1 - smooth) / factor + smooth)
        if torch.allclose(factors, wanted.double(), rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": window,
            }
    raise ValueError(
        f"{head.path} has frequencies of its own ({LLAMA3}) that are not those of Llama 3.1, 3.2 "
        "or 3.3; convert the model from its own checkpoint instead"
    )


def _numbers(head: Head, name: str) -> Tensor:
    """A small tensor of a file, float32."""
    if name not in head.tensors:
        raise ValueError(f"{head.path} lacks the tensor {name}")
    tensor = head.tensors[name]
    if tensor.kind != 0:
        raise ValueError(f"{head.path}: {name} must be float32, it is of ggml's type {tensor.kind}")
    with head.path.open("rb") as file:
        file.seek(tensor.start)
        return torch.from_numpy(np.frombuffer(file.read(tensor.size), dtype="<f4").copy())


def _dtype(head: Head) -> torch.dtype:
    kinds = {one.kind for one in head.tensors.values()}
    if kinds <= {0, 30} and 30 in kinds:
        return torch.bfloat16
    return torch.float16 if kinds <= {0, 1} and 1 in kinds else torch.float32
