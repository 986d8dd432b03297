"""The C code as every kind of processor runs it: to be imported by name where tests call it."""

from collections.abc import Iterator

import pytest

from lengthwise.core import built, operators

KINDS = [kind for kind in built.kinds()[0] if built.library(kind)[0] is not None]
needs_compiler = pytest.mark.skipif(not KINDS, reason="no C compiler or no AVX2")


@pytest.fixture(
    name="kind", autouse=True, params=KINDS or [None], ids=lambda kind: kind and kind.title
)
def every_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Every kind of code that this processor runs, as if it had no wider one."""
    if request.param is not None:
        monkeypatch.setattr(built, "kinds", lambda: (KINDS[KINDS.index(request.param) :], ""))
    operators.serving.cache_clear()
    yield request.param
    operators.serving.cache_clear()
