"""The short way of one token says what the long one does, and is taken where it should be."""

import copy
from collections.abc import Callable

import pytest
import torch
from tests.kinds import every_kind  # noqa: F401

import lengthwise as lw
from lengthwise.core import native
from lengthwise.extend.engine import Engine
from lengthwise.testing.models import VOCABULARY, tiny_model

PLAIN: dict[str, dict[str, object]] = {
    "llama": {"head_dim": 16},
    "mistral": {"head_dim": 32},  # a window everywhere
    "gemma3_text": {"head_dim": 16},  # a ring for local layers, two bases
    "gpt_neox": {"hidden_size": 64, "num_attention_heads": 2},  # half of a head is turned
    "smollm3": {"head_dim": 16},  # a layer without positions
    "qwen3": {"head_dim": 48},
}
METHODS = {
    "none": (),
    "window": (lw.SlidingWindow(7),),
    "ring": (lw.StreamingLLM(sinks=2, window=11),),
    "no sinks": (lw.StreamingLLM(sinks=0, window=5),),
    "own places": (lw.StreamingLLM(sinks=2, window=11), lw.Causal()),
    "factor": (lw.YaRN(factor=4.0),),
    "drawn in": (lw.PI(factor=2.0),),
}


PAGED = {
    "pages": (lw.InfLLM(pages=2, page_size=8, sinks=4, window=16),),
    "pages where they stand": (lw.InfLLM(pages=3, page_size=5, sinks=0, window=8), lw.Causal()),
    "pages beyond groups": (lw.InfLLM(pages=2, window=8, page_size=8), lw.STRING(4, 2)),
    "pages by bounds": (lw.Quest(pages=2, page_size=5, sinks=3, window=9),),
    "pages in a row": (lw.LongHeads(chunks=4, chunk=4),),
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each token of a layer that went the short way."""
    taken: list[int] = []

    def watched(own: Callable[..., torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
        def step(*args: object, **kwargs: object) -> torch.Tensor | None:
            out = own(*args, **kwargs)
            if out is not None:
                taken.append(1)
            return out

        return step

    for name in ("step", "paged"):
        monkeypatch.setattr(native, name, watched(getattr(native, name)))
    return taken


@torch.no_grad()
def read(model: torch.nn.Module, ids: torch.Tensor, first: int, short: bool) -> tuple:
    """Logits of all tokens, the first ones at once, and what the cache holds then."""
    before = Engine._quick
    if not short:
        Engine._quick = lambda *args: None  # type: ignore[method-assign]
    try:
        cache = lw.new_cache(model)
        outs = [model(ids[:, :first], past_key_values=cache).logits]
        outs += [
            model(ids[:, i : i + 1], past_key_values=cache).logits
            for i in range(first, ids.shape[1])
        ]
    finally:
        Engine._quick = before  # type: ignore[method-assign]
    kept = []
    for layer in cache.layers:
        held = layer.state.store
        chosen = layer.state.selector
        if chosen is not None:
            kept += [chosen.seen, chosen.slots.slots, *chosen.made]
            kept += [] if chosen.noted is None else [chosen.noted]
        parts = held.buffers if hasattr(held, "buffers") else [held]
        for part in parts:
            end = getattr(part, "used", None)
            kept += [x[:, :, :end] for x in (part.keys, part.values, part.positions)]
    return torch.cat(outs, 1), kept


def test_equals_the_long_way(kind: object, counted: list[int]) -> None:
    """What the cache holds to the last bit, for every kind of head and of store."""
    ids = torch.randint(3, VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(1))
    for dtype, near in ((torch.float32, 2e-5), (torch.bfloat16, 0.02)):
        cases = [(family, "none") for family in PLAIN]
        cases += [("llama", name) for name in METHODS if name != "none"]
        cases += [("gpt_neox", "ring")]
        for family, name in cases:
            model = lw.adapt(tiny_model(family, **PLAIN[family]).to(dtype), *METHODS[name])
            counted.clear()
            case = f"{family} {name} {dtype}"
            got, held = read(model, ids, 20, short=True)
            tokens = 40 * model.config.num_hidden_layers
            assert len(counted) >= (0.9 * tokens if kind else 0), (case, len(counted))
            want, kept = read(model, ids, 20, short=False)
            assert len(held) == len(kept) and len(counted) <= tokens, case
            scale = want.float().abs().max()
            torch.testing.assert_close(
                got.float() / scale, want.float() / scale, atol=near, rtol=0, msg=case
            )
            for a, b in zip(held, kept, strict=True):  # of the first layer nothing went before
                same = torch.equal(a, b) if b is kept[0] or b is kept[2] else True
                assert same and a.shape == b.shape, case


@torch.no_grad()
def test_pages_are_those_of_the_long_way(kind: object, counted: list[int]) -> None:
    """Also what is noted of them, for layers with a window of their own and without places.

    In float32: halves that are rounded elsewhere choose other pages in the next layer.
    """
    ids = torch.randint(3, VOCABULARY, (2, 110), generator=torch.Generator().manual_seed(1))
    for family, changes in (*PLAIN.items(), ("llama", {"head_dim": 64})):
        for name, methods in PAGED.items():
            model = lw.adapt(tiny_model(family, **changes), *methods)
            counted.clear()
            got, held = read(model, ids, 40, short=True)
            case = f"{family} {name}"
            own = family == "mistral" and name == "pages"  # its window is all that there is
            assert bool(counted) == (bool(kind) and not own), case
            want, kept = read(model, ids, 40, short=False)
            torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4, msg=case)
            for a, b in zip(held, kept, strict=True):
                torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=case)


def test_what_goes_the_long_way(counted: list[int]) -> None:
    """Changed scores, places that change, choices, padding, documents, and gradients."""
    ids = torch.randint(3, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(2))
    wide = {"head_dim": 16}
    cases = [
        ("gemma2", {}, (), {}), ("gpt_oss", {}, (), {}),
        ("llama", wide, (lw.SelfExtend(group=2, window=8),), {}),
        ("llama", wide, (lw.LMInfinite(sinks=3, window=9),), {}),
        ("llama", {**wide, "max_position_embeddings": 32}, (lw.DynamicNTK(),), {}),
        ("llama", wide, (lw.H2O(),), {}),
        ("llama", wide, (lw.InfLLM(pages=1, page_size=4, window=4), lw.ReRoPE(window=8)), {}),
        ("llama", {"head_dim": 20}, (), {}),
    ]  # fmt: skip
    with torch.no_grad():
        for family, changes, methods, given in cases:
            model = lw.adapt(tiny_model(family, **changes), *methods)
            cache = lw.new_cache(model)
            for i in range(20, 24):
                model(ids[:, 0 if i == 20 else i : i + 1], past_key_values=cache, **given)
            assert not counted, (family, methods)
        model = lw.adapt(tiny_model("llama", **wide))
        mask = torch.ones(2, 24, dtype=torch.long)
        mask[0, :3] = 0
        cache = lw.new_cache(model)
        model(ids[:, :20], attention_mask=mask[:, :20], past_key_values=cache)
        model(ids[:, 20:21], attention_mask=mask[:, :21], past_key_values=cache)
        assert not counted
        lw.restore(model)
        lw.adapt(model, *PAGED["pages"])
        cache = lw.new_cache(model)
        model(ids[:, :20], attention_mask=mask[:, :20], past_key_values=cache)
        model(ids[:, 20:21], attention_mask=mask[:, :21], past_key_values=cache)
        assert not counted
        lw.restore(model)
        lw.adapt(model)
    cache = lw.new_cache(model)
    model(ids[:, :20], past_key_values=cache)
    model(ids[:, 20:21], past_key_values=cache)
    assert not counted


@torch.no_grad()
def test_caches_of_one_model_take_turns(kind: object, counted: list[int]) -> None:
    """Also a copy of a cache in the middle, rows that change places, and tokens taken back."""
    model = lw.adapt(tiny_model("llama", head_dim=16))
    ids = torch.randint(3, VOCABULARY, (2, 200), generator=torch.Generator().manual_seed(3))
    want = model(ids).logits
    cache = lw.new_cache(model)
    model(ids[:, :60], past_key_values=cache)
    for i in range(60, 70):
        model(ids[:, i : i + 1], past_key_values=cache)
    other = copy.deepcopy(cache)
    other.reorder_cache(torch.tensor([1, 0]))
    cache.crop(-5)
    for i in range(70, 200):  # beyond a block of slots, and of angles
        theirs = model(ids.flip(0)[:, i : i + 1], past_key_values=other).logits
        ours = model(ids[:, i - 5 : i - 4], past_key_values=cache).logits
        torch.testing.assert_close(theirs[:, 0], want.flip(0)[:, i], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(ours[:, 0], want[:, i - 5], atol=2e-5, rtol=1e-4)
    assert len(counted) > 400 or not kind
