"""Each pattern equals dense attention under its mask, forward and backward, in float64."""

import math
from itertools import product

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import binding_of, compose
from lengthwise.extend.engine import Engine
from lengthwise.extend.layouts import FarAsOne
from lengthwise.hf.positions import Step
from lengthwise.measure.probes import PositionalHeads, theoretical_field
from lengthwise.testing import Bench
from lengthwise.testing.models import tiny_model
from lengthwise.train.patterns import (
    BigBird,
    Dilated,
    Groups,
    LongGen,
    LongNet,
    MASFormer,
    ShiftedSparse,
    fit_pattern,
)
from lengthwise.train.patterns.pattern import Pattern, whole_layers

LAYERS = 6


def engine_of(bench, pattern, layers=LAYERS):
    geometry = bench.engine().geometry
    geometry = type(geometry)(**{**vars(geometry), "layers": geometry.layers * layers})
    parts = pattern.parts(layers, bench.heads)
    return Engine(geometry, compose(()), parts)


def dense(bench, tensors, weight):
    """One softmax; a pair counts `weight [heads, t, t]` times, 0 is not seen."""
    q, k, v = tensors
    k, v = (x.repeat_interleave(bench.heads // bench.kv_heads, dim=1) for x in (k, v))
    half = bench.rotary_dim // 2
    inv_freq = bench.base.own(0)[0].double()
    i = torch.arange(q.shape[2])
    turn = torch.polar(torch.ones(()).double(), (i[:, None] - i)[..., None] * inv_freq)
    qc = torch.complex(q[..., :half], q[..., half : 2 * half])
    kc = torch.complex(k[..., :half], k[..., half : 2 * half])
    scores = torch.einsum("bhip,bhjp,ijp->bhij", qc, kc.conj(), turn).real
    scores = scores + q[..., 2 * half :] @ k[..., 2 * half :].transpose(-1, -2)
    scores = scores / math.sqrt(bench.head_dim)
    if bench.softcap is not None:
        scores = bench.softcap * torch.tanh(scores / bench.softcap)
    if bench.window is not None:
        weight = weight * (i[:, None] - i < bench.window)
    return bench.softmax(scores + weight.double().log()) @ v


def run(engine, layer, tensors, bench, impl="auto", segments=None):
    q = tensors[0]
    rows, t = q.shape[0], q.shape[2]
    positions = torch.arange(t).expand(rows, -1)
    step = Step(positions, segments, None if segments is not None else 0, torch.full((rows,), t))
    kw = {"softcap": bench.softcap, "learned_sink": bench.learned_sink, "impl": impl}
    return engine.attend(layer, *tensors, step, None, scale=1 / math.sqrt(bench.head_dim), **kw)


def grads(out, tensors):
    g = torch.Generator().manual_seed(9)
    return torch.autograd.grad(out, tensors, torch.randn(out.shape, generator=g).double())


def causal(t):
    return torch.ones(t, t, dtype=torch.bool).tril()


def shifted_by_hand(heads, t):
    """Groups of 8: the second half of the heads has cuts at 4, 12, 20, …"""
    seen = torch.zeros(heads, t, t, dtype=torch.bool)
    for h, i, j in product(range(heads), range(t), range(t)):
        move = 0 if h < heads // 2 else 4
        seen[h, i, j] = j <= i and (i + move) // 8 == (j + move) // 8
    return seen


def longnet_by_hand(*pairs):
    def times(heads, t):
        found = torch.zeros(heads, t, t)
        for h, i, j in product(range(heads), range(t), range(t)):
            for w, r in pairs:
                met = j <= i and i // w == j // w and i % r == h % r and j % r == h % r
                found[h, i, j] += met
        return found

    return times


def window_and_sinks(t):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return ((i - j < 5) | (j < 2)) & (j <= i)


def strided(t):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return window_and_sinks(t) | ((j // 3 % 4 == 0) & (j <= i))


def local(t):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (i // 5 - j // 5 < 2) & (j <= i)


def layers_of(pattern, order, sparse):
    return [
        (pattern, layer, (lambda h, t, f=f: (causal(t) if f else sparse(t)).expand(h, t, t)))
        for layer, f in enumerate(order)
    ]


CASES = [
    (ShiftedSparse(group=8), 0, shifted_by_hand),
    (LongNet((4, 12, 36), (1, 2, 3)), 0, longnet_by_hand((4, 1), (12, 2), (36, 3))),
    (LongNet((5, 20), (1, 2)), 0, longnet_by_hand((5, 1), (20, 2))),  # heads 0, 2, 4 and 1, 3, 5
    *layers_of(MASFormer(full=2, block=5), (1, 1, 0, 0, 0, 0), local),
    *layers_of(LongGen(sinks=2, window=5), (0, 0, 1, 1, 0, 0), window_and_sinks),
    *layers_of(LongGen(sinks=2, window=5, stride=4, block=3), (0, 0, 1, 1, 0, 0), strided),
]


def called(value):
    return type(value).__name__ if not isinstance(value, int) else str(value)


@pytest.mark.parametrize(("pattern", "layer", "weights"), CASES, ids=called)
@pytest.mark.parametrize(
    "bench",
    [
        Bench(),
        Bench(4, 4, 8, 4, softcap=1.5),
        Bench(5, 1, 8, 8, sinks=True),
        Bench(softcap=1.5, sinks=True, window=11),
    ],
    ids=["plain", "softcap", "sinks", "all"],
)
@pytest.mark.parametrize("length", [3, 37])
def test_forward_and_backward(pattern, layer, weights, bench, length):
    tensors = tuple(x.requires_grad_() for x in bench.tensors(2, length, seed=length))
    expected = dense(bench, tensors, weights(bench.heads, length))
    wanted = grads(expected, tensors)
    for impl in ("auto", "chunked"):
        got = run(engine_of(bench, pattern), layer, tensors, bench, impl)
        assert (got - expected).abs().max() < 1e-12, impl
        for a, b in zip(grads(got, tensors), wanted, strict=True):
            assert (a - b).abs().max() < 1e-12, impl


@pytest.mark.parametrize("bench", [Bench(), Bench(softcap=1.5, sinks=True, window=11)])
@pytest.mark.parametrize("layout", [BigBird(4, 2, 1, 2), Dilated((4, 12), (1, 3), head=2)])
def test_layouts_have_the_backward_of_their_mask(layout, bench):
    t = 41
    tensors = tuple(x.requires_grad_() for x in bench.tensors(2, t))
    i, j = torch.arange(t)[:, None], torch.arange(t)
    times = layout.times(i, j) if isinstance(layout, Dilated) else layout.reference(i, j)[0]
    expected = dense(bench, tensors, (times * (j <= i)).expand(bench.heads, t, t))
    got = run(bench.engine(layout), 0, tensors, bench)
    assert (got - expected).abs().max() < 1e-12
    for a, b in zip(grads(got, tensors), grads(expected, tensors), strict=True):
        assert (a - b).abs().max() < 1e-12


def test_bigbirds_random_blocks():
    layout, t = BigBird(block=4, window=2, globals=1, random=2), 4 * 40
    i, j = torch.arange(t)[:, None], torch.arange(t)
    seen, _ = layout.reference(i, j)
    blocks = (seen & (j <= i)).view(40, 4, 40, 4).any(3).any(1)
    assert blocks.sum(1)[10:].eq(2 + 1 + 2).all()  # none twice
    other, _ = BigBird(block=4, window=2, globals=1, random=2, seed=1).reference(i, j)
    assert (other != seen).any()
    middle = blocks[20:, 3:17].sum(0)
    assert (middle > 0).sum() >= 8  # spread, not in one place


def test_documents_stay_apart_in_a_pattern():
    bench, t = Bench(), 30
    tensors = tuple(x.requires_grad_() for x in bench.tensors(1, t))
    segments = torch.tensor([[0] * 13 + [1] * 17])
    seen = shifted_by_hand(bench.heads, t) & (segments[0][:, None] == segments[0])
    got = run(engine_of(bench, ShiftedSparse(group=8)), 0, tensors, bench, segments=segments)
    expected = dense(bench, tensors, seen)
    assert (got - expected).abs().max() < 1e-12
    for a, b in zip(grads(got, tensors), grads(expected, tensors), strict=True):
        assert (a - b).abs().max() < 1e-12


def plain_loss(model, ids):
    return model(ids, labels=ids, use_cache=False).loss


def test_shifted_sparse_does_not_leak_and_passes_information_between_groups():
    model, ids = tiny_model("llama").double(), torch.arange(3, 67)[None]
    moved = ids.clone()
    moved[0, -1] = 300
    early = ids.clone()
    early[0, 9] = 300
    fit_pattern(model, ShiftedSparse(group=16))
    with torch.no_grad():
        before, after, near = (model(x, use_cache=False).logits for x in (ids, moved, early))
    assert torch.equal(before[:, :-1], after[:, :-1])  # rolled, 0 .. 7 would see it
    changed = (before - near).abs().amax(-1)[0]
    # Token 9 is in the groups [0, 16) and [8, 24): two layers carry it on to token 31.
    assert (changed[9:32] > 1e-9).all() and (changed[32:] < 1e-12).all()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "qwen2", "smollm3"])
def test_one_large_group_is_the_model_itself(family):
    model, ids = tiny_model(family).double(), torch.arange(3, 53)[None].repeat(2, 1)
    before = model(ids, use_cache=False).logits
    found = []
    for make in (lw.adapt, lambda model: fit_pattern(model, ShiftedSparse(group=200))):
        make(model)
        logits = model(ids, use_cache=False).logits
        loss = torch.logsumexp(logits, -1).square().mean()
        found.append((logits, torch.autograd.grad(loss, model.get_input_embeddings().weight)[0]))
        lw.restore(model)
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < 1e-12
    assert torch.equal(model(ids, use_cache=False).logits, before)


def test_learned_sinks_go_with_their_heads():
    bench, t = Bench(), 30
    tensors, sinks = bench.tensors(2, t), torch.randn(6).double()
    positions = torch.arange(t).expand(2, -1)
    step = Step(positions, None, 0, torch.full((2,), t))
    outs = [
        engine.attend(0, *tensors, step, None, scale=0.3, softcap=None, learned_sink=sinks)
        for engine in (bench.engine(), engine_of(bench, ShiftedSparse(group=200), 1))
    ]
    assert (outs[0] - outs[1]).abs().max() < 1e-12


@pytest.mark.parametrize("pattern", [ShiftedSparse(group=16), MASFormer(full=1, block=8)])
def test_generation_with_a_cache_is_the_forward(pattern):
    model, ids = tiny_model("llama").double(), torch.arange(3, 43)[None]
    fit_pattern(model, pattern, lw.PI(factor=2))
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        cache = lw.new_cache(model)
        parts = [model(one, past_key_values=cache).logits for one in ids.split(1, dim=1)]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10
    assert cache.bytes() > 0


def test_gradient_checkpointing_gives_the_same_gradient():
    model, ids = tiny_model("llama").double().train(), torch.arange(3, 53)[None]
    fit_pattern(model, ShiftedSparse(group=16))
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = plain_loss(model, ids)
        found.append(torch.autograd.grad(loss, model.get_input_embeddings().weight)[0])
    assert (found[0] - found[1]).abs().max() < 1e-14


def test_refusals():
    model = tiny_model("llama")
    for make, words in [
        (lambda: ShiftedSparse(group=7), "group must be even, got 7"),
        (lambda: ShiftedSparse(8).parts(2, 1), "halves the heads"),
        (lambda: LongNet((4, 8), (1,)), "must be as many"),
        (lambda: LongNet((8, 4), (1, 2)), "segments must rise"),
        (lambda: LongNet((4, 8), (2, 3)), "the first of the rates must be 1"),
        (lambda: fit_pattern(model, MASFormer(full=3)), "at most the 2 layers, got 3"),
        (lambda: fit_pattern(model, LongGen()), "splits layers into thirds, got 2"),
        (lambda: fit_pattern(model, ShiftedSparse(8), lw.SelfExtend()), "choose one"),
        (lambda: fit_pattern(model, "shifted"), "a pattern is a Layout or a Pattern"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            make()
        assert "\n" not in str(error.value)
        assert "_lengthwise" not in model.__dict__  # a refusal leaves the model alone
    fit_pattern(model, ShiftedSparse(8))
    assert binding_of(model).engine.for_training


def test_a_cache_is_edited_layer_by_layer_or_not_at_all():
    ids, last = torch.arange(3, 53)[None], torch.tensor([[7]])
    found = []
    for make in (lambda m: lw.adapt(m, FarAsOne(window=20)),
                 lambda m: fit_pattern(m, whole(FarAsOne(window=20)))):  # fmt: skip
        model = make(tiny_model("llama").double())
        cache = lw.new_cache(model)
        model(ids, past_key_values=cache)
        lw.edit(cache, (5, 9), [60, 61])
        found.append(model(last, past_key_values=cache).logits)
    assert (found[0] - found[1]).abs().max() < 1e-12
    model = fit_pattern(tiny_model("llama"), ShiftedSparse(group=16))
    cache = lw.new_cache(model)
    model(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="layer 0, whose heads have layouts of their own"):
        lw.edit(cache, (5, 9), [60, 61])
    assert cache.get_seq_length() == 50


def whole(layout):
    """A pattern with one layout everywhere."""

    class Whole(Pattern):
        def parts(self, layers, heads):
            return whole_layers([layout] * layers, heads)

    return Whole()


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_what_is_said_of_a_pattern_is_what_runs(family):
    """The field of explain's layers is what gradients reach, and the words are the pattern's."""
    ids = torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(0))
    both = "layers 0, 1" if family == "llama" else "layers 1"  # Gemma's first keeps its window
    full = "layers 0: Causal()\n  " if family == "llama" else ""
    for pattern, layers in (
        (
            ShiftedSparse(16),
            f"  {both}: heads 0-2: Groups(group=16, shift=0), heads 3-5: Groups(group=16, shift=8)",
        ),
        (MASFormer(full=1, block=8), f"  {full}layers 1: BlockLocal(block=8)"),
        (Groups(16), "  layout    Groups(group=16, shift=0)"),
    ):
        model = fit_pattern(tiny_model(family).eval(), pattern)
        embedded = model.get_input_embeddings()(ids[None]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        (gradient,) = torch.autograd.grad(logits[0, -1].sum(), embedded)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, theoretical_field(model, 40)[0]), pattern
        words = lw.explain(model)
        assert f"layout    {pattern!r}\n" in words
        assert f"{layers}\n" in words, words
        if isinstance(pattern, ShiftedSparse):
            with pytest.raises(ValueError, match=r"heads of layer \d have layouts of their own"):
                PositionalHeads(far=8).scores(model, ids[None], torch.Generator().manual_seed(0))
