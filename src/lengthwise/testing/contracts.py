"""The contract suite: what every method must satisfy, generated from a test case.

    @pytest.mark.parametrize(*lengthwise.testing.parametrize(CASES))
    def test_contract(case, check):
        check(case)

A case may leave out a check only with a reason, written beside it; where the method refuses what
is asked, the check is that it does, by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps

import torch
from torch import Tensor

from lengthwise.core.regions import disjoint
from lengthwise.extend.engine import LayerState
from lengthwise.extend.method import Layout, Scaling, Store
from lengthwise.testing.bench import WINDOW, Bench
from lengthwise.testing.case import Case, close
from lengthwise.testing.geometries import (
    check_bfloat16,
    check_documents,
    check_geometries,
    check_geometries_in_parts,
    check_mixed,
)


def check_oracle(case: Case) -> None:
    """The fast path equals one dense softmax written by hand, for every head layout and type."""
    for shape in case.shapes:
        exact = Bench(*shape, formula=case.formula)
        axes = exact.engine(*case.methods).axes
        for length in case.lengths:
            tensors = exact.tensors(2, length, seed=length)
            pages = case.pages and case.pages(exact, axes, tensors)
            dense = exact.by_hand(axes, tensors, pages)
            for dtype in (torch.float64, torch.float32):
                for impl in ("auto", "chunked", "reference"):
                    bench = Bench(*shape, dtype, impl)
                    engine = bench.engine(*case.methods)
                    out = bench.run(engine, bench.tensors(2, length, seed=length))
                    close(out, dense, f"{impl}, {dtype}, {shape}, length {length}")


def check_identity(case: Case) -> None:
    """With a budget or window that covers the text, or a factor of 1, it is full attention."""
    bench = Bench()
    tensors = bench.tensors(2, case.identity_length)
    full = bench.by_hand(bench.engine().axes, tensors)
    close(bench.run(bench.engine(*case.identity), tensors), full, "one forward")
    ones = [1] * case.identity_length
    close(bench.run(bench.engine(*case.identity), tensors, ones), full, "token by token")


def check_not_identity(case: Case) -> None:
    """Beyond its limit the method does something: a silent no-op fails here."""
    bench = Bench()
    tensors = bench.tensors(1, 4 * WINDOW)
    full = bench.by_hand(bench.engine().axes, tensors)
    moved = (bench.run(bench.engine(*case.methods), tensors) - full).abs().max().item()
    assert moved > 1e-3, f"the method changed nothing: outputs moved by {moved:.1e}"


def check_decode_is_prefill(case: Case) -> None:
    """A prompt and then one token at a time gives what one forward gives."""
    bench = Bench()
    engine = bench.engine(*case.methods)
    for length in case.lengths:
        tensors = bench.tensors(2, length, seed=1)
        whole = bench.run(engine, tensors)
        for cut in {0, 1, length // 2, length - 1}:
            chunks = ([cut] if cut else []) + [1] * (length - cut)
            close(bench.run(engine, tensors, chunks), whole, f"length {length}, prompt {cut}")


def check_chunked_prefill(case: Case) -> None:
    """Chunks of any size, and a second turn, give what one forward gives."""
    bench = Bench()
    engine = bench.engine(*case.methods)
    length = 4 * case.window + 3
    tensors = bench.tensors(2, length, seed=2)
    whole = bench.run(engine, tensors)
    for size in (1 + case.window // 2, case.window, case.window + 1, 3 * case.window):
        chunks = [min(size, length - at) for at in range(0, length, size)]
        close(bench.run(engine, tensors, chunks), whole, f"chunks of {size}")
    turns = [length // 3, *[1] * 5, length - length // 3 - 5]
    close(bench.run(engine, tensors, turns), whole, "a second turn")


def check_left_padding(case: Case) -> None:
    """A row with left padding gets what it gets alone, in prefill, in chunks and in decoding."""
    bench = Bench()
    engine = bench.engine(*case.methods)
    length, pads = 4 * case.window + 3, [0, 5, case.window + 2]
    tensors = bench.tensors(len(pads), length, seed=3)
    for chunks in (None, [length // 2, length - length // 2], [length - 3, 1, 1, 1]):
        together = bench.run(engine, tensors, chunks, padding=pads)
        for row, pad in enumerate(pads):
            row_tensors = tuple(x[row : row + 1, :, pad:] for x in tensors)
            alone = bench.run(engine, row_tensors, _without(pad, chunks))  # type: ignore[arg-type]
            close(together[row : row + 1, :, pad:], alone, f"padding {pad}, chunks {chunks}")
        assert together.isfinite().all(), "padding rows are not finite"


def _without(pad: int, chunks: list[int] | None) -> list[int] | None:
    """The chunks of a row whose first `pad` tokens are gone."""
    if chunks is None:
        return None
    ends = torch.tensor(chunks).cumsum(0) - pad
    sizes = ends.clamp(min=0).diff(prepend=torch.zeros(1, dtype=torch.long))
    return [size for size in sizes.tolist() if size]


def check_causal(case: Case) -> None:
    """A random change of the future moves nothing in the past, not even by a bit."""
    bench = Bench(impl="chunked")
    engine = bench.engine(*case.methods)
    length = 4 * case.window + 3
    tensors, other = bench.tensors(1, length, seed=4), bench.tensors(1, length, seed=5)
    for cut in (1, case.window, length - 1):
        changed = tuple(
            torch.cat([a[:, :, :cut], b[:, :, cut:]], 2)
            for a, b in zip(tensors, other, strict=True)
        )
        before = bench.run(engine, tensors)[:, :, :cut]
        close(bench.run(engine, changed)[:, :, :cut], before, f"future from {cut} on")  # type: ignore[arg-type]


def check_rows_follow(case: Case) -> None:
    """Reordering the rows of a cache (beam search) is reordering the batch."""
    bench = Bench()
    engine = bench.engine(*case.methods)
    length, cut = 3 * case.window + 2, 2 * case.window
    tensors = bench.tensors(3, length, seed=6)
    order = torch.tensor([2, 0, 0])
    state = engine.new_state(0)
    bench.run(engine, tuple(x[:, :, :cut] for x in tensors), [cut], state=state)  # type: ignore[arg-type]
    state.select_rows(order)
    swapped = tuple(x[order] for x in tensors)
    expected = bench.run(engine, swapped)[:, :, cut:]  # type: ignore[arg-type]
    rest = tuple(x[:, :, cut:] for x in swapped)
    got = bench.run(engine, rest, [1] * (length - cut), state=state, start=cut)  # type: ignore[arg-type]
    close(got, expected, "after select_rows")


def check_bytes(case: Case) -> None:
    """What the cache says it holds is what it has allocated, and known before it is read."""
    bench = Bench()
    engine = bench.engine(*case.methods)
    length = 4 * case.window + 3
    state = engine.new_state(0)
    assert isinstance(state, LayerState)
    bench.run(engine, bench.tensors(2, length), [length - 2, 1, 1], state=state)
    tensors = [
        t for part in (state.store, state.selector) if part is not None for t in _tensors(part)
    ]
    unique = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert state.bytes() == sum(unique.values()), "bytes() is not what is allocated"
    row, axes, ends = engine.new_state(0), engine.layers[0], [length - 2, length - 1, length]
    bench.run(engine, bench.tensors(1, length), [length - 2, 1, 1], state=row)
    said = axes.store.allocated(ends, engine.geometry, 0)
    said += axes.selector.noted_bytes(ends, engine.geometry)
    assert row.bytes() == said, f"a plan says {said}, {row.bytes()} are allocated"


def _tensors(thing: object, depth: int = 0) -> list[Tensor]:
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, list | tuple):
        return [t for item in thing for t in _tensors(item, depth)]
    if depth < 3 and hasattr(thing, "__dict__"):
        return [t for item in vars(thing).values() for t in _tensors(item, depth + 1)]
    return []


def check_regions_are_disjoint(case: Case) -> None:
    """No key is counted twice, and no distance is negative."""
    layout = case.methods[0]
    assert isinstance(layout, Layout)
    assert disjoint(layout.regions(), 4 * case.window + 3)
    p = torch.arange(4 * case.window + 3)
    seen, distance = layout.reference(p[:, None], p[None])
    causal = p[None] <= p[:, None]
    assert (distance[seen & causal] >= 0).all()


def check_shift(case: Case) -> None:
    """Scores depend on distances alone: positions moved by a constant change nothing."""
    scaling = case.methods[0]
    assert isinstance(scaling, Scaling)
    bench = Bench()
    rotary = scaling.rotary(bench.base, WINDOW, torch.tensor([3 * WINDOW]))
    rotary = replace(rotary, inv_freq=rotary.inv_freq.double())
    q, k, _ = bench.tensors(1, 9)
    k = k.repeat_interleave(3, dim=1)
    p = torch.arange(9)[None, None]
    near = rotary.rotate(q, p) @ rotary.rotate(k, p).transpose(-1, -2)
    far = rotary.rotate(q, p + 1000) @ rotary.rotate(k, p + 1000).transpose(-1, -2)
    assert (near - far).abs().max() < 1e-9


def check_frequencies(case: Case) -> None:
    """Frequencies stay finite, positive, ordered, and never above the model's own."""
    scaling = case.methods[0]
    assert isinstance(scaling, Scaling)
    bench = Bench(rotary_dim=16)
    own, _ = bench.base.own(0)
    for length in (1, WINDOW, 16 * WINDOW):
        inv_freq = scaling.rotary(bench.base, WINDOW, torch.tensor([length])).inv_freq
        assert inv_freq.isfinite().all() and (inv_freq > 0).all()
        assert (inv_freq <= own * (1 + 1e-6)).all()
        assert (inv_freq.diff(dim=-1) < 0).all(), "frequencies must fall from pair to pair"
    short = scaling.rotary(bench.base, WINDOW, torch.tensor([1])).inv_freq
    moved = not torch.allclose(short.flatten(), inv_freq.flatten())
    assert moved != scaling.static, "`static` does not tell the truth"


def check_kept(case: Case) -> None:
    """`kept` is the number of keys that a row really holds."""
    store = case.methods[0]
    assert isinstance(store, Store)
    bench = Bench()
    engine = bench.engine(*case.methods)
    for length in case.lengths:
        state = engine.new_state(0)
        bench.run(
            engine, bench.tensors(1, length), [length - 1, 1] if length > 1 else [1], state=state
        )
        p = torch.arange(length)
        held = int(store.reference(p[-1], p).sum())
        assert store.kept(length) == held, f"kept({length}) says {store.kept(length)}, holds {held}"


Check = Callable[[Case], None]

EVERY: tuple[Check, ...] = (
    check_oracle,
    check_identity,
    check_not_identity,
    check_decode_is_prefill,
    check_chunked_prefill,
    check_left_padding,
    check_causal,
    check_rows_follow,
    check_bytes,
    check_geometries,
    check_geometries_in_parts,
    check_mixed,
    check_documents,
    check_bfloat16,
)
BY_AXIS: dict[str, tuple[Check, ...]] = {
    "scaling": (check_shift, check_frequencies),
    "layout": (check_regions_are_disjoint,),
    "selector": (),
    "store": (check_kept,),
}


def checks_for(case: Case) -> list[Check]:
    """The checks that a case must pass, those with a written reason left out.

    Raises:
        ValueError: If a reason is given for a check that does not exist.
    """
    every = [*EVERY, *BY_AXIS[case.methods[0].axis]]
    names = {check.__name__ for check in every}
    unknown = {*case.except_for, *case.refuses} - names
    if unknown:
        raise ValueError(f"no such check: {', '.join(sorted(unknown))}")
    kept = [check for check in every if check.__name__ not in case.except_for]
    return [_refused(check) if check.__name__ in case.refuses else check for check in kept]


def _refused(check: Check) -> Check:
    """The check of a method that says that it cannot."""

    @wraps(check)
    def refused(case: Case) -> None:
        try:
            check(case)
        except ValueError as error:
            words = case.refuses[check.__name__]
            assert words in str(error), f"refused, but not with {words!r}: {error}"
        else:
            raise AssertionError(f"{case.name} does not refuse what it says that it refuses")

    return refused


def parametrize(cases: Sequence[Case]) -> tuple[str, list[tuple[Case, Check]]]:
    """Arguments for `pytest.mark.parametrize`: every case with every check of its axis."""
    return "case, check", [(case, check) for case in cases for check in checks_for(case)]
