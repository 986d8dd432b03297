"""`fit`: methods take hold of a model for the length of a `with` block."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

import lengthwise.train.memory.attention  # noqa: F401 (registers the attention of StreamBP)
from lengthwise.hf.binding import NAME as ADAPTED
from lengthwise.hf.families import FAMILIES, decoder, layers_of, refuse_unsupported
from lengthwise.hf.release import CACHE, take_cache
from lengthwise.hf.streaming import NAME as STREAMING
from lengthwise.train.memory.head import refuse_loss, tiled_loss, unwrap
from lengthwise.train.memory.host import Host
from lengthwise.train.memory.methods import Memory, Offload, StreamBP, TiledLoss, TiledMLP
from lengthwise.train.memory.mlp import tiled
from lengthwise.train.memory.replay import per_row
from lengthwise.train.memory.stream import CACHES, LayerRun, Recomputed

MARK = "_lengthwise_memory"
LEVERS = (TiledLoss, StreamBP, TiledMLP, Offload)


@contextmanager
def fit(model: nn.Module, *methods: Memory) -> Iterator[nn.Module]:
    """Within the block, training steps of `model` need less memory and give the same gradients.

    Modules, weights and hooks stay what they are, and the block's end gives everything back.
    Forwards without gradients, `generate` among them, run as ever. As under gradient
    checkpointing, layers that are computed again make no cache; transformers tells packed
    documents by `position_ids` only where there is none.

    Args:
        model: A transformers model of a supported family, plain, adapted (`lengthwise.adapt`) or
            wrapped by peft or accelerate; call `prepare` and `get_peft_model` first.
        methods: At most one of each kind, in any order.

    Raises:
        ValueError: If a method is given twice or applied already, or does not cover the model; if
            a hook inside a layer would run once per chunk; if something in a forward cannot be
            cut. The message says which.
        torch.OutOfMemoryError: Memory ran out all the same; the message says what is left to try.
    """
    asked = _by_kind(methods)
    inner = unwrap(model)
    _refuse(inner, asked)
    with ExitStack() as stack:
        setattr(inner, MARK, tuple(asked.values()))
        stack.callback(delattr, inner, MARK)
        stream, mlp, loss = asked.get(StreamBP), asked.get(TiledMLP), asked.get(TiledLoss)
        if isinstance(mlp, TiledMLP):
            for layer in layers_of(inner):
                _replace(stack, layer.mlp, tiled(layer.mlp, mlp.tokens))
        if stream or Offload in asked:
            assert stream is None or isinstance(stream, StreamBP)
            _recompute(stack, inner, stream, offload=Offload in asked)
        if isinstance(loss, TiledLoss):
            stack.enter_context(tiled_loss(inner, loss.tokens))
        if asked:
            watch = _watch(inner, asked)
            hook = decoder(inner).register_forward_pre_hook(watch, with_kwargs=True, prepend=True)
            stack.callback(hook.remove)
        try:
            yield model
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(_advice(asked)) from error


def _by_kind(methods: tuple[Memory, ...]) -> dict[type[Memory], Memory]:
    asked: dict[type[Memory], Memory] = {}
    for method in methods:
        if not isinstance(method, LEVERS):
            names = ", ".join(f"{kind.__name__}()" for kind in LEVERS)
            raise ValueError(f"fit takes {names}, got {method!r}")
        if type(method) in asked:
            raise ValueError(
                f"{type(method).__name__} is given twice: {asked[type(method)]} and {method}; "
                "keep one"
            )
        asked[type(method)] = method
    return asked


def _refuse(model: PreTrainedModel, asked: dict[type[Memory], Memory]) -> None:
    """Raise ValueError for everything that can be known before a forward."""
    refuse_unsupported(model)
    if hasattr(model, MARK):
        names = ", ".join(repr(method) for method in getattr(model, MARK))
        raise ValueError(f"fit is on already for this model, with {names}; leave that block first")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or isinstance(parameter, DTensor):
            raise ValueError(
                f"{name} is sharded over devices (ZeRO-3 or FSDP), which fit does not cover; use "
                "DDP or ZeRO-1 and -2"
            )
    if TiledLoss in asked:
        refuse_loss(model)
    family = model.config.model_type
    if TiledMLP in asked and family == "llama4_text":
        raise ValueError("TiledMLP does not cover Llama 4, whose MLPs are others; leave it out")
    if not (StreamBP in asked or Offload in asked):
        return
    name = "StreamBP" if StreamBP in asked else "Offload"
    if model.is_activation_checkpointing:
        raise ValueError(
            f"{name} checkpoints every layer itself; call model.activation_checkpointing_disable()"
        )
    if StreamBP not in asked:
        return
    if FAMILIES[family].by_mask or family == "llama4_text":
        raise ValueError(
            f"StreamBP does not cover {family}, whose layers hand no keyword down or attend in "
            "chunks; use Offload, or gradient checkpointing"
        )
    kind = model.config._attn_implementation
    if kind == ADAPTED:
        engine = model.__dict__["_lengthwise"].engine
        for axes in engine.layers:
            if axes.layout.by_head:
                raise ValueError(
                    "StreamBP does not cover layers whose heads have layouts of their own "
                    f"({axes.layout}); use Offload, or gradient checkpointing"
                )
            if axes.selector.state() is not None:
                raise ValueError(
                    f"StreamBP does not cover {type(axes.selector).__name__}, whose choice of "
                    "pages has no gradient by chunks; use Offload, or adapt without it"
                )
            if axes.store.every:
                raise ValueError(
                    f"StreamBP does not cover {type(axes.store).__name__}, which drops keys while "
                    "a text is read and has no gradient; adapt without it"
                )
    elif kind not in ("eager", "sdpa"):
        raise ValueError(
            f"StreamBP brings its own attention for 'eager' and 'sdpa' and does not cover "
            f"{kind!r}; call model.set_attn_implementation('sdpa')"
        )
    if getattr(model.config, "attention_dropout", 0.0):
        raise ValueError(
            f"StreamBP has no attention dropout, got {model.config.attention_dropout}; set "
            "config.attention_dropout to 0 before the model is built"
        )


def _recompute(
    stack: ExitStack, model: PreTrainedModel, stream: StreamBP | None, *, offload: bool
) -> None:
    """Layers keep their inputs alone, and run in chunks if `stream` is given."""
    host = Host(next(decoder(model).parameters()).device) if offload else None
    for index, layer in enumerate(layers_of(model)):
        _replace(stack, layer, _layer_forward(layer, index, stream, host))
    before = model.config._attn_implementation
    if stream is not None and before != ADAPTED:
        model.set_attn_implementation(STREAMING)
        stack.callback(model.set_attn_implementation, before)


def _layer_forward(
    layer: nn.Module, index: int, stream: StreamBP | None, host: Host | None
) -> Callable[..., Any]:
    whole = layer.forward
    names = list(inspect.signature(type(layer).forward).parameters)[2:]
    accepted = [name for name in CACHES if name in names]

    @functools.wraps(whole)
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return whole(x, *args, **kwargs)
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        arguments |= dict.fromkeys(accepted)
        chunk = x.shape[1] if stream is None else per_row(stream.chunk, x.shape[0])
        run = LayerRun(whole, arguments, index, chunk, x)
        parameters = [p for p in layer.parameters() if p.requires_grad]
        return Recomputed.apply(run, host, x, *parameters)

    return forward


def _watch(
    model: PreTrainedModel, asked: dict[type[Memory], Memory]
) -> Callable[[nn.Module, Any, dict[str, Any]], Any]:
    """What is looked at before every forward of the decoder."""

    def watch(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return None
        for layer in layers_of(model):
            if StreamBP in asked:
                _refuse_hooks("StreamBP", layer, inside=True)
            elif Offload in asked:
                _refuse_hooks("Offload", layer, inside=True)
            elif TiledMLP in asked:
                _refuse_hooks("TiledMLP", layer.mlp, inside=True)
        if TiledLoss in asked:
            _refuse_hooks("TiledLoss", model.get_output_embeddings(), inside=False)
        if not (StreamBP in asked or Offload in asked):
            return None
        for flag in ("output_attentions", "output_router_logits"):
            wanted = kwargs.get(flag)
            if getattr(model.config, flag, False) if wanted is None else wanted:
                raise ValueError(f"{flag} would be recorded once per chunk; leave it out in fit")
        if take_cache(dict(kwargs)) is not None:
            raise ValueError(f"a training step in fit takes no cache; leave {CACHE} out")
        return args, {**kwargs, "use_cache": False}

    return watch


def _refuse_hooks(method: str, module: nn.Module, *, inside: bool) -> None:
    """Raise ValueError for a hook that would run once per chunk or tile.

    Args:
        inside: Whether the module itself runs once as ever, and only what is in it does not.
    """
    for name, part in module.named_modules():
        if name or not inside:
            for kind in (
                "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
            ):  # fmt: skip
                for hook in getattr(part, kind).values():
                    # transformers leaves its recorders in place; they sleep unless asked.
                    if getattr(hook, "__module__", "") != "transformers.utils.output_capturing":
                        raise ValueError(
                            f"a hook on {type(module).__name__}.{name} ({type(part).__name__}) "
                            f"would run once per chunk under {method}; remove it, or hook the "
                            "whole layer"
                        )
        for own, parameter in part.named_parameters(recurse=False):
            if parameter._backward_hooks:
                raise ValueError(
                    f"a gradient hook on {type(module).__name__}.{name}.{own} would run once per "
                    f"chunk under {method}; use register_post_accumulate_grad_hook"
                )


def _replace(stack: ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
    """Give a module another forward until the stack unwinds."""
    before = module.__dict__.get("forward")
    module.forward = forward

    def undo() -> None:
        del module.forward
        if before is not None:
            module.forward = before

    stack.callback(undo)


def _out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in said


def _advice(asked: dict[type[Memory], Memory]) -> str:
    """What is left to try, the lever that frees most first."""
    left = [f"{kind.__name__}()" for kind in LEVERS if kind not in asked]
    stream, mlp = asked.get(StreamBP), asked.get(TiledMLP)
    if isinstance(stream, StreamBP) and TiledMLP not in asked:
        left.remove("TiledMLP()")  # inside a chunk it frees nothing that a smaller chunk does not
    for method, size in ((stream, "chunk"), (mlp, "tokens"), (asked.get(TiledLoss), "tokens")):
        if method is not None and getattr(method, size) > 1:
            smaller = max(1, getattr(method, size) // 2)
            left.append(f"{type(method).__name__}({size}={smaller})")
    on = ", ".join(repr(method) for method in asked.values()) or "no method"
    return f"out of memory with {on}; left to try: {', '.join(left)}, or a shorter sequence"
