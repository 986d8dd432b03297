"""Changed weights are another model, wherever in a tensor they changed."""

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from lengthwise.hf import weights
from lengthwise.hf.weights import fingerprint
from lengthwise.testing.models import tiny_model
from lengthwise.train.loop.adapters import base_print

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_number_of_one_weight_makes_another_model(dtype: torch.dtype) -> None:
    model = tiny_model("qwen2").to(dtype)
    whole, print_ = fingerprint(model), base_print(model)
    assert fingerprint(copy.deepcopy(model)) == whole and len(whole) == 12
    for name, weight in model.state_dict().items():
        for place in (0, weight.numel() // 2, -1):
            flat = weight.view(-1)
            before = flat[place].clone()
            flat[place] += 1
            assert fingerprint(model) != whole, (name, place)
            assert base_print(model) != print_, (name, place)
            flat[place] = before
    assert fingerprint(model) == whole


def test_order_shape_type_and_frequencies_count_too() -> None:
    model = tiny_model("llama")
    whole = fingerprint(model)
    with torch.no_grad():  # all bytes are there, at other places
        first, second = (layer.self_attn.q_proj.weight for layer in model.model.layers)
        before = first.clone()
        first.copy_(second)
        second.copy_(before)
    assert fingerprint(model) != whole
    assert fingerprint(tiny_model("llama").bfloat16()) != whole
    other = tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert fingerprint(other) != whole
    assert fingerprint(tiny_model("llama")) == whole


def test_tied_transposed_and_single_numbers_are_read() -> None:
    model = tiny_model("gemma2")  # its head is its embedding
    model.register_buffer("scale", torch.tensor(2.0))
    model.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    whole = fingerprint(model)
    model.scale += 1
    assert fingerprint(model) != whole
    model.scale -= 1
    model.turned[2, 1] += 1
    assert fingerprint(model) != whole


def test_adapters_know_their_base_in_any_type() -> None:
    model = tiny_model("llama")
    assert base_print(model) == base_print(copy.deepcopy(model).bfloat16())
    assert fingerprint(model) != fingerprint(copy.deepcopy(model).bfloat16())


def test_forked_processes_can_tell_weights_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch makes its threads anew after a fork before several threads ask for them at once.

    They break it in about 1 of 30 processes where they do, so the order is looked at too.
    """
    model = tiny_model("llama")
    wanted = fingerprint(model, torch.bfloat16)
    for _ in range(20):
        child = os.fork()
        if not child:
            status = 9
            try:
                status = int(fingerprint(model, torch.bfloat16) != wanted)
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    order: list[str] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *args: Any, **named: Any) -> Any:
            order.append("hashed")
            return super().submit(*args, **named)

    monkeypatch.setattr(torch, "set_num_threads", lambda count: order.append("made anew"))
    monkeypatch.setattr(weights, "ThreadPoolExecutor", Pool)
    fingerprint(model)
    assert order[:2] == ["made anew", "hashed"]
