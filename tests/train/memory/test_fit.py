"""What `fit` refuses and says, what it leaves alone, and what it saves."""

import gc

import pytest
import torch
from torch import nn

import lengthwise as lw
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.testing.models import tiny_model
from lengthwise.train.memory import Offload, StreamBP, TiledLoss, TiledMLP, fit
from lengthwise.train.memory.head import unwrap
from lengthwise.train.memory.host import Host
from lengthwise.train.patterns import MASFormer, fit_pattern

METHODS = (StreamBP(chunk=22), TiledMLP(tokens=14), TiledLoss(7), Offload())


def tokens(rows=2, length=34, vocabulary=320):
    g = torch.Generator().manual_seed(5)
    return torch.randint(3, vocabulary, (rows, length), generator=g)


def step(model, **inputs):
    ids = tokens()
    model(input_ids=ids, labels=ids, **inputs).loss.backward()


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "2048"])
def test_sizes_are_whole_numbers_of_at_least_one(value):
    for method, name in ((StreamBP, "chunk"), (TiledMLP, "tokens"), (TiledLoss, "tokens")):
        with pytest.raises(ValueError, match=rf"{method.__name__}: {name} must be .* at least 1"):
            method(**{name: value})


def test_a_method_twice_or_something_else():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"StreamBP is given twice: .*chunk=2.*chunk=4"):
        fit(model, StreamBP(2), StreamBP(4)).__enter__()
    with pytest.raises(ValueError, match=r"fit takes TiledLoss\(\), .* got 'offload'"):
        fit(model, "offload").__enter__()


def test_double_application_is_refused_and_leaves_the_first_alone():
    model = tiny_model("llama")
    with fit(model, StreamBP(chunk=22)):
        with pytest.raises(ValueError, match=r"fit is on already .* StreamBP\(chunk=22\)"):
            fit(model, TiledLoss()).__enter__()
        step(model)
    with fit(model, TiledLoss()):
        step(model)


def test_models_that_are_not_covered():
    class Bare(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"takes a transformers model .* got Bare"):
        fit(Bare(), TiledLoss()).__enter__()
    from transformers import GPT2Config, GPT2LMHeadModel

    small = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16, "n_positions": 8}
    with pytest.raises(ValueError, match="gpt2 is not supported: it has no rotary positions"):
        fit(GPT2LMHeadModel(GPT2Config(**small)), TiledLoss()).__enter__()


def test_sharded_parameters(tmp_path):
    model = tiny_model("llama")
    model.lm_head.weight.ds_id = 7  # what ZeRO-3 leaves on every parameter
    with pytest.raises(ValueError, match=r"lm_head\.weight is sharded over devices"):
        fit(model, TiledLoss()).__enter__()
    from torch.distributed.tensor import DeviceMesh, Replicate, distribute_tensor

    model = tiny_model("llama")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        mesh = DeviceMesh("cpu", [0])
        sharded = distribute_tensor(model.lm_head.weight.detach(), mesh, [Replicate()])
        model.lm_head.weight = nn.Parameter(sharded)
        with pytest.raises(ValueError, match="is sharded over devices"):
            fit(model, StreamBP()).__enter__()
    finally:
        torch.distributed.destroy_process_group()


def test_a_checkpointed_model():
    model = tiny_model("llama").train()
    model.activation_checkpointing_enable()
    for method in (StreamBP(), Offload()):
        with pytest.raises(ValueError, match=r"itself; call model\..*_disable"):
            fit(model, method).__enter__()


def test_attention_that_streambp_does_not_cover():
    model = tiny_model("llama", attention_dropout=0.1)
    with pytest.raises(ValueError, match=r"no attention dropout, got 0.1; set .* to 0"):
        fit(model, StreamBP()).__enter__()
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"does not cover 'flex_attention'; call .*'sdpa'"):
        fit(model, StreamBP()).__enter__()
    model = lw.adapt(tiny_model("llama"), lw.InfLLM(pages=2, page_size=4, window=16))
    with pytest.raises(ValueError, match="StreamBP does not cover InfLLM"):
        fit(model, StreamBP()).__enter__()
    model = lw.adapt(tiny_model("llama"), lw.H2O(heavy=4, recent=4, every=4))
    with pytest.raises(ValueError, match="StreamBP does not cover H2O, which drops keys"):
        fit(model, StreamBP()).__enter__()


def test_a_loss_that_is_not_per_token():
    model = tiny_model("llama")
    model.loss_function = lambda logits, labels, vocab_size: logits.mean()
    with pytest.raises(ValueError, match="TiledLoss computes the cross-entropy per token"):
        fit(model, TiledLoss()).__enter__()


def test_a_head_that_is_no_linear_layer():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="a head that is a plain linear layer"):
        fit(model, TiledLoss()).__enter__()


@pytest.mark.parametrize(
    ("method", "where"),
    [
        (StreamBP(22), "layers.1.self_attn.q_proj"),
        (Offload(), "layers.0.mlp"),
        (TiledMLP(14), "layers.0.mlp.act_fn"),
    ],
)
def test_a_hook_that_would_run_once_per_chunk_is_detected(method, where):
    model = tiny_model("llama")
    part = model.base_model.get_submodule(where)
    for register in (part.register_forward_hook, part.register_full_backward_hook,
                     part.register_forward_pre_hook):  # fmt: skip
        hook = register(lambda *args: None)
        with fit(model, method), pytest.raises(ValueError, match="would run once per chunk"):
            step(model)
        hook.remove()
    with fit(model, method):
        step(model)
        hook = part.register_forward_hook(lambda *args: None)  # hooked inside the block
        with pytest.raises(ValueError, match="would run once per chunk"):
            step(model)


def test_hooks_on_gradients():
    model = tiny_model("llama")
    weight = model.base_model.layers[0].mlp.up_proj.weight
    hook = weight.register_hook(lambda grad: grad)
    with fit(model, TiledMLP(14)), pytest.raises(ValueError, match=r"up_proj.*weight would run"):
        step(model)
    hook.remove()
    fired = []
    weight.register_post_accumulate_grad_hook(lambda p: fired.append(p.grad.shape))
    with fit(model, *METHODS):
        step(model)
    assert fired == [weight.shape]


def test_hooks_on_layers_run_once():
    model, seen = tiny_model("llama"), []
    layer = model.base_model.layers[0]
    layer.register_forward_hook(lambda m, a, out: seen.append(out.shape))
    layer.register_full_backward_hook(lambda m, i, o: seen.append(o[0].shape))
    with fit(model, *METHODS):
        step(model)
        ids = tokens()
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert seen == [(2, 34, 48), (2, 34, 48), (2, 34, 48)]
    assert len(states) == 3


def test_a_hook_on_the_head_would_see_no_logits():
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda *args: None)
    with fit(model, TiledLoss()), pytest.raises(ValueError, match="under TiledLoss"):
        step(model)


def test_forwards_that_cannot_be_cut():
    model, ids = tiny_model("llama"), tokens()
    with fit(model, StreamBP(chunk=22)):
        for flag in ("output_attentions", "output_router_logits"):
            with pytest.raises(ValueError, match=f"{flag} would be recorded once per chunk"):
                model(ids, **{flag: True})
        with torch.no_grad():
            cache = model(ids).past_key_values
        with pytest.raises(ValueError, match="takes no cache; leave"):
            model(ids, past_key_values=cache)
        with pytest.raises(ValueError, match=r"how to cut the argument 'cu_seq_lens_q'"):
            model(ids, cu_seq_lens_q=torch.tensor([0, 10, 34]))
        with pytest.raises(ValueError, match=r"of 34 queries, got \[2, 1, 1, 34\]"):
            model(ids, attention_mask=torch.ones(2, 1, 1, 34).bool())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"), None),
        (MemoryError(), None),
        (RuntimeError("something else"), "something else"),
    ],
)
def test_out_of_memory_names_the_levers_that_are_left(error, message):
    model = tiny_model("llama")
    kind = RuntimeError if message else torch.OutOfMemoryError
    expected = message or (
        r"out of memory with StreamBP\(chunk=2048\); left to try: TiledLoss\(\), Offload\(\), "
        r"StreamBP\(chunk=1024\), or a shorter sequence"
    )
    with pytest.raises(kind, match=expected), fit(model, StreamBP()):
        raise error
    assert not hasattr(model, "_lengthwise_memory")


def test_logits_are_there_without_labels_and_empty_with_them():
    model, ids = tiny_model("gemma2"), tokens()
    with fit(model, TiledLoss()):
        assert model(input_ids=ids).logits.shape == (2, 34, 320)
        assert model(input_ids=ids, labels=ids).logits.shape == (2, 0, 320)
        assert model(ids, None, None, None, None, ids).logits.shape == (2, 0, 320)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_without_gradients_every_method_leaves_a_forward_whole(family, adapted):
    model, ids = tiny_model(family), tokens()
    if adapted:
        lw.adapt(model)
    calls: list[dict] = [
        {"labels": ids}, {}, {"labels": ids, "output_hidden_states": True},
        {"labels": ids, "return_dict": False}, {"logits_to_keep": 3},
    ]  # fmt: skip
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            want = [model(ids, use_cache=False, **call) for call in calls]
            more = model.generate(ids, max_new_tokens=3, do_sample=False)
            for methods in ((TiledLoss(7),), METHODS):
                with fit(model, *methods):
                    got = [model(ids, use_cache=False, **call) for call in calls]
                    assert torch.equal(more, model.generate(ids, max_new_tokens=3, do_sample=False))
                torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_training_after_a_token_in_inference_mode(family):
    """Nothing that a forward there worked out for the next one is an inference tensor."""
    for make in (
        lw.adapt,
        lambda model: lw.adapt(model, lw.YaRN(factor=4)),
        lambda model: lw.adapt(model, lw.DynamicNTK()),
        lambda model: fit_pattern(model, MASFormer(full=1, block=8)),
    ):
        model = make(tiny_model(family))
        with torch.inference_mode():
            model.generate(tokens(1, 3), max_new_tokens=1)
        model.train()
        step(model)
        with fit(model, *METHODS):
            step(model)


def test_below_break_even_nothing_is_tiled():
    """One tile is the module's own forward: it runs once, and its graph is kept."""
    model, calls = tiny_model("llama"), []
    mlp = model.base_model.layers[0].mlp
    own = type(mlp).forward
    mlp.forward = lambda x: calls.append(x.shape[1]) or own(mlp, x)
    with fit(model, TiledMLP(tokens=68)):
        step(model)
    assert calls == [34]
    calls.clear()
    with fit(model, TiledMLP(tokens=66)):
        step(model)
    assert calls == [33, 1, 33, 1]


def test_unwrap_sees_through_wrappers():
    model = tiny_model("llama")

    class Parallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert unwrap(Parallel(model)) is model


def peak(model, ids, *methods):
    with fit(model, *methods), PeakBytes(torch.device("cpu")) as measured:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()
    return measured.bytes


def test_each_method_saves_what_it_says():
    """Counted tensors, not seconds: 512 tokens of a vocabulary of 4,096."""
    model = tiny_model("llama", vocab_size=4096, intermediate_size=256, num_hidden_layers=8).train()
    ids = tokens(1, 512, 4096)
    logits, inside = 512 * 4096 * 4, 512 * 256 * 4
    plain = peak(model, ids)
    loss = peak(model, ids, TiledLoss(128))
    assert plain - loss > 1.5 * logits
    mlp = peak(model, ids, TiledLoss(128), TiledMLP(128))
    assert loss - mlp > 8 * 2 * inside
    stream = peak(model, ids, TiledLoss(64), StreamBP(128))
    assert stream < 0.5 * mlp
    model.activation_checkpointing_enable()
    assert stream < peak(model, ids) / 3


def test_a_layer_keeps_its_input_alone():
    model = tiny_model("llama", num_hidden_layers=6).train()
    ids = tokens(1, 512)
    with PeakBytes(torch.device("cpu")) as before:
        pass
    assert before.bytes == 0

    def held(*methods):
        with fit(model, *methods), PeakBytes(torch.device("cpu")) as measured:
            out = model.base_model(input_ids=ids).last_hidden_state
            gc.collect()
            measured.mark()
            kept = measured._alive
            out.sum().backward()
        return kept

    hidden = 512 * 48 * 4
    assert held(StreamBP(64)) < (6 + 6) * hidden  # six inputs, and what the last norm keeps
    assert held() > 6 * 10 * hidden


def test_the_host_gives_back_what_it_was_handed():
    """On a CPU nothing is copied; the order of fetching is that of the copies of a GPU."""
    host = Host(torch.device("cpu"))
    tensors = [torch.randn(4, 3) for _ in range(3)]
    kept = [host.keep(tensor) for tensor in tensors]
    assert kept[2].take() is tensors[2]
    assert kept[1]._back is not None  # on its way before it is asked for
    assert kept[0]._back is None
    assert kept[1].take() is tensors[1] and kept[0].take() is tensors[0]
    with pytest.raises(RuntimeError, match="gives its checkpoints up in the first backward"):
        kept[0].take()


def test_the_copies_of_a_gpu(monkeypatch):
    """The path with streams, with the CPU standing in for both sides."""

    class Stream:
        def wait_stream(self, other):
            log.append("send waits for the layer")

        def wait_event(self, event):
            log.append("the layer waits for the copy")

    class Event:
        def record(self, stream):
            log.append("copy back")

    log = []
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: torch.no_grad())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, given: None)
    monkeypatch.setattr(Host, "_pinned", staticmethod(lambda tensor: torch.empty_like(tensor)))
    host = Host(torch.device("cuda"))
    tensors = [torch.randn(4, 3) for _ in range(3)]
    kept = [host.keep(tensor) for tensor in tensors]
    assert log == ["send waits for the layer"] * 3
    log.clear()
    for one, tensor in zip(reversed(kept), reversed(tensors), strict=True):
        got = one.take()
        assert torch.equal(got, tensor) and got is not tensor
    # The next copy back is queued as soon as a layer has its input.
    assert log == ["copy back", "the layer waits for the copy"] * 3
    (pool,) = host._free.values()
    assert len(pool) == 3
    again = host.keep(torch.ones(4, 3))
    assert len(pool) == 2 and torch.equal(again.take(), torch.ones(4, 3))


def test_offload_gives_checkpoints_up_in_the_first_backward():
    model, ids = tiny_model("llama"), tokens()
    with fit(model, Offload()):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="compute the loss again"):
            loss.backward()


def test_what_does_not_cover_a_family_says_so():
    cases = [
        ("falcon", StreamBP(8), "StreamBP does not cover falcon, whose layers hand no keyword"),
        ("stablelm", StreamBP(8), "StreamBP does not cover stablelm"),
        ("llama4_text", StreamBP(8), "StreamBP does not cover llama4_text"),
        ("llama4_text", TiledMLP(8), "TiledMLP does not cover Llama 4"),
    ]
    for family, method, words in cases:
        with pytest.raises(ValueError, match=words), fit(tiny_model(family).train(), method):
            pass
