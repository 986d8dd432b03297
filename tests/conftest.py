"""Every test runs offline, on one thread, from the same seeds."""

import os

# Before torch and transformers are imported, and inherited by the commands that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gc
import ipaddress
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# A shell makes what it starts in the background deaf to Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are drawn alike in every run, and a slow machine fails nothing.
settings.register_profile("lengthwise", derandomize=True, deadline=None)
settings.load_profile("lengthwise")


def is_local(address: Any) -> bool:
    """Whether a socket address stays on this machine (a loopback address or a Unix socket)."""
    if not isinstance(address, tuple):
        return True
    host = address[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name that would have to be looked up
        return False


def refusing(connect: Any) -> Any:
    """The given `socket.connect`, for local addresses only."""

    def connect_locally(self: socket.socket, address: Any) -> Any:
        if not is_local(address):
            raise RuntimeError(f"a test asked for the network at {address}: tests run offline")
        return connect(self, address)

    return connect_locally


def pytest_collection_finish() -> None:
    """What was imported stays: collecting garbage need not look through all of it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With `--durations`, say how long the tests of each folder took, in all processes together."""
    if terminalreporter.config.getoption("durations") is None:
        return
    seconds: dict[str, float] = {}
    tests: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = "/".join(report.nodeid.split("::")[0].split("/")[:-1][:2])
                seconds[folder] = seconds.get(folder, 0.0) + report.duration
                tests[folder] = tests.get(folder, 0) + (report.when == "call")
    terminalreporter.section("seconds by folder")
    for folder, total in sorted(seconds.items(), key=lambda of: -of[1]):
        terminalreporter.write_line(f"{total:6.1f} s {tests[folder]:6,} tests  {folder}")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, refusing(getattr(socket.socket, name)))
        yield


@pytest.fixture(autouse=True)
def same_seeds() -> None:
    # Ours take a generator; this is for what transformers draws from the global one.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a trained window of 64 tokens that never ends an answer."""
    from lengthwise.testing.models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@contextmanager
def _small_disk(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Within it writes fail beyond so many bytes of a file, as they do on a full disk."""
    return _small_disk
