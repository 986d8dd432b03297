"""Checkpoints in and out: plain ones where transformers can say it, ours where it cannot."""

import dataclasses
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

from lengthwise.extend import layouts, scaling, selectors, stores
from lengthwise.extend.adapt import adapt, binding_of, is_adapted
from lengthwise.extend.engine import Axes
from lengthwise.extend.layouts import Causal
from lengthwise.extend.method import Method
from lengthwise.extend.selectors import AllPages
from lengthwise.extend.stores import FullStore
from lengthwise.files import restore, whole_directory
from lengthwise.hf.loading import FINDING, load_model, load_tokenizer

BLOCK = "lengthwise"
FORMAT = 1


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
) -> str:
    """Write a checkpoint that loads with its methods; all of it appears, or none.

    A scaling that transformers can express is written as plain `rope_parameters`, and any engine
    reads it. Everything else goes into a `lengthwise` block of config.json, which `load` applies.

    Args:
        force: Replace a directory that exists; it stands until the new one is whole.
        beside: Further files of the directory: texts by their names.

    Returns:
        One sentence that says which engines will read the checkpoint as meant.

    Raises:
        ValueError: If the directory exists and `force` is not set, or is a file.
        OSError: When the disk is full, with the directory; nothing is left of it.
    """
    target = Path(directory)
    restore(target)
    if target.exists() and not force:
        raise ValueError(f"{target} exists; choose another directory or pass force=True (--force)")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; name a directory")
    with whole_directory(target) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        note = _write_methods(model, fresh / "config.json")
        for name, text in (beside or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
    return note


def _write_methods(model: PreTrainedModel, config_file: Path) -> str:
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config.pop(BLOCK, None)
    note = "A plain checkpoint: every engine reads it as it was."
    if is_adapted(model):
        engine = binding_of(model).engine
        window = engine.geometry.window
        plain = _plain_rope(engine.axes, engine)
        if plain is not None:
            _replace_rope(config, plain, engine)
            config["max_position_embeddings"] = engine.axes.scaling.reach(window)
            note = "A plain checkpoint: transformers, vLLM and SGLang read it without lengthwise."
        elif methods := write_methods(engine.axes):
            config[BLOCK] = {"format": FORMAT, "methods": methods}
            named = " + ".join(entry["method"] for entry in methods)
            note = (
                f"Only lengthwise.load applies {named}; other engines will read the checkpoint "
                "as the unadapted model."
            )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    config_file.write_text(text, encoding="utf-8")
    return note


def _plain_rope(axes: Axes, engine: Any) -> dict[str, Any] | None:
    """transformers' own words for these axes, if scaling is all there is."""
    if (axes.layout, axes.selector, axes.store) != (Causal(), AllPages(), FullStore()):
        return None
    layers = engine.geometry.layers
    mixed = any(engine.geometry.local(index) for index in range(len(layers)))
    if mixed and engine.geometry.family != "gemma3_text":
        return None  # one rotary embedding for all layers: others would scale the local ones too
    bases = [
        layer.rotary
        for index, layer in enumerate(layers)
        if layer.rotary is not None and not engine.geometry.local(index)
    ]
    return axes.scaling.rope_parameters(bases[0], engine.geometry.window) if bases else None


def _replace_rope(config: dict[str, Any], plain: dict[str, Any], engine: Any) -> None:
    """Put the parameters where this configuration keeps them, and carry a partial rotation."""
    old = config["rope_parameters"]
    if "full_attention" in old:  # one entry for each layer type (Gemma 3)
        config["rope_parameters"] = {**old, "full_attention": plain}
        return
    kept = {key: old[key] for key in ("partial_rotary_factor",) if key in old}
    config["rope_parameters"] = {**plain, **kept}


def write_methods(axes: Axes) -> list[dict[str, Any]]:
    """Methods as JSON: those that are not identities, by name and arguments."""
    identities = (scaling.OwnScaling(), Causal(), AllPages(), FullStore())
    chosen = (axes.scaling, axes.layout, axes.selector, axes.store)
    return [_write_method(method) for method in chosen if method not in identities]


def _write_method(method: Method) -> dict[str, Any]:
    """By name and arguments; an argument that is a method itself is written the same way."""
    arguments = {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
    }
    for name, value in arguments.items():
        if isinstance(value, Method):
            arguments[name] = _write_method(value)
    return {"method": type(method).__name__, **arguments}


def read_methods(block: dict[str, Any]) -> list[Method]:
    """The other way round.

    Raises:
        ValueError: If the block is of another format or names something unknown.
    """
    if block.get("format") != FORMAT:
        raise ValueError(
            f"config.json has a lengthwise block of format {block.get('format')!r}; this version "
            f"reads format {FORMAT}"
        )
    return [_read_method(entry) for entry in block.get("methods", [])]


def _read_method(entry: dict[str, Any]) -> Method:
    arguments = {
        key: _read_method(value) if isinstance(value, dict) and "method" in value else value
        for key, value in entry.items()
    }
    name = str(arguments.pop("method", None))
    rooms = (scaling, layouts, selectors, stores)
    found = [getattr(room, name) for room in rooms if name in room.__all__]
    if not found:
        raise ValueError(f"config.json names the method {name!r}, which this version lacks")
    try:
        method = found[0](**arguments)
    except TypeError as error:
        raise ValueError(f"config.json: {name}: {error}") from error
    assert isinstance(method, Method)
    return method
