"""SirLLM: the choice spelled out token by token, and what models tell it."""

import copy
from dataclasses import replace

import pytest
import torch

import lengthwise as lw
from lengthwise.hf.families import FAMILIES
from lengthwise.testing import Case, parametrize
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import tiny_model
from lengthwise.train.patterns import ShiftedSparse, fit_pattern


def kept(store, surprise, ids):
    """The tokens that each query of one row reads, oldest first, with sets and loops."""
    held, worth, reads = [], {}, []
    for i, (e, token) in enumerate(zip(surprise, ids, strict=True)):
        held.append(i)
        worth[i] = e
        reads.append(list(held))
        if token == store.turn:
            worth = {j: e * store.decay for j, e in worth.items()}
        if (i + 1) % store.every == 0 and len(held) > store.tokens:
            safe = held[: store.sinks] + held[-store.recent :]
            old = sorted((j for j in held if j not in safe), key=lambda j: -worth[j])
            held = sorted(safe + old[: store.tokens - len(safe)])
    return reads, {j: worth[j] for j in held}


def sirllm_pages(bench, axes, tensors):
    rows, heads, length, _ = tensors[0].shape
    read = torch.zeros(rows, heads, length, length, dtype=torch.bool)
    distance = torch.zeros(rows, heads, length, length, dtype=torch.float64)
    ids, surprise = bench.tokens(tensors[2])
    for row in range(rows):
        reads, _ = kept(axes.store, surprise[row].tolist(), ids[row].tolist())
        for i, held in enumerate(reads):
            places = torch.arange(len(held))
            read[row, :, i, held] = places[-1] - places < (bench.window or length)
            seen, apart = axes.layout.reference(places[-1], places)
            assert seen.all()
            distance[row, :, i, held] = apart.double()
    return read, distance


DATA = {"check_kept": "which keys are held depends on the data: test_kept"}
CASES = [
    Case(
        (lw.SirLLM(tokens=9, sinks=2, recent=2, every=4, decay=0.5, turn=1),),
        9,
        (lw.SirLLM(tokens=40, every=4, sinks=2, recent=2),),
        pages=sirllm_pages,
        except_for=DATA,
    ),
    Case(
        (
            lw.SirLLM(tokens=10, sinks=1, recent=3, every=3, decay=0.0, turn=1),
            lw.SelfExtend(group=3, window=6),
        ),
        9,
        (lw.SirLLM(tokens=40, every=5, sinks=2, recent=2), lw.YaRN(factor=1)),
        pages=sirllm_pages,
        except_for=DATA,
    ),
]

ALONE = {"check_documents": "SirLLM cannot read packed documents yet"}
CASES = [replace(case, refuses=ALONE) for case in CASES]


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


@pytest.mark.parametrize(*parametrize(CASES), ids=name)
def test_contract(case, check):
    check(case)


def test_kept():
    bench, store = Bench(), CASES[0].methods[0]
    engine = bench.engine(store)
    for length in CASES[0].lengths:
        state, tensors = engine.new_state(0), bench.tensors(1, length)
        bench.run(engine, tensors, [length], state=state)
        ids, surprise = (x[0].tolist() for x in bench.tokens(tensors[2]))
        wanted = kept(store, surprise, ids)[1]
        assert len(wanted) == state.store.used == store.kept(length)
        held = state.store.numbers()[0, 0].tolist()
        assert held == pytest.approx(list(wanted.values()), abs=1e-12)


STORE = lw.SirLLM(tokens=12, sinks=2, recent=3, every=5, decay=0.5, turn=7)


def surprises(model, ids):
    """Minus the log-probability of every token of `[1, t]`, from logits token by token."""
    cache, before, found = lw.new_cache(model), None, []
    for token in ids[0]:
        probabilities = None if before is None else torch.softmax(before.double(), 0)
        found.append(0.0 if before is None else -probabilities[token].log().item())
        before = model(token[None, None], past_key_values=cache).logits[0, -1]
    return found, cache


def texts(rows=1, length=60):
    ids = torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(0))
    ids[:, 19::20] = 7  # turns
    return ids


@torch.no_grad()
def test_every_family_tells_how_likely_tokens_were():
    ids = texts()
    for family in sorted({*FAMILIES} - {"phi3"}):  # what it saw depends on how far reading had come
        exact = family != "gpt_oss"  # which has no float64
        model = lw.adapt(tiny_model(family).double() if exact else tiny_model(family), STORE)
        found, cache = surprises(model, ids)
        wanted = list(kept(STORE, found, ids[0].tolist())[1].values())
        # Llama 4 norms rotated queries and keys in float32.
        close = 1e-9 if exact and family != "llama4_text" else 1e-4
        chunked = lw.new_cache(model)
        out = [model(x, past_key_values=chunked).logits for x in ids.split([23, 1, 9, 27], 1)]
        whole = model(ids, use_cache=False)
        assert whole.past_key_values is None
        gap = (torch.cat(out, 1) - whole.logits).abs().max().item()
        assert gap < close, f"{family}: {gap:.1e}"
        told = 0
        for one in (cache, chunked):
            for layer in one.layers:
                if hasattr(layer.state.store, "carried"):
                    told += 1
                    assert layer.state.store.numbers()[0, 0].tolist() == pytest.approx(
                        wanted, abs=close
                    ), family
        assert told >= 2


def test_only_who_needs_logits_makes_the_head_run_again():
    ids, runs = texts(), []
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda *_: runs.append(1))
    for store, count in ((lw.FullStore(), 1), (lw.H2O(heavy=6, recent=4, every=5), 1), (STORE, 13)):
        runs.clear()
        with lw.adapted(model, store):
            model(ids)
        assert len(runs) == count, store
    model(ids)
    assert "forward" not in model.model.__dict__


def test_surprising_tokens_survive_where_a_window_forgets_them():
    """A model that knows its text but for one word, which stands far outside of any window."""
    model, ids = tiny_model("llama"), torch.full((1, 80), 5)
    ids[0, 20:23] = torch.tensor([90, 91, 92])
    model.lm_head = torch.nn.Linear(48, 320)
    with torch.no_grad():  # whatever it reads, it expects token 5
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()[5] = 10.0
        lw.adapt(model, lw.SirLLM(tokens=12, sinks=1, recent=3, every=5))
        cache = lw.new_cache(model)
        model(ids, past_key_values=cache)
        held = cache.layers[0].state.store
        assert held.used == 12 and (held.numbers() > 9).sum() == 3
        model(ids[:, :50], past_key_values=cache)
    assert held.used == 12 and (held.numbers() > 9).sum() == 6


@torch.no_grad()
def test_outputs_come_whole_and_copies_go_on_by_themselves():
    model, ids = lw.adapt(tiny_model("llama").double(), STORE), texts(2)
    out = model(ids, output_hidden_states=True)
    assert [x.shape for x in out.hidden_states] == [(2, 60, 48)] * 3
    words = model.model(ids, return_dict=False)
    torch.testing.assert_close(words[0], out.hidden_states[-1])
    fork, other = copy.deepcopy(out.past_key_values), copy.deepcopy(model)
    more = model(ids[:, :9], past_key_values=out.past_key_values).logits
    torch.testing.assert_close(model(ids[:, :9], past_key_values=fork).logits, more)
    torch.testing.assert_close(other(ids).logits, out.logits)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, out.logits)
    assert fork.bytes() == sum(x.state.bytes() for x in fork.layers) + 2 * 48 * 8
    dead = lw.new_cache(model)
    hook = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids, past_key_values=dead)
    hook.remove()
    torch.testing.assert_close(model(ids, past_key_values=dead).logits, out.logits)


def test_what_cannot_be_told_is_refused():
    model, ids = lw.adapt(tiny_model("llama"), STORE), texts()
    with pytest.raises(ValueError, match="SirLLM keeps tokens by how likely they were"):
        model(inputs_embeds=model.model.embed_tokens(ids))
    with pytest.raises(ValueError, match="SirLLM drops keys while a text is read"):
        model(ids, labels=ids).loss.backward()
    with pytest.raises(ValueError, match="SirLLM cannot read packed documents"):
        model(ids, segment_ids=torch.zeros_like(ids))
    model.train().gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"SirLLM .* cannot run with gradient checkpointing"):
        model(ids, use_cache=False)
    bench = Bench()
    engine = bench.engine(STORE)
    state = engine.new_state(0)
    state.told = lambda *_: None
    with pytest.raises(ValueError, match="SirLLM needs logits, and whoever runs the layers"):
        bench.run(engine, bench.tensors(1, 9), state=state)
    for make, words in (
        (lambda: lw.SirLLM(tokens=68), "SirLLM: tokens must be a whole number of at least 69"),
        (lambda: lw.SirLLM(sinks=0), "SirLLM: sinks must be"),
        (lambda: lw.SirLLM(decay=1.5, turn=2), "SirLLM: decay must be at most 1"),
        (lambda: lw.SirLLM(decay=0.5), "SirLLM: decay needs turn"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


@torch.no_grad()
def test_layers_whose_heads_have_layouts_of_their_own_are_told_too():
    model, ids = tiny_model("llama").double(), texts()
    fit_pattern(model, ShiftedSparse(group=8), STORE)
    whole, cache = model(ids).logits, lw.new_cache(model)
    parts = [model(x, past_key_values=cache).logits for x in ids.split([23, 1, 36], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-9, rtol=0)
