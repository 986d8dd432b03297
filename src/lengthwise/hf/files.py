"""The files of a checkpoint, looked at without torch before anything is loaded."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from lengthwise.files import restore
from lengthwise.hf.gguf_file import check_gguf, is_gguf

# Read by transformers as objects; a checkpoint may lack all but the first.
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
    "special_tokens_map.json", "added_tokens.json", "processor_config.json", "adapter_config.json",
)  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
MOST_IDS = 1 << 24
# What must be whole numbers of at least 1, and at most this: a layer's shape, and windows.
SIZES = {
    "vocab_size": MOST_IDS, "hidden_size": 1 << 20, "intermediate_size": 1 << 24,
    "ffn_hidden_size": 1 << 24, "num_attention_heads": 1 << 16, "num_key_value_heads": 1 << 16,
    "num_kv_heads": 1 << 16, "head_dim": 1 << 16, "attention_chunk_size": 1 << 31,
    "floor_scale": 1 << 31, "original_max_position_embeddings": 1 << 31,
    "max_position_embeddings": 1 << 31, "n_positions": 1 << 31, "max_seq_len": 1 << 31,
    "seq_length": 1 << 31, "max_sequence_length": 1 << 31, **dict.fromkeys(LAYERS, 10_000),
}  # fmt: skip
BASES = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "global_rope_theta",
         "local_rope_theta")  # fmt: skip
MOST_BASE = 1e30


def find_checkpoint(name: str) -> str:
    """The name by which transformers finds a checkpoint: a sound directory or GGUF file, or one
    of the hub's.

    Raises:
        ValueError: If there is no such directory, or a file in it is missing or damaged.
    """
    if is_gguf(name):
        check_gguf(Path(name))
        return name
    path = _local(name)
    if path is None:
        return name
    if not (path / "config.json").is_file():
        raise ValueError(f"no checkpoint at {path}: it has no config.json")
    check_objects(path)
    _check_config(path / "config.json")
    _check_generation(path / "generation_config.json")
    _check_weights(path)
    return str(path)


def find_tokenizer(name: str) -> str:
    """The same for a tokenizer alone, which needs no model beside it."""
    if is_gguf(name):
        check_gguf(Path(name))
        return name
    path = _local(name, "cannot load a tokenizer from")
    if path is None:
        return name
    check_objects(path)
    return str(path)


def find_config(name: str) -> Path | None:
    """The configuration that a name stands for: a file, or one of a directory; None on the hub.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    file = Path(name)
    if is_gguf(name):
        check_gguf(file)
        return file
    if not file.is_file():
        if name.endswith(".json"):
            raise ValueError(f"there is no directory and no configuration {name}")
        path = _local(name)
        if path is None:
            return None
        file = path / "config.json"
        if not file.is_file():
            raise ValueError(f"no checkpoint at {name}: it has no config.json")
    _check_config(file)
    return file


def read_object(file: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        ValueError: If the file holds anything else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: a {type(found).__name__} where an object should be")
    return found


def check_objects(path: Path) -> None:
    """Refuse files of a checkpoint that hold no object.

    Raises:
        ValueError: Which.
    """
    for name in OBJECTS:
        if (path / name).is_file():
            found = read_object(path / name)
            if name == "tokenizer.json":
                _check_ids(path / name, found)
                _check_template(path / name, found)


def _local(name: str, failing: str = "no checkpoint at") -> Path | None:
    """The directory that a name stands for; None for a name of the hub's."""
    if name == "demo":
        return Path(str(files("lengthwise") / "assets" / "lab"))
    path = Path(name)
    restore(path)
    if path.exists():
        if not path.is_dir():
            raise ValueError(f"{path} is a file; name the directory of a checkpoint")
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ValueError(f"{failing} {name}: there is no directory {name} here")
    return None


def _check_template(file: Path, tokenizer: dict[str, Any]) -> None:
    """Refuse a template around texts that names tokens it lacks: on those, `tokenizers` panics."""
    processor = tokenizer.get("post_processor")
    inner = processor.get("processors") if isinstance(processor, dict) else None
    for one in [processor, *(inner if isinstance(inner, list) else [])]:
        if not isinstance(one, dict) or one.get("type") != "TemplateProcessing":
            continue
        known = one.get("special_tokens")
        for side in ("single", "pair"):
            for piece in one[side] if isinstance(one.get(side), list) else []:
                named = piece.get("SpecialToken") if isinstance(piece, dict) else None
                token = named.get("id") if isinstance(named, dict) else None
                if isinstance(token, str) and not (isinstance(known, dict) and token in known):
                    raise ValueError(
                        f"{file} is damaged: its post_processor puts {token!r} around texts, which "
                        "is not among its special_tokens"
                    )


def _check_ids(file: Path, tokenizer: dict[str, Any]) -> None:
    """Refuse ids so large that counting up to them, as saving does, takes minutes."""
    model = tokenizer.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    ids = list(words.values()) if isinstance(words, dict) else []
    added = tokenizer.get("added_tokens")
    if isinstance(added, list):
        ids += [one.get("id") for one in added if isinstance(one, dict)]
    largest = max((one for one in ids if isinstance(one, int)), default=0)
    if largest > MOST_IDS:
        raise ValueError(f"{file} has a token of the id {largest:,}; at most {MOST_IDS:,} is read")


def _check_weights(path: Path) -> None:
    weights = sorted(path.glob("*.safetensors"))
    adapter = path / "adapter_config.json"  # transformers would load it, from whatever is there
    pickled = adapter.exists() and not (path / "adapter_model.safetensors").exists()
    if not weights or pickled or not _all_safe(path):
        raise ValueError(
            f"{path} has no *.safetensors{' for its adapter' * pickled}; other weight formats can "
            "run code and are refused"
        )
    from safetensors import SafetensorError, safe_open

    for file in weights:
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged or cut short: {error}") from error


def _all_safe(path: Path) -> bool:
    """Whether every part that a list of weights names is a safetensors file of this directory."""
    for file in path.glob("*.safetensors.index.json"):
        listed = read_object(file).get("weight_map")
        if not isinstance(listed, dict):
            raise ValueError(f"{file} is damaged: it has no weight_map")
        for part in map(str, listed.values()):
            if not part.endswith(".safetensors") or Path(part).name != part:
                return False
            if not (path / part).is_file():
                raise ValueError(f"{path} has no {part}, which {file.name} lists")
    return True


def _check_config(config_file: Path) -> None:
    """Refuse numbers that transformers would take and no model can have: so many layers that
    building them does not end, sizes and windows below 1, rotary bases that are none, and rotary
    parameters without a base, for which it would take 10,000."""
    config = read_object(config_file)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, most in SIZES.items():
            if part.get(name) is not None and not _whole(part[name], most):
                raise ValueError(
                    f"{config_file} says {name} {_shown(part[name])}; it must be a whole number "
                    f"from 1 to {most:,}"
                )
    for part in (config, *_rotary(config, "rope_parameters"), *_rotary(config, "rope_scaling")):
        for name in BASES:
            value = part.get(name)
            none = value is None and part is config and name != "rope_theta"
            if not (name not in part or none or _base(value)):
                raise ValueError(
                    f"{config_file} says {name} {_shown(value)}; it must be a number above 0 and "
                    f"at most {MOST_BASE:g}, the base that the model was trained with"
                )
    _check_tokens(config_file, config)
    for name, what, good in (
        ("torch_dtype", "the name of a type such as bfloat16", _name_of_type),
        ("dtype", "the name of a type such as bfloat16", _name_of_type),
        ("architectures", "a list of names", _names),
    ):
        if config.get(name) is not None and not good(config[name]):
            raise ValueError(f"{config_file} says {name} {_shown(config[name])}; it must be {what}")
    lacking = any("rope_theta" not in one for one in _rotary(config, "rope_parameters"))
    if lacking and config.get("rope_theta") is None:
        raise ValueError(
            f"{config_file} has rope_parameters without rope_theta, the base of its frequencies; "
            "write the base that the model was trained with"
        )


def _check_generation(file: Path) -> None:
    """Refuse what no generation can go by: transformers takes anything, and looks at it late."""
    config = read_object(file) if file.is_file() else {}
    _check_tokens(file, config)
    for name in ("max_length", "max_new_tokens"):
        value = config.get(name)
        if value is not None and (isinstance(value, list) or not _whole(value, 1 << 31)):
            raise ValueError(
                f"{file} says {name} {_shown(value)}; it must be a whole number from 1 to "
                f"{1 << 31:,}"
            )
    for name in ("temperature", "top_p", "repetition_penalty"):
        value = config.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= MOST_BASE):
            raise ValueError(
                f"{file} says {name} {_shown(value)}; it must be a number of at least 0"
            )


def _check_tokens(file: Path, config: dict[str, Any]) -> None:
    """Refuse ids of tokens that no vocabulary has."""
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id"):
        value = config.get(name)
        # -1 is how old checkpoints say that there is no token for padding.
        none: tuple[Any, ...] = (None, [], -1) if name == "pad_token_id" else (None, [])
        if value not in none and not _whole(value, MOST_IDS, 0):
            raise ValueError(
                f"{file} says {name} {_shown(value)}; it must be a whole number from 0 to "
                f"{MOST_IDS:,}, or a list of them"
            )


def _name_of_type(value: Any) -> bool:
    """Of one number type, or of one for each part of a model."""
    parts = list(value.values()) if isinstance(value, dict) else [value]
    return all(isinstance(one, str) and one for one in parts)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _rotary(config: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects that say how keys turn: one, or one for each kind of layer."""
    given = config.get(name)
    if not isinstance(given, dict):
        return []
    return [value for value in given.values() if isinstance(value, dict)] or [given]


def _whole(value: Any, most: int, least: int = 1) -> bool:
    """Whether it is a whole number in a range, or a list of them, one for each layer."""
    entries = value if isinstance(value, list) and value else [value]
    return all(
        isinstance(one, int) and not isinstance(one, bool) and least <= one <= most
        for one in entries
    )


def _base(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= MOST_BASE  # and so not NaN


def _shown(value: Any) -> str:
    words = str(value) if isinstance(value, float) else json.dumps(value)
    return words if len(words) <= 40 else f"{words[:37]}..."
