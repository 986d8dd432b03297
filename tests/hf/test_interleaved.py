"""GLM, Cohere and Llama 4 against their attention written down: neighbours in a head turn together.

Dense, in float64, from the papers and the model cards (GLM, arXiv:2406.12793, with RoPE on half of
a head; Command R and R7B, whose global layers have no positions), by complex numbers: numbers 2n
and 2n + 1 of a head are one, which a position p turns by p times the frequency n. Llama 4 by its
released code: what is rotated attends in chunks and is normed afterwards; what is not is sharper
the farther it stands (arXiv:2501.19399).
"""

import numpy as np
import torch

import lengthwise as lw
from lengthwise.hf.families import decoder
from lengthwise.testing.models import LOCAL, PAD, tiny_model

HEADS, KV_HEADS, DIM = 6, 2, 8
# Rotated numbers of a head, and the window of each of two layers; None is everything, 0 is
# everything without positions.
FAMILIES = {
    "glm": (4, (None, None)),
    "glm4": (4, (None, None)),
    "cohere": (8, (None, None)),
    "cohere2": (8, (LOCAL, 0)),
    "llama4_text": (8, (LOCAL, 0)),
}


def by_hand(family, layer, hidden, rotated, window, inv_freq, sharp=1.0):
    """Attention of one text `[t, d]`, as its layer's weights say."""
    weights = {name: one.detach().numpy() for name, one in layer.named_parameters()}

    def heads(name, count):
        x = hidden @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)
        return x.reshape(len(hidden), count, DIM).transpose(1, 0, 2)

    q, k, v = heads("q_proj", HEADS), heads("k_proj", KV_HEADS), heads("v_proj", KV_HEADS)
    if "q_norm.weight" in weights:  # LayerNorm without a bias, and a weight for every head
        q, k = (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            * weights[f"{name}_norm.weight"][:, None]
            for x, name in ((q, "q"), (k, "k"))
        )  # fmt: skip
    if window != 0:
        turn = sharp * np.exp(1j * np.arange(len(hidden))[:, None] * inv_freq)
        for x in (q, k):
            z = (x[..., 0:rotated:2] + 1j * x[..., 1:rotated:2]) * turn
            x[..., 0:rotated:2], x[..., 1:rotated:2] = z.real, z.imag
            if family == "llama4_text":
                x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    elif family == "llama4_text":
        q = q * (1 + 0.5 * np.log1p((np.arange(len(hidden)) + 1) // 8))[:, None]
    scores = q @ k.repeat(HEADS // KV_HEADS, 0).transpose(0, 2, 1) / np.sqrt(DIM)
    place = np.arange(len(hidden))
    distance = np.subtract.outer(place, place)
    seen = (distance >= 0) & (distance < (window or len(hidden)))
    if family == "llama4_text" and window:
        seen &= np.equal.outer(place // window, place // window)
    scores = np.where(seen, scores, -np.inf)
    weighed = np.exp(scores - scores.max(-1, keepdims=True))
    out = weighed / weighed.sum(-1, keepdims=True) @ v.repeat(HEADS // KV_HEADS, 0)
    return out.transpose(1, 0, 2).reshape(len(hidden), -1) @ weights["o_proj.weight"].T


@torch.no_grad()
def test_attention_is_what_the_papers_say():
    lengths = (50, 31)
    ids = torch.randint(3, 300, (2, 50), generator=torch.Generator().manual_seed(3))
    mask = torch.stack([(torch.arange(50) >= 50 - n).long() for n in lengths])
    ids = ids.masked_fill(mask == 0, PAD)
    for family, (rotated, windows) in FAMILIES.items():
        base = tiny_model(family).config.rope_parameters["rope_theta"]
        own = base ** -(np.arange(0, rotated, 2) / rotated)
        # No scaling, and two: positions divided by 4, and pairs that also turn scores up.
        angles = [((), own, 1.0)]
        if 0 not in windows:
            divided = [2.0 + n for n in range(rotated // 2)]
            angles.append(((lw.PI(factor=4),), own / 4, 1.0))
            long = lw.LongRoPE(tuple(divided), 8, attention_factor=1.25)
            angles.append(((long,), own / divided, 1.25))
        for methods, inv_freq, sharp in angles:
            model = lw.adapt(tiny_model(family).double(), *methods)
            seen, hooks = [], []
            for layer in decoder(model).layers:
                hook = layer.self_attn.register_forward_hook(
                    lambda m, args, kw, out: seen.append((m, kw["hidden_states"], out[0])),  # noqa: B023
                    with_kwargs=True,
                )
                hooks.append(hook)
            model(ids, attention_mask=mask, use_cache=False)
            cache = lw.new_cache(model)
            for low, high in ((0, 40), (40, 49), (49, 50)):
                part = {"attention_mask": mask[:, :high], "past_key_values": cache}
                model(ids[:, low:high], **part)
            for number, window in enumerate(windows):
                mine = seen[number::2]
                chunked = torch.cat([out for *_, out in mine[1:]], 1)
                for row, length in enumerate(lengths):
                    module, hidden, out = mine[0]
                    want = by_hand(
                        family,
                        module,
                        hidden[row, -length:].numpy(),
                        rotated,
                        window,
                        inv_freq,
                        sharp,
                    )
                    for got in (out, chunked):
                        gap = np.abs(got[row, -length:].numpy() - want).max()
                        # transformers rounds angles to float32, and so do we inside the window.
                        assert gap < 1e-5, (family, methods, number, row, gap)
            for hook in hooks:
                hook.remove()
