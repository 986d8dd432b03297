"""C code is built once, kept where nobody else writes, and a build that fails is said."""

import ctypes
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lengthwise.core import built, native, operators
from lengthwise.core.attention import attend
from lengthwise.core.regions import Region

KIND = built.Kind("a plain processor", 8, ())
needs_compiler = pytest.mark.skipif(
    not built.kinds()[0] or built.library(built.AVX2)[0] is None, reason="no C compiler or no AVX2"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a file that is built in no time."""
    source = tmp_path / "seven.c"
    source.write_text("int lengthwise_seven(void) { return 7; }\n", encoding="utf-8")
    monkeypatch.setattr(built, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CC", built.ASKED):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "lengthwise"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what was loaded, and again at the end."""
    monkeypatch.setattr(built, "library", built.functools.cache(built.library.__wrapped__))
    monkeypatch.setattr(
        operators, "serving", operators.functools.cache(operators.serving.__wrapped__)
    )
    return built.library.cache_clear


def seven(library: ctypes.CDLL | None) -> int:
    assert library is not None
    return int(library.lengthwise_seven())


def script(folder: Path, words: str) -> str:
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{words}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    "capability,asked,wanted",
    [
        ("AVX512", "", ("AVX-512", "AVX2")),
        ("AVX512", "1", ("AVX-512", "AVX2")),
        ("AVX512", "avx512", ("AVX-512", "AVX2")),
        ("AVX512", "avx2", ("AVX2",)),
        ("AVX512", "0", ()),
        ("AVX2", "", ("AVX2",)),
        ("AVX2", "avx512", ("AVX2",)),
        ("DEFAULT", "", ()),
    ],
)
def test_no_more_than_the_processor_has_and_a_person_wants(
    monkeypatch: pytest.MonkeyPatch, capability: str, asked: str, wanted: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(built.sys, "platform", "linux")
    monkeypatch.setenv(built.ASKED, asked)
    kinds, reason = built.kinds()
    assert tuple(kind.title for kind in kinds) == wanted
    assert bool(reason) == (not wanted)


def test_other_words_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(built.ASKED, "sse")
    with pytest.raises(
        ValueError, match="LENGTHWISE_NATIVE must be 0, 1, avx2 or avx512, got 'sse'"
    ):
        built.kinds()


@pytest.mark.parametrize("why", ["asked for", "no compiler", "compiler fails", "does not load"])
def test_torch_serves_where_it_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: object, why: str
) -> None:
    said = {
        "asked for": "LENGTHWISE_NATIVE=0",
        "no compiler": r"no C compiler \(no-such-compiler\)",
        "compiler fails": r"failed: seven\.c:1:2: error: no such machine",
        "does not load": "failed: (file too short|invalid ELF|file data)",
    }[why]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    if why == "asked for":
        monkeypatch.setenv(built.ASKED, "0")
    elif why == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif why == "compiler fails":
        words = "echo 'In file' >&2; echo 'seven.c:1:2: error: no such machine' >&2; exit 1"
        monkeypatch.setenv("CC", script(tmp_path, words))
    else:  # the last argument of both commands is what they write
        words = 'for last; do :; done; echo nothing > "$last"'
        monkeypatch.setenv("CC", f"{script(tmp_path, words)} --with an=argument")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 2, n, 16, generator=generator) for n in (1, 90, 90))
        for _ in range(2):
            out = attend(q, k, v, [Region()], impl="decode").out
        whole = attend(q, k, v, [Region()], impl="reference").out
    torch.testing.assert_close(out, whole, atol=1e-5, rtol=0)
    text = native.why(16, 16)
    assert re.match(f"torch: .*{said}", text), text
    assert len(caught) == (why in ("compiler fails", "does not load"))  # once, and not in silence
    assert not list(tmp_path.glob("cache/lengthwise/*"))


@needs_compiler
def test_a_build_is_kept_and_needs_no_compiler_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seven(built._load(KIND, ["cc"])) == 7
    (kept,) = home.iterdir()
    assert home.stat().st_mode & 0o077 == 0 == kept.stat().st_mode & 0o077
    assert seven(built._load(KIND, ["no-such-compiler"])) == 7
    assert built._load(built.AVX2, ["no-such-compiler"]) is None  # other flags are another file


@needs_compiler
def test_what_is_not_whole_or_not_ours_is_not_loaded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file cut short, a changed one, one that others may write to, a link, somebody else's."""
    seven(built._load(KIND, ["cc"]))
    (kept,) = home.iterdir()
    good = kept.read_bytes()

    def put(content: bytes) -> None:  # in the place of what may be loaded
        (tmp_path / "fresh").write_bytes(content)
        (tmp_path / "fresh").chmod(0o600)
        os.replace(tmp_path / "fresh", kept)

    def loads() -> bool:
        return built._load(KIND, ["no-such-compiler"]) is not None

    for bad in (b"", good[:100], good[: len(good) // 2], good[:-1], good[:500] + b"!" + good[501:]):
        put(bad)
        assert not loads()
    put(good)
    assert loads()
    kept.chmod(0o620)
    assert not loads()
    kept.chmod(0o600)
    kept.rename(tmp_path / "elsewhere.so")
    kept.symlink_to(tmp_path / "elsewhere.so")
    assert not loads()
    assert seven(built._load(KIND, ["cc"])) == 7  # and is replaced
    assert loads() and not kept.is_symlink()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(RuntimeWarning, match="belongs to somebody else.*XDG_CACHE_HOME"):
        assert not loads()
    before = kept.stat()
    with pytest.warns(RuntimeWarning, match="belongs to somebody else"):
        assert seven(built._load(KIND, ["cc"])) == 7  # in a folder of this process
    assert kept.stat() == before


@needs_compiler
def test_a_cache_that_a_group_may_write_to_is_closed(home: Path) -> None:
    home.mkdir(parents=True)
    home.chmod(0o775)
    seven(built._load(KIND, ["cc"]))
    assert home.stat().st_mode & 0o777 == 0o755


@needs_compiler
def test_without_a_cache_it_is_built_for_the_process(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder can be made, or nothing can be written to it; nothing is left behind."""
    home.parent.write_text("a file, no folder", encoding="utf-8")
    assert seven(built._load(KIND, ["cc"])) == 7
    home.parent.unlink()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert seven(built._load(KIND, ["cc"])) == 7
    assert not list(home.iterdir())


@needs_compiler
def test_many_may_build_at_once(home: Path) -> None:
    results: list[int] = []
    crowd = [
        threading.Thread(target=lambda: results.append(seven(built._load(KIND, ["cc"]))))
        for _ in range(4)
    ]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert results == [7] * 4
    assert len(list(home.iterdir())) == 1
