"""Packed equals separate: losses, gradients and leaks, for every packer and attention path."""

import random

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from torch.nn.functional import cross_entropy
from transformers import masking_utils
from transformers.integrations.flex_attention import WrappedFlexAttention

import lengthwise as lw
from lengthwise.core.attention.flex import has_compiler
from lengthwise.testing.models import LOCAL, SPECIAL, tiny_model
from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.packers import PACKERS, StreamingPacker
from lengthwise.train.data.segments import document_attention, document_masks

CAPACITY = 40
LENGTHS = (40, 1, 23, 2, 17, 31, 9, 9, 3, 5, 12)  # one fills a row, one has nothing to predict
PATHS = ("sdpa", "eager", "flex_attention", "per_document", "adapted")


def documents(lengths=LENGTHS, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(3, 320) for _ in range(n)] for n in lengths]


def rows_of(docs, bins):
    return [
        {
            "input_ids": [token for n in b for token in docs[n]],
            "seq_lengths": [len(docs[n]) for n in b],
        }
        for b in bins
    ]


def plain_flex(monkeypatch):
    """FlexAttention's own arithmetic without compiling, which on a CPU takes float64 and has a
    backward: torch refuses it because compiled kernels have none."""
    block_mask = masking_utils.create_block_mask
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *args: None)
    monkeypatch.setattr(
        masking_utils,
        "create_block_mask",
        lambda *args, **kw: block_mask(*args, **{**kw, "_compile": False}),
    )
    # transformers keeps its compiled function in a singleton.
    monkeypatch.setattr(WrappedFlexAttention, "_is_flex_compiled", True)
    monkeypatch.setattr(WrappedFlexAttention, "training", False, raising=False)
    monkeypatch.setattr(
        WrappedFlexAttention, "_compiled_flex_attention", staticmethod(torch_flex.flex_attention)
    )


def forward(model, path, batch):
    """Logits of a packed batch through one attention path."""
    given = {name: batch[name] for name in ("input_ids", "position_ids", "segment_ids")}
    if path == "adapted":
        with lw.adapted(model):
            return model(**given, use_cache=False).logits
    with document_attention(model, path):
        return model(**given).logits


def summed_loss(logits, labels):
    return cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=-100
    )


def separate(model, docs):
    """Loss of every document, each in a forward of its own; gradients add up in the model."""
    model.zero_grad()
    losses = []
    for doc in docs:
        ids = torch.tensor([doc])
        loss = summed_loss(model(input_ids=ids, use_cache=False).logits, ids)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def apart():
    model = tiny_model("llama", head_dim=16).double()
    return model, *separate(model, documents())


def check(model, path, batch, losses, gradients):
    model.zero_grad()
    logits = forward(model, path, batch)
    loss = summed_loss(logits, batch["labels"])
    loss.backward()
    assert loss.item() == pytest.approx(sum(losses), rel=1e-7, abs=1e-6)
    for name, p in model.named_parameters():
        assert (p.grad - gradients[name]).abs().max() < 1e-6 * (1 + gradients[name].abs().max())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("packer", PACKERS)
def test_packed_equals_separate(apart, packer, path, monkeypatch):
    if path == "flex_attention":
        plain_flex(monkeypatch)
    model, losses, gradients = apart
    bins = PACKERS[packer](LENGTHS, CAPACITY)
    assert sorted(n for b in bins for n in b) == list(range(len(LENGTHS)))
    check(model, path, PackedCollator()(rows_of(documents(), bins)), losses, gradients)


@pytest.mark.parametrize("path", PATHS)
def test_packed_by_a_stream_equals_separate(apart, path, monkeypatch):
    if path == "flex_attention":
        plain_flex(monkeypatch)
    model, losses, gradients = apart
    packer = StreamingPacker(CAPACITY)
    bins = [b for n, length in enumerate(LENGTHS) for b in packer.add(n, length)]
    bins += packer.finish()
    check(model, path, PackedCollator()(rows_of(documents(), bins)), losses, gradients)


@pytest.mark.parametrize("path", PATHS)
def test_no_document_moves_another(path, monkeypatch):
    if path == "flex_attention":
        plain_flex(monkeypatch)
    model = tiny_model("llama", head_dim=16).double()
    docs = documents((14, 9, 16, 20))
    bins = [[0, 1, 2], [3]]
    with torch.no_grad():
        before_batch = PackedCollator()(rows_of(docs, bins))
        before = forward(model, path, before_batch)
        for changed in range(4):
            other = [list(doc) for doc in docs]
            other[changed] = [3 + (token + 100) % 317 for token in docs[changed]]
            batch = PackedCollator()(rows_of(other, bins))
            moved = (forward(model, path, batch) - before).abs().amax(-1)
            row, place = (1, 0) if changed == 3 else (0, changed)
            mine = torch.zeros_like(moved, dtype=torch.bool)
            mine[row] = batch["segment_ids"][row] == place
            assert float(moved[mine].min()) > 1e-3
            assert float(moved[~mine].max()) == 0.0


@pytest.mark.parametrize("path", ["sdpa", "eager", "per_document"])
@pytest.mark.parametrize("family", SPECIAL)
def test_every_family_keeps_its_windows(family, path):
    model = tiny_model(family)
    if family != "gpt_oss":  # its experts have no float64
        model = model.double()
    if path != "eager" and not model._supports_sdpa:
        pytest.skip("the fused kernel knows no soft caps and sinks")
    model.set_attn_implementation("eager" if path == "eager" else "sdpa")
    docs = documents((2 * LOCAL - 2, 3, LOCAL + 1))  # within the shortest window, Phi-3's 32
    batch = PackedCollator()(rows_of(docs, [[0, 1, 2]]))
    refused = {"llama4_text": "adapt the model", "falcon": "adapt the model"}
    if path == "per_document":
        refused["stablelm"] = "hands its layers no documents; use the sdpa"
    if family in refused:
        with pytest.raises(ValueError, match=refused[family]):
            forward(model, path, batch)
        return
    with torch.no_grad():
        want = torch.cat([model(input_ids=torch.tensor([doc])).logits for doc in docs], dim=1)
        got = forward(model, path, batch)
    assert (got - want).abs().max() < (1e-4 if family == "gpt_oss" else 2e-6)


@pytest.mark.parametrize("path", PATHS)
def test_positions_that_skip_are_no_documents(path, monkeypatch):
    # transformers alone cuts a document where its positions jump, and mixes those that happen to
    # go on from each other.
    if path == "flex_attention":
        plain_flex(monkeypatch)
    model = tiny_model("llama", head_dim=16).double()
    batch = PackedCollator()(rows_of(documents((12, 8)), [[0, 1]]))
    batch["position_ids"][0, 6:12] += 30
    batch["position_ids"][0, 12:] += 41 + 1  # goes on from the first document's last position
    with torch.no_grad():
        got = forward(model, path, batch)
        whole = torch.ones(1, 12)
        model.set_attn_implementation("eager")
        first = model(
            input_ids=batch["input_ids"][:, :12],
            position_ids=batch["position_ids"][:, :12],
            attention_mask=whole,
        ).logits
        second = model(input_ids=batch["input_ids"][:, 12:]).logits
        model.set_attn_implementation("sdpa")
        guessed = model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
    assert (got[:, :12] - first).abs().max() < 2e-6
    assert (got[:, 12:] - second).abs().max() < 2e-6
    assert (guessed[:, 6:12] - first[:, 6:]).abs().max() > 1e-3
    assert (guessed[:, 12:] - second).abs().max() > 1e-3


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler or no AVX2")
def test_compiled_flex_forward(monkeypatch, tmp_path):
    # The real kernel on a CPU: float32, forward only. torch 2.13 writes C++ that does not compile
    # once shapes of an earlier test in this process have made it generalise over them, and takes
    # code that another instruction set was compiled for from its cache, with wrong results.
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    block_mask = masking_utils.create_block_mask
    monkeypatch.setattr(
        masking_utils,
        "create_block_mask",
        lambda *args, **kw: block_mask(*args, **{**kw, "_compile": False}),
    )
    model = tiny_model("llama", head_dim=16)
    docs = documents((30, 7, 1, 22))
    batch = PackedCollator()(rows_of(docs, [[0, 1], [2, 3]]))
    with torch.no_grad():
        got = summed_loss(forward(model, "flex_attention", batch), batch["labels"])
        want = summed_loss(forward(model, "sdpa", batch), batch["labels"])
    assert float(got) == pytest.approx(float(want), rel=1e-5)


def test_padding_gives_no_gradient_and_no_nan():
    model = tiny_model("llama").double()
    batch = PackedCollator(multiple=64)(rows_of(documents((5, 4)), [[0, 1]]))
    model.zero_grad()
    loss = summed_loss(forward(model, "sdpa", batch), batch["labels"])
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(bool(g.isfinite().all()) for g in grads.values())
    narrow = PackedCollator()(rows_of(documents((5, 4)), [[0, 1]]))
    model.zero_grad()
    summed_loss(forward(model, "sdpa", narrow), narrow["labels"]).backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, grads[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ["sdpa", "adapted"])
def test_a_two_dimensional_mask_says_padding_too(path):
    # Padding on the left, and in the segment of the first document: only the mask tells.
    model = tiny_model("llama").double()
    batch = PackedCollator(pad=7)(rows_of(documents((9, 4, 20)), [[0, 1], [2]]))
    real = batch["segment_ids"] >= 0
    with torch.no_grad():
        want = forward(model, path, batch)[real]
        batch["segment_ids"] = batch["segment_ids"].clamp(min=0)
        left = {n: batch[n].clone() for n in ("input_ids", "position_ids", "segment_ids")}
        for column in left.values():
            column[0] = column[0].roll(7)
        mask = real.long()
        mask[0] = mask[0].roll(7)
        if path == "adapted":
            with lw.adapted(model):
                got = model(**left, attention_mask=mask, use_cache=False).logits
        else:
            with document_attention(model):
                got = model(**left, attention_mask=mask).logits
    assert (got[mask.bool()] - want).abs().max() < 1e-10


def test_gradient_checkpointing_sees_the_same_masks():
    model = tiny_model("llama").double()
    batch = PackedCollator()(rows_of(documents((9, 4)), [[0, 1]]))
    grads = []
    for checkpoints in (False, True):
        if checkpoints:
            model.train()
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        summed_loss(forward(model, "sdpa", batch), batch["labels"]).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_adapters_of_peft_are_looked_through():
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama").double()
    docs = documents((9, 4))
    with torch.no_grad():
        want = torch.cat([model(input_ids=torch.tensor([doc])).logits for doc in docs], dim=1)
    lora = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    batch = PackedCollator()(rows_of(docs, [[0, 1]]))
    with torch.no_grad():
        assert (forward(lora, "sdpa", batch) - want).abs().max() < 1e-10
    with pytest.raises(ValueError, match="takes a transformers model, got Sequential"):
        document_attention(torch.nn.Sequential(model)).__enter__()


def test_without_segments_and_outside_the_context_nothing_changes():
    model = tiny_model("llama")
    ids = torch.tensor(documents((12,)))
    with torch.no_grad():
        want = model(input_ids=ids).logits
        with document_attention(model):
            assert torch.equal(model(input_ids=ids).logits, want)
        assert not model.base_model._forward_pre_hooks
        with pytest.raises(RuntimeError, match="stop"), document_attention(model):
            raise RuntimeError("stop")
        assert not model.base_model._forward_pre_hooks


@pytest.mark.parametrize("path", ["sdpa", "eager", "per_document", "adapted"])
def test_positions_are_documents_where_a_caller_says_so(path):
    model = tiny_model("llama", head_dim=16).double()
    batch = PackedCollator(multiple=48)(rows_of(documents((9, 4, 1, 20)), [[0, 1, 2], [3]]))
    given = {name: batch[name] for name in ("input_ids", "position_ids")}
    if path == "adapted":
        lw.adapt(model)
    with torch.no_grad():
        kernel = None if path == "adapted" else path
        with document_attention(model, kernel, by_positions=True):
            got = model(**given, use_cache=False).logits
            mixed = {**given, "segment_ids": batch["segment_ids"] * 0}  # segments come first
            joined = model(**mixed, use_cache=False).logits
            with pytest.raises(ValueError, match="a forward came without; with TRL"):
                model(input_ids=batch["input_ids"])
            jump = given["position_ids"].clone()
            jump[0, 5:9] += 30  # within a document: no other begins
            leap = model(input_ids=batch["input_ids"], position_ids=jump, use_cache=False).logits
            jump[0, 9:13] = torch.arange(2, 6)
            with pytest.raises(ValueError, match="got 2 at token 9 of row 0; pass segment_ids"):
                model(input_ids=batch["input_ids"], position_ids=jump, use_cache=False)
        assert (leap - got)[0, 5:9].abs().max() > 1e-4
        assert (leap - got)[0, 9:].abs().max() < 1e-10
        assert (joined[0, 9] - got[0, 9]).abs().max() > 1e-3
        if path == "adapted":
            want = model(**given, segment_ids=batch["segment_ids"], use_cache=False).logits
            with pytest.raises(ValueError, match="position_ids start again"):
                model(**given, use_cache=False)
            with pytest.raises(ValueError, match="leave kernel='sdpa' out"):
                document_attention(model, "sdpa", by_positions=True).__enter__()
        else:
            want = forward(model, path, batch)
    assert (got - want)[batch["segment_ids"] >= 0].abs().max() < 1e-10


def test_the_kernel_of_one_document_refuses_what_it_cannot():
    batch = PackedCollator()(rows_of(documents((5, 4)), [[0, 1]]))
    for family in ("gemma2", "gpt_oss"):
        with pytest.raises(ValueError, match="no soft cap and no learned sink"):
            forward(tiny_model(family), "per_document", batch)
    model = tiny_model("llama")
    with document_attention(model, "per_document"), pytest.raises(ValueError, match="needs seg"):
        model(input_ids=batch["input_ids"])
    assert model.config._attn_implementation == "sdpa"


def test_masks_of_mixed_layers():
    segments = torch.tensor([[0] * 20 + [1] * 20])
    masks = document_masks(tiny_model("gemma3_text"), segments)
    assert set(masks) == {"sliding_attention", "full_attention"}
    assert masks["full_attention"][0, 0, 19].sum() == 20
    assert masks["sliding_attention"][0, 0, 19].sum() == LOCAL
    assert masks["full_attention"][0, 0, 39].sum() == 20


def test_refusals():
    model = tiny_model("llama")
    ids = torch.tensor(documents((6,)))
    with lw.adapted(model), pytest.raises(ValueError, match="takes segment_ids by itself"):
        document_attention(model).__enter__()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"sdpa, eager, flex_attention, .*'flash_attention_2'"):
        document_attention(model).__enter__()
    model.config._attn_implementation_internal = "sdpa"
    segments = torch.zeros_like(ids)
    with document_attention(model):
        with pytest.raises(ValueError, match=r"each of 1 x 6 tokens, got shape \(1, 5\)"):
            model(input_ids=ids, segment_ids=segments[:, :5])
        with pytest.raises(ValueError, match=r"1 x 6 ones and zeros, got \(1, 1, 6, 6\)"):
            model(input_ids=ids, segment_ids=segments, attention_mask=torch.ones(1, 1, 6, 6))
        cache = model(input_ids=ids, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="not with tokens in a cache"):
            model(input_ids=ids, segment_ids=segments, past_key_values=cache)
