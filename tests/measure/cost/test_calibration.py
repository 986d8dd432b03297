"""Calibration: what is counted, rates from times, and where they are kept."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import lengthwise as lw
from lengthwise.core import native
from lengthwise.extend.adapt import binding_of
from lengthwise.hf.families import read_geometry
from lengthwise.hf.skeleton import skeleton
from lengthwise.measure.cost import calibration
from lengthwise.measure.cost.calibration import Rates, Timed, calibrate, fit, load, machine, save
from lengthwise.measure.cost.devices import DEVICES
from lengthwise.measure.cost.plan import count_weights, prefill_flops, store_bytes
from lengthwise.measure.cost.serving import method_cost
from lengthwise.measure.cost.work import Read, Step, count_read, count_step
from lengthwise.testing.models import tiny_model

METHODS = {
    "none": (),
    "yarn": (lw.YaRN(4.0),),
    "streamingllm": (lw.StreamingLLM(sinks=4, window=28),),
    "lminfinite": (lw.LMInfinite(sinks=4, window=32),),
    "selfextend": (lw.SelfExtend(group=4, window=16),),
    "infllm": (lw.InfLLM(pages=2, page_size=8, sinks=4, window=16),),
}


def engine_of(model, methods):
    lw.adapt(model, *methods)
    return binding_of(model).engine


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("name", METHODS)
def test_bytes_with_methods_equal_real_caches(family: str, name: str) -> None:
    model = tiny_model(family)
    engine = engine_of(model, METHODS[name])
    cache = lw.new_cache(model)
    with torch.no_grad():
        model(input_ids=torch.arange(60)[None] + 3, past_key_values=cache, use_cache=True)
    assert store_bytes(engine, 60, torch.float32) == cache.bytes()


def test_what_is_counted_of_a_plain_model() -> None:
    model = tiny_model("llama")
    read = count_read(model, None, 48, 4, chunk=16)
    # Every chunk has the head once; the sum over samples is exact for what rises evenly.
    head = 2 * model.get_output_embeddings().weight.numel()
    whole = prefill_flops(read_geometry(model), count_weights(model), 48)
    assert read.products + read.attention == pytest.approx(whole + 2 * head, rel=1e-9)
    assert read.forwards == read.parts == 2 * 3 and read.choices == 0
    key = 2 * 8 * 4  # KV heads of 8 numbers of 4 bytes
    assert read.moved == 2 * 2 * key * (16 + 32 + 48) and read.renewed == 0
    step = count_step(model, None, 48, 4)
    assert step.keys == step.moved == 2 * 2 * key * 48


def test_windows_and_selectors_bound_what_is_read() -> None:
    counts = {}
    for name, methods in METHODS.items():
        model = skeleton(tiny_model("llama").config)
        engine = engine_of(model, methods)
        counts[name] = count_read(model, engine, 2048, 4), count_step(model, engine, 2048, 4)
    full, stream, paged = (counts[name] for name in ("none", "streamingllm", "infllm"))
    assert stream[1].keys == 2 * 2 * (2 * 8 * 4) * 32  # layers, keys and values, heads, tokens
    assert stream[0].attention < full[0].attention / 20
    assert counts["selfextend"][0].attention == pytest.approx(full[0].attention)
    assert counts["selfextend"][1].moved > 0 == full[1].moved
    assert paged[0].attention == 0 < paged[0].paged < full[0].attention and paged[1].choices == 2
    assert paged[1].scored == 2 * (2 * 8 * 4) * 4 * ((2048 - 4 - 16) // 8)


def made_up(kind: type[Read] | type[Step], seed: int) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)
    return {one.name: torch.rand((), generator=g).item() * 1e-9 for one in fields(kind)}


def test_rates_are_found_from_times() -> None:
    truth = Rates(
        {},
        {side: made_up(Read, n) for n, side in enumerate(("plain", "adapted"))},
        {side: made_up(Step, 2 + n) for n, side in enumerate(("plain", "adapted"))},
        0.0,
    )
    g, timed = torch.Generator().manual_seed(9), []
    for number in range(80):
        read = Read(*(1e9 * torch.rand(len(fields(Read)), generator=g)).tolist())
        step = Step(*(1e9 * torch.rand(len(fields(Step)), generator=g)).tolist())
        plain = bool(number % 2)
        timed.append(
            Timed(plain, read, truth.seconds(read, plain), step, truth.seconds(step, plain))
        )
    found = fit(timed, {"any": 1})
    assert found.worst < 1e-6 and found.machine == {"any": 1}
    for side in ("plain", "adapted"):
        assert found.read[side] == pytest.approx(truth.read[side], rel=1e-5)
        assert found.step[side] == pytest.approx(truth.step[side], rel=1e-5)


@pytest.fixture
def tiny_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Calibrating takes a second, and its file lies in a folder of the test."""
    monkeypatch.setattr(calibration, "SHAPES", ((32, 64, 2, 1, 16, 1), (64, 96, 2, 2, 32, 2)))
    monkeypatch.setattr(calibration, "TEXTS", (64, 600))
    monkeypatch.setattr(calibration, "CACHED", (1000,))
    monkeypatch.setattr(calibration, "STEPS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_machine_is_calibrated_and_remembered(tiny_run: None, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = calibrate(torch.float32, lambda *done: seen.append(done))
    assert seen == [(n, 14) for n in range(14)]
    model = skeleton(tiny_model("llama").config)
    for side in ("plain", "adapted"):
        for kind, rates in ((Read, found.read[side]), (Step, found.step[side])):
            assert set(rates) == {one.name for one in fields(kind)}
            assert all(rate >= 0 for rate in rates.values()) and any(rates.values())
    assert load(torch.float32) is None
    path = save(found, torch.float32)
    assert path.parent == tmp_path / "lengthwise" and load(torch.float32) == found
    assert load(torch.bfloat16) is None
    costs = [
        method_cost(model, None, DEVICES["h100"], n, 1, torch.float32, found) for n in (64, 6400)
    ]
    assert 0 < (costs[0].prefill or 0) < (costs[1].prefill or 0)


@pytest.mark.parametrize("spoil", ["other machine", "other code", "no json", "old names", "a list"])
def test_rates_that_do_not_hold_here_are_left_alone(
    spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sides = ("plain", "adapted")
    good = Rates(
        machine(torch.float32),
        {side: made_up(Read, 0) for side in sides},
        {side: made_up(Step, 0) for side in sides},
        0.1,
    )
    path = save(good, torch.float32)
    assert load(torch.float32) == good
    if spoil == "other machine":
        save(replace(good, machine={**good.machine, "threads": 99}), torch.float32)
    elif spoil == "other code":  # the same processor, with other kernels
        monkeypatch.setattr(native, "why", lambda *size: "kernels of another day")
    elif spoil == "old names":
        record = json.loads(path.read_text())
        del record["read"]["plain"]["attention"]
        path.write_text(json.dumps(record))
    else:
        path.write_text("{" if spoil == "no json" else "[]")
    assert load(torch.float32) is None


def test_bounds_from_a_data_sheet() -> None:
    model, device = skeleton(tiny_model("llama").config), DEVICES["h100"]
    full = method_cost(model, None, device, 4096, 1, torch.float32)
    stream = method_cost(model, METHODS["streamingllm"], device, 4096, 1, torch.float32)
    assert full.prefill and stream.prefill and stream.prefill < full.prefill
    assert stream.kv_user < full.kv_user and stream.users > full.users
    many = method_cost(model, None, device, 4096, 64, torch.float32)
    assert many.decode and full.decode and full.decode < many.decode < 64 * full.decode


def test_methods_that_do_not_fit_are_refused() -> None:
    model = skeleton(tiny_model("llama").config)
    with pytest.raises(ValueError, match="window must be below the trained window"):
        method_cost(
            model, (lw.SelfExtend(group=4, window=4096),), DEVICES["h100"], 64, 1, torch.float32
        )
