"""`lengthwise methods`."""

import re
from collections.abc import Callable

import lengthwise as lw
from lengthwise.catalogue import INTERNAL, methods


def test_the_list_has_every_method_and_axis(call: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = call("methods")
    assert (status, err) == (0, "")
    listed = {line.split()[0] for line in out.splitlines() if re.match(r"  \w", line)}
    assert listed == methods().keys() - set(INTERNAL)
    assert all(f"{axis}: " in out for axis in ("Scaling", "Layout", "Selector", "Store"))
    assert max(map(len, out.splitlines())) <= 100


def test_one_method_in_full(call: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = call("methods", "self_extend")
    assert (status, err) == (0, "")
    assert out.startswith("SelfExtend (layout)\n")
    assert "Source: Jin et al. 2024" in out and "Reduces to: plain causal attention" in out
    assert "Neighbouring positions that become one, at least 1. Default 8." in out
    line = next(line for line in out.splitlines() if "lw.adapt" in line)
    assert eval(line.strip().removeprefix("lw.adapt(model, ").removesuffix(")")) == lw.SelfExtend()


def test_an_unknown_method(refused: Callable[..., str]) -> None:
    assert "did you mean InfLLM?" in refused("methods", "infllmm")
