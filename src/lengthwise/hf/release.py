"""The releases of transformers that are known, and the one word in which they differ for us.

Since 5.24 a forward takes and returns the cache as `cache`; before, as `past_key_values`. Facts of
transformers that this rests on are tests: tests/hf/test_release.py.
"""

import re
from inspect import signature
from typing import Any

import transformers
from transformers.masking_utils import create_causal_mask

KNOWN = ("5.23", "5.24")  # of each, `make versions` runs the tests

NAMES = ("past_key_values", "cache")

CACHE = "cache" if "cache" in signature(create_causal_mask).parameters else "past_key_values"


def take_cache(named: dict[str, Any]) -> Any:
    """Take the cache out of a call's keywords, under whichever of its names; None without one.

    Raises:
        ValueError: If both names are given.
    """
    given = [value for name in NAMES if (value := named.pop(name, None)) is not None]
    if len(given) > 1:
        raise ValueError(f"two caches, as {' and as '.join(NAMES)}; pass one, as {CACHE}")
    return given[0] if given else None


def cache_of(output: Any) -> Any:
    """The cache that a forward returned."""
    return getattr(output, CACHE)


def refuse_unknown_release(version: str = transformers.__version__) -> None:
    """Raise ValueError for a release of transformers that lengthwise was never tried with."""
    found = re.match(r"\d+\.\d+", version)
    if found is None or found[0] not in KNOWN:
        raise ValueError(
            f"transformers {version} is not known to this lengthwise, which rests on the internals "
            f"of {' and '.join(KNOWN)}; install one of them: "
            f"pip install 'transformers>={KNOWN[0]},<{_after(KNOWN[-1])}'"
        )


def _after(release: str) -> str:
    major, minor = release.split(".")
    return f"{major}.{int(minor) + 1}"
