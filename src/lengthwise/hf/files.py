"""The files of a checkpoint, looked at without torch before anything is loaded."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from lengthwise.files import restore

# Read by transformers as objects; a checkpoint may lack all but the first.
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
    "special_tokens_map.json", "added_tokens.json", "processor_config.json", "adapter_config.json",
)  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
MOST_LAYERS = 10_000
MOST_IDS = 1 << 24


def find_checkpoint(name: str) -> str:
    """The name by which transformers finds a checkpoint: a sound directory, or one of the hub's.

    Raises:
        ValueError: If there is no such directory, or a file in it is missing or damaged.
    """
    path = _local(name)
    if path is None:
        return name
    if not (path / "config.json").is_file():
        raise ValueError(f"no checkpoint at {path}: it has no config.json")
    check_objects(path)
    _check_config(path / "config.json")
    _check_weights(path)
    return str(path)


def find_tokenizer(name: str) -> str:
    """The same for a tokenizer alone, which needs no model beside it."""
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
    """Refuse what transformers would take: so many layers that building them does not end, and
    rotary parameters without a base, for which it would take 10,000."""
    config = read_object(config_file)
    for name in LAYERS:
        if isinstance(config.get(name), int) and config[name] > MOST_LAYERS:
            raise ValueError(
                f"{config_file} says {name} {config[name]:,}; at most {MOST_LAYERS:,} are built"
            )
    given = config.get("rope_parameters")
    if not isinstance(given, dict) or "rope_theta" in config:
        return
    nested = [value for value in given.values() if isinstance(value, dict)]
    if any("rope_theta" not in one for one in nested or [given]):
        raise ValueError(
            f"{config_file} has rope_parameters without rope_theta, the base of its frequencies; "
            "write the base that the model was trained with"
        )
