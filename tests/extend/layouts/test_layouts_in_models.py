"""Layouts through `adapt` and `generate`: padding, chunks, families, refusals, checkpoints."""

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import PAD, tiny_model, tiny_tokenizer

LAYOUTS = {
    "STRING": lw.STRING(shift=21, window=8),
    "ReRoPE": lw.ReRoPE(window=12),
    "LeakyReRoPE": lw.LeakyReRoPE(factor=3, window=12),
    "DualChunk": lw.DualChunk(chunk=24, window=8, trained=20),
    "GALI": lw.GALI(trained=40, window=8, factor=3),
    "HiRoPE": lw.HiRoPE(starts=(9, 30, 44, 61), pairs=4, split=2, window=12),
}
FAMILIES = ("llama", "gpt_neox", "gpt_oss", "smollm3", "gemma3_text", "mistral")


def exact(family):
    model = tiny_model(family)
    return model if family == "gpt_oss" else model.double()


def fits(name, family):
    return not (name == "HiRoPE" and family == "gpt_neox")  # two pairs of four rotate there


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_padded_batch_generates_what_its_rows_generate(name, family):
    if not fits(name, family):
        with pytest.raises(ValueError, match="rotates 2 pairs"):
            lw.adapt(tiny_model(family), LAYOUTS[name])
        return
    model = exact(family)
    generator = torch.Generator().manual_seed(7)
    rows = [torch.randint(3, 300, (1, n), generator=generator) for n in (75, 41)]
    ids, mask = torch.full((2, 75), PAD), torch.zeros(2, 75, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, 75 - row.shape[1] :] = row
        mask[i, 75 - row.shape[1] :] = 1
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    with lw.adapted(model, LAYOUTS[name]), torch.no_grad():
        together = model.generate(ids, attention_mask=mask, **settings)
        for i, row in enumerate(rows):
            alone = model.generate(row, **settings)
            assert torch.equal(together[i, 75:], alone[0, row.shape[1] :])
            whole = model(alone[:, :-1], use_cache=False).logits[0, -6:]
            assert torch.equal(whole.argmax(-1), alone[0, -6:])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_says_something_else_beyond_its_limit_and_the_same_inside(name):
    model = exact("llama")
    ids = torch.randint(3, 300, (1, 90), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        with lw.adapted(model):
            plain = model(ids).logits
        with lw.adapted(model, LAYOUTS[name]):
            ours = model(ids).logits
            assert (ours - plain).abs().max() > 1e-3
    inside = {"STRING": 21, "DualChunk": 16, "GALI": 40}.get(name, 12)
    assert (ours - plain)[:, :inside].abs().max() < 1e-9


@pytest.mark.parametrize(
    "layout",
    [
        lw.STRING(shift=6, window=2),
        lw.LeakyReRoPE(factor=3, window=4),
        lw.DualChunk(chunk=6, window=2, trained=4),
        lw.GALI(trained=6, window=2, factor=3),
        lw.HiRoPE(starts=(3, 8), pairs=2, split=1, window=4),
    ],
    ids=lambda layout: type(layout).__name__,
)
def test_gradients_are_those_of_differences(layout):
    bench = Bench(2, 1, 4, 4)
    engine = bench.engine(layout)
    tensors = [x.clone().requires_grad_() for x in bench.tensors(1, 13)]
    assert torch.autograd.gradcheck(lambda *qkv: bench.run(engine, qkv), tensors)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_saved_layout_comes_back(name, tmp_path):
    model = lw.adapt(tiny_model("llama"), LAYOUTS[name])
    ids = torch.randint(3, 300, (1, 90), generator=torch.Generator().manual_seed(10))
    lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    again, _ = lw.load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize("name", LAYOUTS)
def test_explain_counts_every_key(name):
    words = lw.explain(lw.adapt(tiny_model("llama"), LAYOUTS[name]))
    line = next(line for line in words.splitlines() if line.strip().startswith("4,096"))
    assert line.split()[1] == "4,096"


@pytest.mark.parametrize(
    "method, words",
    [
        (lw.STRING(shift=65, window=8), "shift must be at most the trained window of 64"),
        (lw.STRING(shift=20), "window must be at most shift 20"),
        (lw.ReRoPE(), "window must be below the trained window of 64"),
        (lw.LeakyReRoPE(window=64), "window must be below the trained window of 64"),
        (lw.DualChunk(), "chunk must be at most the trained window of 64"),
        (lw.GALI(trained=128), "at most the model's window of 64"),
        (lw.GALI(trained=64), "window must be below trained 64"),
    ],
)
def test_a_layout_that_does_not_fit_the_window_is_refused(method, words):
    with pytest.raises(ValueError, match=words) as error:
        lw.adapt(tiny_model("llama"), method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: lw.STRING(shift=0),
        lambda: lw.ReRoPE(window=0),
        lambda: lw.LeakyReRoPE(factor=0.5),
        lambda: lw.LeakyReRoPE(factor=float("nan")),
        lambda: lw.DualChunk(chunk=8, window=5),
        lambda: lw.DualChunk(chunk=8, window=0),
        lambda: lw.DualChunk(trained=-1),
        lambda: lw.GALI(trained=1),
        lambda: lw.GALI(trained=8, factor=0.5),
        lambda: lw.GALI(trained=8, noise=-1.0),
        lambda: lw.GALI(trained=8, seed=1.5),
    ],
)
def test_numbers_out_of_range_are_refused_in_one_line(build):
    with pytest.raises(ValueError) as error:
        build()
    assert "\n" not in str(error.value)
