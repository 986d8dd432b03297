"""A few of the servers of `servers.py`; the whole is `python tests/fuzz/servers.py`."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def load() -> Any:
    spec = importlib.util.spec_from_file_location(
        "fuzzed_servers", Path(__file__).parent / "servers.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


servers = load()
servers.TIMEOUT, servers.BOUND = 30.0, 120.0  # none of these takes its time; a busy machine does
FEW = (
    "as it should be", "half a surrogate pair", "digits that are none", "completion_tokens nan",
    "never ended", "a reset in the middle", "100,000 deep", "choices of numbers", "a bomb in gzip",
    "a prompt cut to 50 tokens", "content filter", "401",
)  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_a_server(name: str) -> None:
    kind, behave = servers.all_named()[name]
    assert servers.wrong(kind, behave) == []


def test_there_are_as_many_as_the_command_says() -> None:
    groups = (servers.SOUND, servers.BROKEN, servers.FINAL, servers.FATAL)
    assert len(servers.all_named()) == sum(map(len, groups)) > 120
