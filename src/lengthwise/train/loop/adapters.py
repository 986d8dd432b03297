"""What of a model learns beside frozen weights: adapters by peft, over 4 bits if asked."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lengthwise.hf.weights import fingerprint
from lengthwise.train.recipe import Recipe

WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "lengthwise_base.json"  # beside an adapter: which weights it belongs to


def quantise(model: PreTrainedModel) -> None:
    """Hold every linear layer below the head in 4 bits (NF4, doubly quantised), as QLoRA does.

    Source: Dettmers et al. 2023, QLoRA (arXiv:2305.14314), section 3.

    Raises:
        ValueError: Without bitsandbytes, and where it gives back other numbers than it was given.
    """
    try:
        import bitsandbytes as bnb  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ValueError(
            "four_bit needs bitsandbytes: pip install bitsandbytes, or write four_bit=false"
        ) from None
    head = model.get_output_embeddings()
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    ]
    _check_widths(linear)
    for name, module in linear:
        small = bnb.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=module.weight.dtype,
            quant_type="nf4",
        )
        # For processors with bfloat16 in AVX-512 bitsandbytes packs a weight anew at the first
        # forward in evaluation. Later steps get no gradient through it, the merged checkpoint
        # other numbers, and rows that are no multiple of 64 an error.
        small.support_avx512bf16_for_cpu = False
        weight = module.weight.detach().to("cpu").contiguous()
        small.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        small.bias = module.bias
        model.set_submodule(name, small.to(module.weight.device))
    model.is_loaded_in_4bit = True  # peft asks


def _check_widths(linear: list[tuple[str, nn.Linear]]) -> None:
    """Refuse layers whose rows do not come out of 4 bits as they went in.

    On processors with AVX-512 bitsandbytes 0.50 takes the constants of other blocks for rows that
    are a multiple of 16 numbers and not of 64. Whether it does is tried, not looked up: numbers
    that are alike within each block come out exactly.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for width in sorted({module.in_features for _, module in linear}):
        name, module = next((n, m) for n, m in linear if m.in_features == width)
        rows, block = 128, 128  # a block has 64 numbers, on AMD's GPUs 128
        given = torch.arange(rows * width, device=module.weight.device) // block + 1.0
        given = given.view(rows, width)
        if not torch.equal(dequantize_4bit(*quantize_4bit(given, quant_type="nf4")), given):
            where = given.device.type
            if where == "cpu":
                where = f"cpu ({torch.backends.cpu.get_cpu_capability()})"
            raise ValueError(
                f"four_bit: bitsandbytes on this {where} gives back rows of {width} numbers "
                f"({name}) changed; rows of a multiple of 64 are safe: take another base, a GPU or "
                "another processor, or write four_bit=false"
            )


def dequantise(model: PreTrainedModel) -> None:
    """Give a model in 4 bits plain linear layers with the numbers that it computed with."""
    import bitsandbytes as bnb

    small = [(n, m) for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    for name, module in small:
        weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight.to(module.compute_dtype), requires_grad=False)
        plain.bias = module.bias
        model.set_submodule(name, plain)
    model.is_loaded_in_4bit = False


def with_adapters(model: PreTrainedModel, recipe: Recipe, known: str) -> nn.Module:
    from peft import LoraConfig, PeftModel, get_peft_model

    whole = modules_to_save(model, recipe.also)
    if recipe.adapter:
        check_adapter(Path(recipe.adapter), model, recipe.base, known)
        going_on = PeftModel.from_pretrained(model, recipe.adapter, is_trainable=True)
        _check_settings(going_on.peft_config["default"], recipe, whole)
        return going_on
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.adapt) or "all-linear",
        modules_to_save=whole or None,
        ensure_weight_tying=_tied(model) and bool({"embeddings", "head"} & set(recipe.also)),
    )
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in recipe.adapt:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted({name.rpartition(".")[2] for name in names})
            raise ValueError(
                f"adapt: {recipe.base} has no linear layer {target!r}; it has {', '.join(ends)}"
            )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        wrapped = get_peft_model(model, config)
    return wrapped


def modules_to_save(model: PreTrainedModel, also: tuple[str, ...]) -> list[str]:
    """The names by which peft knows embeddings, norms and head."""
    wanted = []
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        is_norm = "norm" in type(module).__name__.lower()
        if "embeddings" in also and module is inputs:
            wanted.append(last)
        if "norms" in also and is_norm:
            wanted.append(last)
        if "head" in also and module is head and not _tied(model):
            wanted.append(last)
    if "head" in also and _tied(model) and "embeddings" not in also:
        raise ValueError("also: this model's head is its embeddings; name embeddings to train both")
    return sorted(set(wanted))


def _tied(model: PreTrainedModel) -> bool:
    head: Any = model.get_output_embeddings()
    inputs: Any = model.get_input_embeddings()
    return head is not None and head.weight is inputs.weight


def check_adapter(folder: Path, model: PreTrainedModel, base: str, known: str) -> None:
    """Refuse an adapter that was made for other weights.

    Raises:
        ValueError: If there is none, or it belongs to another model.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"there is no adapter in {folder}: it has no adapter_config.json")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"the adapter {folder} has no {WEIGHTS}; other formats can run code")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        ours = folder / BASE_FILE
        theirs = json.loads(ours.read_text(encoding="utf-8")) if ours.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{folder}: the adapter's configuration is no JSON: {error}") from None
    made_for = theirs.get("fingerprint")
    if made_for is not None:
        if made_for != known:
            raise ValueError(
                f"the adapter {folder} is for other weights ({theirs.get('base')}, {made_for}) "
                f"than those of {base} ({known}); name the base it was made for"
            )
        return
    name = str(config.get("base_model_name_or_path") or "")
    if name and Path(name).name != Path(base).name:
        raise ValueError(
            f"the adapter {folder} is for {name} and not for {base}; name the base it was made for"
        )
    _check_shapes(folder, model)


def _check_settings(config: Any, recipe: Recipe, whole: list[str]) -> None:
    """Refuse what a recipe says of adapters and the one that it goes on from has otherwise."""
    has = {
        "rank": config.r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
        "adapt": tuple(sorted(config.target_modules)),
        "also": tuple(sorted(config.modules_to_save or ())),
    }
    said = {**recipe.settings(), "adapt": tuple(sorted(recipe.adapt)), "also": tuple(sorted(whole))}
    for name, value in has.items():
        if said[name] not in (value, getattr(Recipe, name)):
            raise ValueError(
                f"{name} is {said[name]!r} in the recipe and {value!r} in the adapter "
                f"{recipe.adapter}, which keeps its own; leave it out of the recipe"
            )


def _check_shapes(folder: Path, model: PreTrainedModel) -> None:
    """Every lora_A must fit the width of its layer."""
    from safetensors import safe_open

    parts = dict(model.named_modules())
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (no dictionary)
            layer = parts.get(key.removeprefix("base_model.model.").partition(".lora_")[0])
            shape = file.get_slice(key).get_shape()
            width = getattr(layer, "in_features", None)
            if ".lora_A." in key and width != shape[1]:
                raise ValueError(
                    f"the adapter {folder} is for another model: {key} is {shape[1]} wide and the "
                    f"layer is {width}"
                )


def base_print(model: PreTrainedModel) -> str:
    """Twelve hexadecimal digits that tell weights from others, in whatever type they are loaded."""
    return fingerprint(model, torch.bfloat16)
