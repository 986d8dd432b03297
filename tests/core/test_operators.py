"""The C code as operators of torch: a compiler and a profiler see what they do."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.kinds import needs_compiler
from torch import Tensor

import lengthwise as lw
from lengthwise.core import built, native, operators
from lengthwise.core.attention.band import band
from lengthwise.core.attention.decode import decode
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.regions import Region
from lengthwise.testing.models import tiny_model


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    operators.serving.cache_clear()
    yield
    torch._dynamo.reset()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def circle(positions: int, pairs: int) -> tuple[Tensor, Tensor]:
    angles = draw(1, 1, positions, pairs)
    return angles.cos(), angles.sin()


def step_arguments(dtype: torch.dtype, d: int, two: bool) -> tuple[object, ...]:
    """Two rows, four heads of two; the sixth token behind a run of five, and an older buffer."""
    keys, values, older, oldest = (draw(2, 2, n, d).to(dtype) for n in (9, 9, 4, 4))
    positions = torch.zeros(2, 1, 9, dtype=torch.long)
    q, k, v = (draw(2, 1, n, d, seed=n).to(dtype).transpose(1, 2) for n in (4, 2, 2))
    circles = torch.stack([torch.stack([x[0, 0] for x in circle(n, d // 4)]) for n in (8, 8)])
    parts = [1, 1, 3, 1, 0, 0, 6, 0] if two else [0, 0, 6, 0]
    others = [older, oldest] if two else None
    return (
        keys, values, positions, q, k, v, circles, parts, 5, 9, 3, two, 1.0, d**-0.5, others,
    )  # fmt: skip


@needs_compiler
def test_opcheck() -> None:
    """Schema, what is changed, shapes without numbers, and gradients, of every operator."""
    for dtype in native.STEPS:
        for b, h, t, width, pairs in ((1, 1, 1, 16, 8), (2, 3, 5, 40, 12), (3, 2, 33, 64, 32)):
            x = draw(b, t, h, width).to(dtype).transpose(1, 2)
            torch.library.opcheck(operators.turn, (x, *circle(t, pairs), t == 5))
            d, keys = 8 * (1 + h), 7 * t
            parts = [draw(b, 2 * h, t, d).to(dtype)] * 2
            k, v = ([draw(b, h, n, d, seed=s).to(dtype) for n in (keys, 3)] for s in (1, 2))
            torch.library.opcheck(operators.decode, (parts, k, v, 0.2))
        for d, two in ((16, False), (64, True)):
            torch.library.opcheck(operators.step, step_arguments(dtype, d, two))
    for b, kv, t, n, d in ((1, 1, 1, 5, 32), (2, 2, 40, 60, 64), (1, 3, 100, 100, 16)):
        q, k, v = draw(b, 2 * kv, t, d), draw(b, kv, n, d), draw(b, kv, n, d, seed=1)
        torch.library.opcheck(operators.band, (q, k, v, n - t, 0, native.NO_LIMIT, 0, n, 0.2))
        torch.library.opcheck(operators.band, (q, k, v, n - t, 2, 30, 1, n - 1, 0.2))


def compiled(function: Callable[..., object]) -> Callable[..., object]:
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)


@needs_compiler
def test_a_whole_graph_has_the_same_bits() -> None:
    """Through the questions who takes it, and with the gradient of a rotation."""
    q, k, v, weights = draw(2, 4, 3, 32), draw(2, 2, 9, 32), draw(2, 2, 9, 32, seed=1), draw(32)
    cos, sin = circle(3, 16)
    places, window, everything = torch.arange(9).expand(2, 1, 9), Region(far=4), Region()

    def read(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        assert native.takes_turn(q, cos)
        turned = native.turn(q, cos, sin, False)
        queries = Queries(turned, places[:, 0, 6:], None, 6)
        block = KeyBlock(k, v, places, None, 0)
        near = band(queries, block, window, scale=0.2)
        last = decode([(everything, queries.times(2, 3), block)], scale=0.2, softcap=None)
        return turned, *near, *last

    with torch.no_grad():
        plain, whole = read(q, k, v), compiled(read)(q, k, v)
    assert all(torch.equal(a, b) for a, b in zip(plain, whole, strict=True))  # type: ignore[call-overload]

    def loss(q: Tensor) -> Tensor:
        return (native.turn(q * 2, cos, sin, True).sin() * weights).sum()

    grads = []
    for function in (loss, compiled(loss)):
        live = q.clone().requires_grad_()
        function(live).backward()  # type: ignore[attr-defined]
        assert live.grad is not None and live.grad.abs().sum() > 0
        grads.append(live.grad)
    assert torch.equal(*grads)


@needs_compiler
def test_a_whole_graph_fills_the_room_of_a_token() -> None:
    for two in (False, True):
        rooms = []
        for function in (operators.step, compiled(lambda *x: operators.step(*x))):
            arguments = step_arguments(torch.float32, 32, two)
            rooms.append((function(*arguments), *arguments[:3]))
        for a, b in zip(*rooms, strict=True):
            assert torch.equal(a, b) and a.abs().sum() > 0


def called(model: torch.nn.Module) -> dict[str, int]:
    """How often generating eight tokens called each operator, as the profiler has it."""
    ids = torch.arange(3, 19)[None]
    with torch.no_grad(), torch.profiler.profile() as seen:
        model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)  # type: ignore[operator]
    found = {event.key: event.count for event in seen.key_averages()}
    return {key: count for key, count in found.items() if key.startswith("lengthwise::")}


@needs_compiler
def test_a_profiler_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lw.adapt(tiny_model("llama", head_dim=16))
    layers, found = model.config.num_hidden_layers, called(model)
    assert found["lengthwise::step"] == 7 * layers and found["lengthwise::turn"] == 2 * layers
    long = called(lw.adapt(tiny_model("llama", head_dim=16), lw.SelfExtend(group=2, window=8)))
    assert long["lengthwise::decode"] == 7 * layers and "lengthwise::step" not in long
    monkeypatch.setenv(built.ASKED, "0")
    operators.serving.cache_clear()
    assert called(model) == {}
    operators.serving.cache_clear()


@needs_compiler
def test_threads_that_call_at_once() -> None:
    arguments = [step_arguments(torch.float32, 32, two) for two in (False, True) * 4]
    alone = [operators.step(*step_arguments(torch.float32, 32, two)) for two in (False, True) * 4]
    same: list[bool] = []

    def run(index: int) -> None:
        outs = [operators.step(*arguments[index]) for _ in range(50)]
        same.append(all(torch.equal(out, alone[index]) for out in outs))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 8


@needs_compiler
def test_what_the_code_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the operators themselves, that anybody may call."""
    q, (cos, sin) = draw(1, 2, 3, 16), circle(3, 8)
    with pytest.raises(ValueError, match="float64"):
        operators.turn(q.double(), cos, sin, False)
    with pytest.raises(ValueError, match=r"one type, got torch\.float32 and torch\.bfloat16"):
        operators.decode([q], [q.bfloat16()], [q], 0.2)
    with pytest.raises(ValueError, match="bands of float32"):
        operators.band(*[q.bfloat16()] * 3, 0, 0, 3, 0, 3, 0.2)
    holes = draw(1, 2, 16, 3).transpose(2, 3)
    for read in (lambda x: operators.band(x, x, x, 0, 0, 3, 0, 3, 0.2)[0],
                 lambda x: operators.decode([x], [x], [x], 0.2)[0],
                 lambda x: operators.turn(x, cos, sin, False)):  # fmt: skip
        assert torch.equal(read(holes), read(holes.contiguous()))
    monkeypatch.setenv(built.ASKED, "0")
    operators.serving.cache_clear()
    with pytest.raises(RuntimeError, match="LENGTHWISE_NATIVE=0"):
        operators.turn(q, cos, sin, False)
    operators.serving.cache_clear()


def test_loaded_again_they_stay() -> None:
    """And loading them loads no compiler."""
    code = (
        "import importlib, sys, lengthwise.core.operators as o; first = o.turn; "
        "importlib.reload(o); assert o.turn is first; del sys.modules[o.__name__]; "
        "assert importlib.import_module(o.__name__).turn is first; "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"], done.stderr
