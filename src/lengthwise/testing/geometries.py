"""Checks of what models have beside plain attention: caps, sinks, windows, documents, bfloat16."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lengthwise.extend.engine import Axes
from lengthwise.testing.bench import LOCAL, WINDOW, Bench, turns
from lengthwise.testing.case import Case, close

SOFTCAP = 1.5  # where scores have a standard deviation of 1
IMPLEMENTATIONS = ("auto", "chunked", "reference")


def geometries(case: Case) -> dict[str, dict[str, Any]]:
    """Models in miniature, as settings of a `Bench`."""
    window = 2 * case.window + 1
    return {
        "a soft cap": {"softcap": SOFTCAP},
        "learned sinks": {"sinks": True},
        "a window": {"window": window},
        "all of them": {"softcap": SOFTCAP, "sinks": True, "window": window},
        "neighbours that turn together": {"pairing": "interleaved"},
    }


def check_geometries(case: Case) -> None:
    """With a soft cap, learned sinks, a model's own window and another pairing it is the dense
    softmax with them.
    """
    length = 4 * case.window + 3
    for name, settings in geometries(case).items():
        exact = Bench(**settings, formula=case.formula)
        tensors = exact.tensors(2, length, seed=7)
        axes = exact.engine(*case.methods).axes
        dense = exact.by_hand(axes, tensors, case.pages and case.pages(exact, axes, tensors))
        for impl in IMPLEMENTATIONS:
            bench = Bench(**settings, impl=impl)
            close(bench.run(bench.engine(*case.methods), tensors), dense, f"{name}, {impl}")


def check_geometries_in_parts(case: Case) -> None:
    """So it does in chunks and token by token."""
    length = 4 * case.window + 3
    chunks = [length // 2, 1, 1, length - length // 2 - 4, 1, 1]
    for name, settings in geometries(case).items():
        bench = Bench(**settings)
        tensors = bench.tensors(2, length, seed=7)
        engine = bench.engine(*case.methods)
        close(bench.run(engine, tensors, chunks), bench.run(engine, tensors), name)


def check_mixed(case: Case) -> None:
    """Between local layers it works as alone, and the local layers stay what they are."""
    length = 4 * case.window + 3
    mixed, alone = (Bench(softcap=SOFTCAP, sinks=True, mixed=mixed) for mixed in (True, False))
    tensors = mixed.tensors(2, length, seed=8)
    engine, single = mixed.engine(*case.methods), alone.engine(*case.methods)
    for chunks in (None, [length // 2, 1, length - length // 2 - 1]):
        got = mixed.run(engine, tensors, chunks)
        close(got, alone.run(single, tensors, chunks), "the layer that sees all")
        local = Bench(softcap=SOFTCAP, sinks=True, window=LOCAL)
        dense = local.by_hand(local.engine().axes, tensors)
        close(mixed.run(engine, tensors, chunks, layer=0), dense, "the local layer")


def check_documents(case: Case) -> None:
    """Documents that are packed in a row are read as each of them alone."""
    sizes = [case.window + 2, 1, 4 * case.window + 3, case.window - 1]
    tensors = Bench().tensors(2, sum(sizes), seed=9)
    apart = list(zip(*(x.split(sizes, 2) for x in tensors), strict=True))
    for impl in IMPLEMENTATIONS:
        bench = Bench(impl=impl)
        engine = bench.engine(*case.methods)
        packed = bench.run(engine, tensors, documents=sizes)
        close(packed, torch.cat([bench.run(engine, one) for one in apart], 2), impl)


def check_bfloat16(case: Case) -> None:
    """In bfloat16 it errs as torch's own attention over the same pairs does, but for two roundings.

    What torch computes in one softmax is here merged from parts: each is rounded, and their merge
    with the layer's other parts once more.
    """
    length = min(4 * case.window + 3, 100)
    exact = Bench(dtype=torch.bfloat16, formula=case.formula)
    tensors = exact.tensors(1, length, seed=10)
    axes = exact.engine(*case.methods).axes
    pages = case.pages and case.pages(exact, axes, tensors)
    dense = exact.by_hand(axes, tensors, pages)
    torchs = _error(_sdpa(exact, axes, tensors, pages), dense)
    allowed = torchs + 2 * _error(dense.to(torch.bfloat16), dense)
    grows = "check_decode_is_prefill" in case.except_for
    for chunks in (None,) if grows else (None, [length // 2, *[1] * (length - length // 2)]):
        for impl in IMPLEMENTATIONS:
            bench = Bench(dtype=torch.bfloat16, impl=impl)
            out = bench.run(bench.engine(*case.methods), tensors, chunks)
            ours = _error(out, dense)
            words = f"{ours / torchs:.2f} times the mean square that torch errs by"
            assert ours <= allowed, f"{impl}, {'in parts' if chunks else 'at once'}: {words}"


def _sdpa(
    bench: Bench,
    axes: Axes,
    tensors: tuple[Tensor, Tensor, Tensor],
    pages: Tensor | tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Attention of torch over the pairs that a method reads, every query with keys of its own.

    Rotation is exact and rounded once; queries are rounded when a temperature has sharpened them
    too, as in models that have one.
    """
    pages, distances = pages if isinstance(pages, tuple) else (pages, None)
    _, seen = bench.scores_by_hand(axes, tensors, distances)
    if pages is not None:
        seen = seen & (pages[:, None] if pages.ndim == 3 else pages)
    q, k, v = (x.double() for x in tensors)
    k, v = (x.repeat_interleave(bench.heads // bench.kv_heads, dim=1) for x in (k, v))
    length, half, place = q.shape[2], bench.rotary_dim // 2, torch.arange(q.shape[2])
    inv_freq, factor, sharpness = bench.angles(axes, length)
    table = axes.layout.reference(place[:, None], place[None])[1]
    table = table if distances is None else distances
    away = turns(table, inv_freq, axes.layout.blends and distances is None)
    own = turns(place[:, None], inv_freq, False)  # [queries, 1, pairs]

    def turned(x: Tensor, turn: Tensor) -> Tensor:
        head = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn * factor
        rest = x[..., 2 * half :].expand(*head.shape[:-1], -1)
        return torch.cat([head.real, head.imag, rest], -1)

    of_layout = axes.layout.sharpness(0, WINDOW, place[None])
    q = q * sharpness[:, :, None] * (1 if of_layout is None else of_layout.double()[..., None])
    q = turned(q.to(bench.dtype).double(), own[:, 0])
    keys = turned(k[:, :, None], own * away.conj())  # [b, h, queries, keys, d]
    # A row of a batch for each query, which stands there a few times: alone it would be a vector,
    # for which torch has another product.
    rows = (q[:, :, :, None].expand(-1, -1, -1, 4, -1), keys, v[:, :, None].expand_as(keys))
    q, k, v = (x.to(bench.dtype).flatten(0, 2)[None] for x in rows)
    mask = seen.expand(keys.shape[:4]).flatten(0, 2)[None, :, None].expand(-1, -1, 4, -1)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out[0, :, 0].view(*keys.shape[:3], -1)


def _error(out: Tensor, exact: Tensor) -> float:
    """The mean square."""
    return (out.double() - exact).square().mean().item()
