"""lengthwise: language models at lengths they were not built for.

    model, tokenizer = lw.load("demo")
    lw.adapt(model, lw.YaRN(factor=8), lw.StreamingLLM(window=256))

Every method is here by its paper's name: `lw.YaRN`, `lw.SelfExtend`; `lengthwise methods` lists
them all.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lengthwise.extend.adapt import adapt as adapt
    from lengthwise.extend.adapt import adapted as adapted
    from lengthwise.extend.adapt import new_cache as new_cache
    from lengthwise.extend.adapt import restore as restore
    from lengthwise.extend.checkpoint import load as load
    from lengthwise.extend.checkpoint import save as save
    from lengthwise.extend.context import load_context as load_context
    from lengthwise.extend.context import save_context as save_context
    from lengthwise.extend.edit import edit as edit
    from lengthwise.extend.explain import explain as explain
    from lengthwise.extend.layouts import *  # noqa: F403
    from lengthwise.extend.layouts.code_units import hirope_positions as hirope_positions
    from lengthwise.extend.scaling import *  # noqa: F403
    from lengthwise.extend.scaling.head_scale import tune_head_scale as tune_head_scale
    from lengthwise.extend.scaling.t5_align import align_t5 as align_t5
    from lengthwise.extend.scaling.temp_scale import length_collapse as length_collapse
    from lengthwise.extend.selectors import *  # noqa: F403
    from lengthwise.extend.stores import *  # noqa: F403
    from lengthwise.hf.inner import text_model as text_model
    from lengthwise.search import longrope2_search as longrope2_search
    from lengthwise.search import longrope_search as longrope_search
    from lengthwise.search.prefix import prefix_budgets as prefix_budgets

# Names are looked up when they are first used (PEP 562): importing torch and transformers takes
# seconds, and `lengthwise --help` needs neither.
_VERBS = {
    "adapt": "lengthwise.extend.adapt",
    "adapted": "lengthwise.extend.adapt",
    "align_t5": "lengthwise.extend.scaling.t5_align",
    "edit": "lengthwise.extend.edit",
    "explain": "lengthwise.extend.explain",
    "hirope_positions": "lengthwise.extend.layouts.code_units",
    "length_collapse": "lengthwise.extend.scaling.temp_scale",
    "load": "lengthwise.extend.checkpoint",
    "load_context": "lengthwise.extend.context",
    "longrope2_search": "lengthwise.search",
    "longrope_search": "lengthwise.search",
    "new_cache": "lengthwise.extend.adapt",
    "prefix_budgets": "lengthwise.search.prefix",
    "restore": "lengthwise.extend.adapt",
    "save": "lengthwise.extend.checkpoint",
    "save_context": "lengthwise.extend.context",
    "text_model": "lengthwise.hf.inner",
    "tune_head_scale": "lengthwise.extend.scaling.head_scale",
}
_FAMILIES = ("scaling", "layouts", "selectors", "stores")
_ROOMS = ("lab", "measure", "testing", "train")


def _home(name: str) -> Any:
    """The module that exports `name`, or None."""
    if name in _VERBS:
        return import_module(_VERBS[name])
    if name.startswith("_"):
        return None
    families = (import_module(f"lengthwise.extend.{family}") for family in _FAMILIES)
    return next((family for family in families if name in family.__all__), None)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"lengthwise.{name}")
    if name == "__version__":
        return version("lengthwise")
    if name == "__all__":
        return [one for one in __dir__() if not one.startswith("_")]
    home = _home(name)
    if home is None:
        raise AttributeError(f"module 'lengthwise' has no attribute {name!r}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    methods = [
        name
        for family in _FAMILIES
        for name in import_module(f"lengthwise.extend.{family}").__all__
    ]
    own = ["__version__", *(name for name in globals() if name.startswith("__"))]
    return sorted([*own, *_VERBS, *_ROOMS, *methods])
