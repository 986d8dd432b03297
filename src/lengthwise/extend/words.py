"""What the config.json of an adapted model says: a scaling in transformers' words, or in ours.

Version 5 of transformers reads `rope_parameters`. Version 4 reads `rope_theta` and `rope_scaling`,
and takes a base of 10,000 and no scaling where they are missing, so both are written. Version 5
reads them too, so they say the same.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers

from lengthwise.core.geometry import RotaryBase
from lengthwise.extend import layouts, scaling, selectors, stores
from lengthwise.extend.engine import Engine
from lengthwise.extend.layouts import Causal
from lengthwise.extend.method import Method, Scaling
from lengthwise.extend.plan import Axes
from lengthwise.extend.scaling.frequencies import longrope_parameters
from lengthwise.extend.scores import ScoreEngine
from lengthwise.extend.selectors import AllPages
from lengthwise.extend.stores import FullStore
from lengthwise.hf.binding import Binding
from lengthwise.hf.families import FAMILIES, MOVING, OwnFrequencies
from lengthwise.hf.other import HookBinding

BLOCK = "lengthwise"
FORMAT = 1
OLDER = "4.57"  # the release of version 4 in which these families were loaded with every method
LOADED = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "phi3", "gpt_neox",
    "olmo2", "smollm3",
)  # fmt: skip
READ: dict[bool | None, str] = {
    True: "was checked on this family and method",
    False: "has no words for them",
}
NO_LIMIT = 10**30  # what transformers gives a tokenizer that names no limit
ROOMS = (scaling, layouts, selectors, stores)

AS_IT_WAS = "A plain checkpoint of the model as it was."
MOVES = (
    "Its frequencies follow the length: in one forward transformers reads what was saved, but past "
    "the window its cached keys keep the frequencies of their time, and rows of a batch get those "
    "of the longest; after lengthwise.adapt(model) no key goes stale"
)


def write_words(
    binding: Binding[Engine] | HookBinding[ScoreEngine] | None,
    config_file: Path,
    *,
    window: int = 0,
    axes: Axes | None = None,
    both: bool = True,
) -> str:
    """Put what a model is adapted by into the config.json that transformers wrote for it.

    Args:
        binding: What ties the model to its engine; None for a plain model.
        axes: What to write of the engine; None is all of it.
        window: Tokens that the file should claim at least, where nothing counts from them.
        both: Whether version 4's words go in too. In version 5, Trainer reads the configuration of
            a checkpoint that it goes on from as that of no family, and fails at `rope_scaling`.

    Returns:
        Who was asked or checked to read the file as meant.

    Raises:
        ValueError: For methods that no file can name.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config.pop(BLOCK, None)
    note, plain = AS_IT_WAS, None
    if binding is not None:
        axes = axes or binding.engine.to_save()
        assert axes is not None
        methods = write_methods(axes)
        if isinstance(binding, Binding):
            plain = _plain(config, binding, axes, window, both)
        if plain is not None:
            config, older = plain
            note = (
                "A plain checkpoint: without lengthwise, transformers "
                f"{transformers.__version__} was asked and gives these frequencies; {OLDER} "
                f"{READ.get(older, 'was not asked about this family')}, other engines were not."
            )
            if not axes.scaling.static:
                note = f"{note} {MOVES}."
        elif methods:
            config[BLOCK] = {"format": FORMAT, "methods": methods}
            named = " + ".join(entry["method"] for entry in methods)
            note = (
                f"Only lengthwise.load applies {named}; other engines will read the checkpoint "
                "as the unadapted model."
            )
    if plain is None:
        if BLOCK not in config:
            _claim(config, window)
        config = older_words(config)[0] if both else config
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    config_file.write_text(text, encoding="utf-8")
    return note


def _plain(
    config: dict[str, Any], binding: Binding[Engine], axes: Axes, window: int, both: bool
) -> tuple[dict[str, Any], bool | None] | None:
    """The configuration with this scaling in transformers' words, if that is all there is.

    Returns:
        As `older_words`.
    """
    engine = binding.engine
    geometry = engine.geometry
    if (axes.layout, axes.selector, axes.store) != (Causal(), AllPages(), FullStore()):
        return None
    layers = range(len(geometry.layers))
    if any(geometry.local(i) for i in layers) and geometry.family != "gemma3_text":
        return None  # one rotary embedding for all layers: others would scale the local ones too
    bases = [geometry.layers[i].rotary for i in layers if not geometry.local(i)]
    base = next((one for one in bases if one is not None), None)
    if base is None:
        return None
    for parameters in _candidates(axes.scaling, base, geometry.window):
        trial, older = _with_rope(config, parameters, engine, window), None
        if both:
            trial, older = older_words(trial)
        if _reads_the_same(trial, engine, base):
            return trial, older
    return None


def _candidates(method: Scaling, base: RotaryBase, window: int) -> list[Any]:
    """Ways to say a scaling: its own name, and one factor for each pair, which says any fixed one.

    Not every family takes every name (Phi-3).
    """
    words = method.rope_parameters(base, window)
    if words is None:
        return []
    if not method.static:
        return [words]
    rotary = method.rotary(base, window, torch.ones(1, dtype=torch.long))
    factor = max(1.0, method.reach(window) / window)
    temperature = float(rotary.attention_factor)
    return [words, longrope_parameters(base, window, factor, temperature, rotary.inv_freq)]


def _with_rope(
    config: dict[str, Any], parameters: dict[str, Any], engine: Engine, window: int
) -> dict[str, Any]:
    """The parameters where this configuration keeps them, with the window that they reach."""
    trained, kind = engine.geometry.window, parameters["rope_type"]
    old, new = config["rope_parameters"], dict(config)
    if "full_attention" in old:  # one entry for each layer type (Gemma 3)
        new["rope_parameters"] = {**old, "full_attention": parameters}
    else:
        kept = {key: old[key] for key in ("partial_rotary_factor",) if key in old}
        new["rope_parameters"] = {**parameters, **kept}
    new["max_position_embeddings"] = engine.axes.scaling.reach(trained)
    _claim(new, window)
    # Where it stands beside the parameters (Phi-3), it goes before what they say. Those of `linear`
    # have no word for it, and without it nobody could scale the checkpoint anew.
    if new.pop("original_max_position_embeddings", None) or kind in ("longrope", "linear"):
        new["original_max_position_embeddings"] = parameters.get(
            "original_max_position_embeddings", trained
        )
    return new


def _claim(config: dict[str, Any], window: int) -> None:
    """Let a configuration claim a longer window, unless its frequencies count from that number."""
    rope = config.get("rope_parameters") or {}
    kind = rope.get("full_attention", rope).get("rope_type", "default")
    if not any(moving in kind for moving in MOVING) and "max_position_embeddings" in config:
        config["max_position_embeddings"] = max(config["max_position_embeddings"], window)


def _reads_the_same(config: dict[str, Any], engine: Engine, base: RotaryBase) -> bool:
    """Ask the installed transformers for the frequencies of a configuration, below and beyond."""
    own, window = base.own, engine.geometry.window
    assert isinstance(own, OwnFrequencies)
    try:
        read = type(own.config).from_dict(json.loads(json.dumps(config)))
        theirs = OwnFrequencies(read, own.rotary, own.layer_type)
        for length in (1, window, window + 1, 2 * window + 1, 9 * window):
            inv_freq, factor = theirs(length)
            ours = engine.axes.scaling.rotary(base, window, torch.tensor([length]))
            mine = ours.inv_freq.reshape(-1)
            if not torch.allclose(inv_freq, mine.float(), rtol=1e-5, atol=1e-15):
                return False
            if not math.isclose(factor, float(ours.attention_factor), rel_tol=1e-6):
                return False
    except Exception:  # whatever it raises for words that this family does not take
        return False
    return True


def older_words(config: dict[str, Any]) -> tuple[dict[str, Any], bool | None]:
    """The configuration with its rotary parameters in version 4's words too.

    Returns:
        It, and whether version 4 can say them; None for a family that it was not asked about.
        Where it cannot, what is written makes it refuse the file, because without any words it
        would read another model in silence.
    """
    family, rope = config.get("model_type"), config.get("rope_parameters")
    flat = dict((rope or {}).get("full_attention", rope or {}))
    if family not in FAMILIES or flat.get("rope_theta") is None:
        return config, False
    assert isinstance(rope, dict)
    new = dict(config)
    new["rope_theta"] = flat.pop("rope_theta")
    partial = flat.pop("partial_rotary_factor", None)
    if partial is not None:
        new["partial_rotary_factor"] = partial
    if family == "gpt_neox":
        new["rotary_emb_base"] = new["rope_theta"]
        new["rotary_pct"] = 1.0 if partial is None else partial
    if "sliding_attention" in rope:
        new["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    kind = flat["rope_type"]
    loaded = True if family in LOADED else None
    if kind == "default":
        return {**new, "rope_scaling": None}, loaded
    flat.pop("type", None)
    if "factor" in flat:
        flat["factor"] = float(flat["factor"])
    if kind == "longrope":
        original = flat.get("original_max_position_embeddings") or new["max_position_embeddings"]
        new["original_max_position_embeddings"] = original
        implied = _temperature(new["max_position_embeddings"] / original, original)
        own = flat.get("factor")
        said = flat.get("attention_factor")
        meant = said or (implied if own is None else _temperature(own, original))
        flat["attention_factor"] = meant
    new["rope_scaling"] = flat
    if family == "phi3" and kind == "longrope" and math.isclose(meant, implied, rel_tol=1e-6):
        tables = {key: flat[key] for key in ("short_factor", "long_factor")}
        return {**new, "rope_scaling": {"type": kind, **tables}}, True  # exactly these three
    if family == "olmo2" and kind in ("linear", "dynamic") and flat["factor"] > 1:
        return {**new, "rope_scaling": {"type": kind, "factor": flat["factor"]}}, True  # these two
    return new, loaded and family not in ("phi3", "olmo2")


def _temperature(factor: float, window: int) -> float:
    """The factor on cos and sin that `longrope` takes where none is given."""
    return math.sqrt(1 + math.log(factor) / math.log(window)) if factor > 1 else 1.0


def write_tokenizer_words(
    binding: Binding[Engine] | HookBinding[ScoreEngine] | None, folder: Path
) -> None:
    """Let a saved tokenizer not cut at the old window, and be found by version 4 too.

    What only lengthwise applies, or follows the length, has no end that the file could name.
    """
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":  # version 5's name for it
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    limit = settings.get("model_max_length")
    if binding is not None and limit is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ends = BLOCK not in config and binding.engine.axes.scaling.static
        reach = config.get("max_position_embeddings", 0) if ends else NO_LIMIT
        settings["model_max_length"] = max(limit, reach)
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")


def write_methods(axes: Axes) -> list[dict[str, Any]]:
    """Methods as JSON: those that are not identities, by name and arguments.

    Raises:
        ValueError: For a method that `lengthwise.load` would not find by its name.
    """
    identities = (scaling.OwnScaling(), Causal(), AllPages(), FullStore())
    chosen = (axes.scaling, axes.layout, axes.selector, axes.store)
    return [_write_method(method) for method in chosen if method not in identities]


def _write_method(method: Method) -> dict[str, Any]:
    """By name and arguments; an argument that is a method itself is written the same way."""
    name = type(method).__name__
    if not any(getattr(room, name, None) is type(method) for room in ROOMS):
        raise ValueError(
            f"{name} is not among lengthwise's own methods, so no checkpoint can name it; call "
            "lengthwise.restore(model), save the plain model, and adapt it again when it is loaded"
        )
    arguments = {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
    }
    for key, value in arguments.items():
        if isinstance(value, Method):
            arguments[key] = _write_method(value)
    return {"method": name, **arguments}


def read_methods(block: Any) -> list[Method]:
    """The other way round.

    Raises:
        ValueError: If the block is damaged, of another format, or names something unknown.
    """
    if not isinstance(block, dict):
        raise ValueError(
            f"config.json has a lengthwise block of the type {type(block).__name__} where an "
            "object should be; without the block the model is read as it was"
        )
    if block.get("format") != FORMAT:
        raise ValueError(
            f"config.json has a lengthwise block of format {block.get('format')!r}; this version "
            f"reads format {FORMAT}"
        )
    entries = block.get("methods", [])
    if not isinstance(entries, list):
        raise ValueError(
            f"config.json has lengthwise methods of the type {type(entries).__name__} where a list "
            "should be; without the lengthwise block the model is read as it was"
        )
    return [_read_method(entry) for entry in entries]


def _read_method(entry: Any) -> Method:
    if not isinstance(entry, dict):
        raise ValueError(
            f"config.json has a lengthwise method of the type {type(entry).__name__} where an "
            "object should be; without the lengthwise block the model is read as it was"
        )
    arguments = {
        key: _read_method(value) if isinstance(value, dict) and "method" in value else value
        for key, value in entry.items()
    }
    name = str(arguments.pop("method", None))
    found = [getattr(room, name) for room in ROOMS if name in room.__all__]
    if not found:
        raise ValueError(f"config.json names the method {name!r}, which this version lacks")
    try:
        method = found[0](**arguments)
    except ValueError as error:  # it names the method
        raise ValueError(f"config.json: {error}") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"config.json: {name}: {error}") from error
    assert isinstance(method, Method)
    return method
