"""What people train with: peft, accelerate, mixed precision, dropout, half precision."""

import copy

import pytest
import torch

from lengthwise.testing.models import KINDS, tiny_model
from lengthwise.train.memory import Offload, StreamBP, TiledLoss, TiledMLP, fit

METHODS = (StreamBP(chunk=22), TiledMLP(tokens=14), TiledLoss(7), Offload())


@pytest.fixture(autouse=True)
def _forget_accelerates_state():
    """It is one for the process, and its mixed precision cannot be changed."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def batch(rows=2, length=34):
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 320, (rows, length), generator=g)
    return {"input_ids": ids, "labels": ids}


def gradients(model, run):
    model.zero_grad()
    loss = run()
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same(ours, plain, tolerance):
    torch.testing.assert_close(ours[0], plain[0], atol=tolerance, rtol=tolerance, check_dtype=False)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(ours[1][name], gradient, atol=tolerance * scale, rtol=0)


def with_lora(model, **changes):
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=targets, **changes))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=g)
    return peft


def test_lora_leaves_frozen_weights_alone():
    model = with_lora(tiny_model("llama").double()).train()
    plain = gradients(model, lambda: model(**batch()).loss)
    with fit(model, *METHODS):
        ours = gradients(model, lambda: model(**batch()).loss)
    assert len(plain[1]) == 16  # nothing but the adapters
    # The loss of the plain step is rounded to float32, as transformers does.
    assert_same(ours, plain, 1e-6)


def test_lora_on_queries_alone_where_keys_need_no_gradient():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama").double(), LoraConfig(target_modules=["q_proj"]))
    plain = gradients(model, lambda: model(**batch()).loss)
    with fit(model, StreamBP(chunk=22)):
        assert_same(gradients(model, lambda: model(**batch()).loss), plain, 1e-6)


def test_dropout_draws_the_same_going_back():
    model = with_lora(tiny_model("llama").double(), lora_dropout=0.5).train()
    names = [name for name, p in model.named_parameters() if p.requires_grad and "layers.0" in name]
    parameter = dict(model.named_parameters())[names[1]]

    def loss():
        torch.manual_seed(7)
        return model(**batch()).loss

    with fit(model, *METHODS):
        gradient = gradients(model, loss)[1][names[1]]
        # Dropout of chunks cannot equal that of the whole; a finite difference can be compared.
        direction = torch.sign(gradient)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-4 * direction
            values.append(float(loss().detach()))
            with torch.no_grad():
                parameter -= sign * 1e-4 * direction
    slope = (values[0] - values[1]) / 2e-4
    # Norms round to float32, which a difference of 2e-4 sees; other draws are off by far more.
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-3)


def test_a_step_draws_what_a_plain_step_draws_afterwards():
    """The recomputation leaves the generator where the forward left it."""
    model = with_lora(tiny_model("llama"), lora_dropout=0.5).train()
    with fit(model, *METHODS):
        torch.manual_seed(0)
        loss = model(**batch()).loss
        state = torch.get_rng_state()
        loss.backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_is_there_going_back():
    model = tiny_model("llama").train()

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(**batch()).loss

    plain = gradients(model, run)
    with fit(model, *METHODS):
        ours = gradients(model, run)
    assert all(gradient.dtype == torch.float32 for gradient in ours[1].values())
    assert_same(ours, plain, 0.05)
    inside = []
    layer = model.base_model.layers[0].mlp

    def spy(x):
        inside.append(torch.is_autocast_enabled("cpu"))
        return type(layer).forward(layer, x)

    layer.forward = spy
    with fit(model, StreamBP(chunk=22)):
        gradients(model, run)
    assert len(inside) == 8 and all(inside)  # four chunks, there and back


def test_accelerate_with_mixed_precision_and_accumulation():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    model = tiny_model("qwen2").train()
    wrapped = accelerator.prepare(model)
    inputs = batch()

    def steps():
        model.zero_grad()
        for _ in range(2):
            with accelerator.accumulate(wrapped):
                loss = wrapped(**inputs).loss
                accelerator.backward(loss)
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    plain = steps()
    with fit(wrapped, *METHODS):
        ours = steps()
    assert_same(ours, plain, 0.05)


def test_a_trainer_inside_the_block(tmp_path):
    from transformers import Trainer, TrainingArguments

    def trained(*methods):
        model = tiny_model("llama").train()
        ids = batch(8)["input_ids"]
        rows = [{"input_ids": row, "labels": row} for row in ids]
        options = TrainingArguments(
            tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=2,
            learning_rate=0.01, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
            logging_strategy="no",
        )  # fmt: skip
        with fit(model, *methods):
            Trainer(model, options, train_dataset=rows).train()
        return [p.detach() for p in model.parameters()]

    plain, before = trained(), list(tiny_model("llama").parameters())
    for ours, theirs, start in zip(trained(*METHODS), plain, before, strict=True):
        assert not torch.equal(theirs, start)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_data_parallel_reduces_every_gradient_once(tmp_path):
    model = tiny_model("llama").double().train()
    plain = gradients(model, lambda: model(**batch()).loss)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        with fit(wrapped, *METHODS):
            ours = gradients(model, lambda: wrapped(**batch()).loss)
    finally:
        torch.distributed.destroy_process_group()
    assert_same(ours, plain, 1e-6)


def test_preparing_inside_the_block_keeps_accelerates_wrapper():
    from accelerate import Accelerator

    model, inputs = tiny_model("llama"), batch()
    logits = model(**inputs).logits
    with fit(model, TiledLoss()):
        wrapped = Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
        assert wrapped(**inputs).logits.shape == (2, 0, 320)
    after = wrapped(**inputs)
    assert (after.logits - logits).abs().max() < 0.1
    assert not torch.equal(after.logits, logits)  # still in bfloat16
    with fit(wrapped, TiledLoss()):
        torch.testing.assert_close(wrapped(**inputs).loss, after.loss, atol=0.01, rtol=0)


def test_composes_with_transformers_checkpointing():
    model = tiny_model("llama").double().train()
    plain = gradients(model, lambda: model(**batch()).loss)
    for reentrant in (True, False):
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        with fit(model, TiledMLP(tokens=14), TiledLoss(7)):
            assert_same(gradients(model, lambda: model(**batch()).loss), plain, 1e-6)


def error(found, truth):
    """Distance of all gradients together from the truth, relative."""
    wrong = sum(float((found[name].double() - truth[name]).square().sum()) for name in truth)
    return (wrong / sum(float(truth[name].square().sum()) for name in truth)) ** 0.5


@pytest.mark.parametrize("family", KINDS)
def test_bfloat16_is_as_near_the_truth_as_the_plain_step(family):
    model = tiny_model(family, max_position_embeddings=512).train()
    half = copy.deepcopy(model).bfloat16()
    exact = copy.deepcopy(half).double()
    if family == "gpt_oss":  # torch's grouped product of experts has no float64
        exact.set_experts_implementation("eager")
    inputs = batch(1, 256)
    truth = gradients(exact, lambda: exact(**inputs).loss)[1]
    plain = error(gradients(half, lambda: half(**inputs).loss)[1], truth)
    assert 1e-4 < plain < 0.3  # 0.2 with Phi-3's LongRoPE, which makes scores larger
    for methods in ((StreamBP(64),), (TiledMLP(64),), (TiledLoss(64),), (Offload(),),
                    (StreamBP(64), TiledMLP(32), TiledLoss(64), Offload())):  # fmt: skip
        with fit(half, *methods):
            ours = error(gradients(half, lambda: half(**inputs).loss)[1], truth)
        assert ours < 1.1 * plain, methods
