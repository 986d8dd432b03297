"""Gradients equal those of the plain step: every method, combination, family and kind of batch."""

import itertools

import pytest
import torch
from torch.nn import functional

import lengthwise as lw
from lengthwise.testing.models import KINDS, tiny_model
from lengthwise.train.memory import Offload, StreamBP, TiledLoss, TiledMLP, fit
from lengthwise.train.patterns import Groups, MASFormer, ShiftedSparse, fit_pattern

LENGTH = 34
STREAM, MLP, LOSS, OFFLOAD = StreamBP(chunk=22), TiledMLP(tokens=14), TiledLoss(7), Offload()
METHODS = (STREAM, MLP, LOSS, OFFLOAD)
COMBINATIONS = [
    combination
    for size in range(1, len(METHODS) + 1)
    for combination in itertools.combinations(METHODS, size)
]


@pytest.fixture(autouse=True)
def _float64_throughout(monkeypatch):
    """transformers rounds to float32 in eager softmax, norms of Gemma and Cohere, and the loss."""
    softmax, to_float, to = functional.softmax, torch.Tensor.float, torch.Tensor.to

    def exact_softmax(x, dim=None, dtype=None, **kwargs):
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype, **kwargs)

    def exact_float(x, *args, **kwargs):
        return x if x.dtype == torch.float64 else to_float(x, *args, **kwargs)

    def exact_to(x, *args, **kwargs):
        rounds = x.dtype == torch.float64 and args == (torch.float32,)
        return x if rounds else to(x, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", exact_to)
    monkeypatch.setattr(functional, "softmax", exact_softmax)
    monkeypatch.setattr(torch.Tensor, "float", exact_float)


def trainable(family):
    model = tiny_model(family).double().train()
    if family == "gpt_oss":  # torch's grouped product of experts has no float64
        model.set_experts_implementation("eager")
    return model


def batch(kind, segments=False):
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 320, (2, LENGTH), generator=g)
    labels = ids.clone()
    labels[:, 11:13] = -100
    if kind == "padded":
        mask = torch.ones_like(ids)
        mask[1, :13] = 0
        labels[1, :14] = -100
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}
    if kind == "packed":
        lengths = (12, 15, 7)
        positions = torch.cat([torch.arange(n) for n in lengths]).expand(2, -1)
        more = {}
        if segments:
            documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
            more = {"segment_ids": documents.expand(2, -1)}
        # Where transformers makes a cache it forgets documents.
        return {"input_ids": ids, "labels": labels, "position_ids": positions,
                "use_cache": False, **more}  # fmt: skip
    return {"input_ids": ids, "labels": labels}


def step(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name: p.grad for name, p in named if p.grad is not None}


def assert_same(ours, plain, tolerance=1e-9):
    torch.testing.assert_close(ours[0], plain[0], atol=tolerance, rtol=0)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        scale = max(float(gradient.abs().max()), 1e-6)
        torch.testing.assert_close(
            ours[1][name],
            gradient,
            atol=tolerance * scale,
            rtol=0,
            msg=lambda m, n=name: f"{n} {m}",
        )


@pytest.mark.parametrize("family", KINDS)
def test_every_combination_has_the_gradients_of_the_plain_step(family):
    model, inputs = trainable(family), batch("padded")
    plain = step(model, inputs)
    for methods in COMBINATIONS:
        with fit(model, *methods):
            assert_same(step(model, inputs), plain)


@pytest.mark.parametrize("kind", ["whole", "packed"])
@pytest.mark.parametrize("family", KINDS)
def test_batches_without_padding_and_packed_documents(family, kind):
    model, inputs = trainable(family), batch(kind)
    plain = step(model, inputs)
    for methods in ((STREAM,), METHODS):
        with fit(model, *methods):
            assert_same(step(model, inputs), plain)


def test_packed_documents_do_not_see_each_other():
    model, inputs = trainable("llama"), batch("packed")
    del inputs["use_cache"]
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, :12] = 5
    with fit(model, *METHODS):
        base = model.base_model
        keep = ("input_ids", "position_ids")
        one = base(**{name: inputs[name] for name in keep}).last_hidden_state
        other = base(**{name: changed[name] for name in keep}).last_hidden_state
    torch.testing.assert_close(one[:, 12:], other[:, 12:], atol=1e-12, rtol=0)
    assert (one[:, :12] - other[:, :12]).abs().max() > 1e-3


ADAPTED = {
    "nothing": (),
    "self-extend": (lw.SelfExtend(group=4, window=12),),
    "streaming": (lw.YaRN(factor=4), lw.StreamingLLM(window=20, sinks=2)),
    "dynamic": (lw.DynamicNTK(),),
}


@pytest.mark.parametrize("methods", ADAPTED.values(), ids=ADAPTED)
@pytest.mark.parametrize("kind", ["whole", "padded", "packed"])
def test_adapted_layouts(methods, kind):
    model = lw.adapt(trainable("llama"), *methods)
    inputs = batch(kind, segments=True)
    plain = step(model, inputs)
    for memory in ((STREAM,), (OFFLOAD,), METHODS):
        with fit(model, *memory):
            assert_same(step(model, inputs), plain)


@pytest.mark.parametrize("methods", [(), (lw.DynamicNTK(),), (lw.YaRN(factor=4),)])
def test_adapted_beyond_the_window(methods):
    """Documents longer than a chunk and the window, positions with gaps, padding in between."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (2, 200), generator=g)
    lengths = ((150, 50), (20, 180))
    packed = {
        "segment_ids": torch.tensor([[0] * a + [1] * b for a, b in lengths]),
        "position_ids": torch.tensor([[*range(a), *range(b)] for a, b in lengths]),
    }
    mask = torch.ones_like(ids)
    mask[0, -30:], mask[1, 50:60] = 0, 0
    gaps = torch.arange(200).repeat(2, 1) * 2
    model = lw.adapt(trainable("llama"), *methods)
    for more in (packed, {"position_ids": gaps}, {"position_ids": gaps, "attention_mask": mask}):
        inputs = {"input_ids": ids, "labels": ids, "use_cache": False, **more}
        plain = step(model, inputs)
        with fit(model, StreamBP(chunk=128)):
            assert_same(step(model, inputs), plain)


@pytest.mark.parametrize("family", KINDS)
def test_adapted_families(family):
    method = lw.SelfExtend(group=4, window=12)
    if family in ("cohere2", "exaone4"):  # which have nothing to move
        method = lw.SlidingWindow(window=12)
    model, inputs = lw.adapt(trainable(family), method), batch("padded")
    plain = step(model, inputs)
    with fit(model, *METHODS):
        assert_same(step(model, inputs), plain)


@pytest.mark.parametrize("chunk", [2, 10, 67, 68, 1000])
def test_any_chunk(chunk):
    model, inputs = trainable("qwen2"), batch("whole")
    plain = step(model, inputs)
    with fit(model, StreamBP(chunk=chunk)):
        assert_same(step(model, inputs), plain)


def test_a_mask_of_four_dimensions():
    model, inputs = trainable("llama"), batch("whole")
    seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    seen[20:, 3:9] = False
    inputs["attention_mask"] = seen[None, None].expand(2, 1, -1, -1)
    plain = step(model, inputs)
    with fit(model, *METHODS):
        assert_same(step(model, inputs), plain)


def test_embeddings_as_input_get_their_gradient():
    model, inputs = trainable("llama"), batch("whole")
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    plain = step(model, {**inputs, "inputs_embeds": embeds}), embeds.grad
    embeds.grad = None
    with fit(model, *METHODS):
        assert_same(step(model, {**inputs, "inputs_embeds": embeds}), plain[0])
    torch.testing.assert_close(embeds.grad, plain[1], atol=1e-12, rtol=0)


def test_gradient_accumulation_with_the_number_of_items():
    model = trainable("llama")
    inputs = batch("whole")
    halves = [
        {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        | {"num_items_in_batch": 62}
        for row in (0, 1)
    ]

    def two_steps():
        model.zero_grad()
        losses = []
        for half in halves:
            loss = model(**half).loss
            loss.backward()
            losses.append(loss.detach())
        return sum(losses), {name: p.grad for name, p in model.named_parameters()}

    plain = two_steps()
    with fit(model, *METHODS):
        assert_same(two_steps(), plain)


def test_the_block_gives_the_model_back():
    model, inputs = trainable("llama"), batch("whole")
    plain = step(model, inputs)
    parts = {name: (type(m), dict(m.__dict__)) for name, m in model.named_modules()}
    with fit(model, *METHODS):
        step(model, inputs)
    for name, module in model.named_modules():
        assert (type(module), set(module.__dict__)) == (parts[name][0], set(parts[name][1]))
    assert model.config._attn_implementation == "sdpa"
    after = step(model, inputs)
    assert all(torch.equal(after[1][name], plain[1][name]) for name in plain[1])


def test_generation_and_evaluation_inside_the_block():
    model, inputs = trainable("mistral").eval(), batch("padded")
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    kwargs = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        loss, logits = model(**inputs).loss, model(**prompt).logits
    tokens = model.generate(**prompt, **kwargs)
    with fit(model, *METHODS):
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).loss, loss, atol=1e-12, rtol=0)
            real = inputs["attention_mask"].bool()
            torch.testing.assert_close(
                model(**prompt).logits[real], logits[real], atol=1e-9, rtol=0
            )
        assert torch.equal(model.generate(**prompt, **kwargs), tokens)


def test_patterns_of_layers_but_not_of_heads():
    inputs = batch("whole")
    for pattern in (MASFormer(full=1, block=8), Groups(16)):
        model = fit_pattern(trainable("llama"), pattern)
        plain = step(model, inputs)
        with fit(model, StreamBP(chunk=22)):
            assert_same(step(model, inputs), plain)
    model = fit_pattern(trainable("llama"), ShiftedSparse(16))
    with pytest.raises(ValueError, match=r"layers whose heads .*heads 0-2: Groups.*use Offload"):
        fit(model, StreamBP(chunk=22)).__enter__()
    plain = step(model, inputs)
    with fit(model, OFFLOAD, TiledMLP(14)):
        assert_same(step(model, inputs), plain)
