"""The network behind CLEX: how frequencies move with the factor, and how it is tuned."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.adapt import adapted
from lengthwise.extend.method import Scaling, at_least, whole
from lengthwise.extend.scaling.clex import CLEX
from lengthwise.extend.scaling.frequencies import unscaled
from lengthwise.files import whole_file
from lengthwise.hf.families import read_geometry, refuse_unsupported


class CLEXNetwork(nn.Module):
    """The right-hand side of an ordinary differential equation over the factor t.

    With z the logarithm of the frequencies and n(t) that of NTK's at the factor 2 t - 1:
    `dz/dt = W_down silu(W_up (z + n(t))) + dn/dt`, from the model's own frequencies at t = 1.
    `W_down` begins at 0, so an untuned network is NTK.

    Source: Chen et al. 2023, arXiv:2310.16450, section 3, and the authors' code.
    Differs from the source: the known part n(t) is added in closed form; only what the network
        adds to it is integrated, by Runge-Kutta of order 4.

    Args:
        dim: Rotated dimensions of a head, even, at least 4.
        theta: The model's base.
        width: Hidden numbers as a multiple of `dim`, at least 1.
        substeps: Steps of the integration for a factor of 1, at least 1.
        seed: Of the first weights.
    """

    def __init__(
        self, dim: int, theta: float, width: int = 1, substeps: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value, least in (("dim", dim, 4), ("width", width, 1), ("substeps", substeps, 1)):
            whole("CLEXNetwork", name, value, least)
        self.dim, self.theta, self.width, self.substeps = dim, float(theta), width, substeps
        pairs, hidden = dim // 2, width * dim
        g = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(pairs)
        up = torch.empty(pairs, hidden).uniform_(-bound, bound, generator=g)
        self.up, self.down = nn.Parameter(up), nn.Parameter(torch.zeros(hidden, pairs))

    def _ntk(self, t: float) -> Float[Tensor, " pairs"]:
        """log of NTK's frequencies at the factor 2 t - 1."""
        index = torch.arange(0, self.dim, 2, dtype=self.up.dtype, device=self.up.device)
        return -index / self.dim * math.log(self.theta) - index / (self.dim - 2) * math.log(
            2 * t - 1
        )

    def _moves(self, t: float, added: Tensor) -> Tensor:
        return nn.functional.silu((added + 2 * self._ntk(t)) @ self.up) @ self.down

    def log_frequencies(self, factor: int) -> Float[Tensor, "factor pairs"]:
        """log of the frequencies at the factors 1, 2 … `factor`; gradients flow."""
        whole("CLEXNetwork", "factor", factor, 1)
        h = 1 / self.substeps
        added = torch.zeros_like(self.up[:, 0])
        rows = [self._ntk(1.0)]
        for step in range((factor - 1) * self.substeps):
            t = 1 + step * h
            a = self._moves(t, added)
            b = self._moves(t + h / 2, added + h / 2 * a)
            c = self._moves(t + h / 2, added + h / 2 * b)
            d = self._moves(t + h, added + h * c)
            added = added + h / 6 * (a + 2 * b + 2 * c + d)
            if (step + 1) % self.substeps == 0:
                rows.append(self._ntk(t + h) + added)
        return torch.stack(rows)

    @torch.no_grad()
    def scaling(self, max_factor: int) -> CLEX:
        """The method for texts of up to `max_factor` windows: a table of factors, cached."""
        whole("CLEXNetwork", "max_factor", max_factor, 2)
        moved = self.log_frequencies(max_factor)
        return CLEX(tuple(map(tuple, (moved[0] - moved[1:]).exp().tolist())))

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        made = {"dim": self.dim, "theta": self.theta, "width": self.width}
        made["substeps"] = self.substeps
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        with whole_file(Path(file)) as fresh:
            save_file(state, fresh, {"clex": json.dumps(made)})

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "CLEXNetwork":
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                about = (opened.metadata() or {}).get("clex")
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read a CLEX network from {file}: {error}") from error
        if about is None:
            raise ValueError(f"{file} holds no CLEX network; write one with CLEXNetwork.save")
        network = cls(**json.loads(about))
        network.load_state_dict(tensors)
        return network


@dataclass(frozen=True)
class _Tuned(Scaling):
    """The network's frequencies at one factor, with their gradients, while it is tuned."""

    frequencies: Callable[[], Tensor]

    @property
    def static(self) -> bool:
        return False

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        return Rotary(self.frequencies(), pairing=base.pairing)


def tune_clex(
    model: PreTrainedModel,
    batches: Iterable[Int[Tensor, "b t"]],
    *,
    max_factor: int,
    learning_rate: float = 1e-4,
    model_parameters: Sequence[nn.Parameter] = (),
    model_learning_rate: float = 2e-5,
    network: CLEXNetwork | None = None,
    seed: int = 0,
) -> Iterator[tuple[CLEXNetwork, float]]:
    """Tune a network on texts inside the window whose positions are spread over longer ones.

    Every batch draws a factor t up to `max_factor` and as many positions as it has tokens
    out of t windows, the first and the last among them. The model stays adapted until the
    iteration ends or is closed. Only the network learns, unless
    `model_parameters` are given, as in the source, where the whole model learns with it.

    Args:
        model: Not adapted; its weights stay what they are but for `model_parameters`.
        batches: Token ids, at most a window long; the iteration ends with them.
        max_factor: At least 2.
        learning_rate: Of AdamW, for the network.
        network: Goes on from a network instead of a fresh one.
        seed: Of the network's first weights, factors and positions.

    Yields:
        The network and the loss of the batch in nats per token, after every step.

    Raises:
        ValueError: If the model carries a scaling already or a number is out of range.
    """
    whole("tune_clex", "max_factor", max_factor, 2)
    at_least("tune_clex", "learning_rate", learning_rate, 0)
    refuse_unsupported(model)
    geometry = read_geometry(model)
    base = next(
        layer.rotary
        for index, layer in enumerate(geometry.layers)
        if layer.rotary is not None and not geometry.local(index)
    )
    if network is None:
        network = CLEXNetwork(base.dim, base.theta, seed=seed)
    network.to(model.device)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "lr": learning_rate}]
    if model_parameters:
        groups.append({"params": list(model_parameters), "lr": model_learning_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    g = torch.Generator().manual_seed(seed)
    least = 1 if model_parameters else 2  # at factor 1 the network has no say
    drawn: list[Tensor] = [unscaled(base)]
    trainable = [p for p in model.parameters() if p.requires_grad]
    chosen = {id(p) for p in model_parameters}
    for parameter in trainable:
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        with adapted(model, _Tuned(lambda: drawn[0])):
            for ids in batches:
                if ids.shape[1] > geometry.window:
                    raise ValueError(
                        f"tune_clex: batches must have at most {geometry.window} tokens, the "
                        f"model's window, got {ids.shape[1]}"
                    )
                factor = int(torch.randint(least, max_factor + 1, (1,), generator=g))
                positions = spread_positions(ids.shape[1], factor * geometry.window, g)
                drawn[0] = network.log_frequencies(factor)[-1].exp()
                out = model(
                    ids, position_ids=positions.to(ids.device)[None], labels=ids, use_cache=False
                )
                optimizer.zero_grad()
                out.loss.backward()
                optimizer.step()
                yield network, out.loss.item()
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def spread_positions(count: int, span: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` rising positions out of `span`, the first and the last among them."""
    if count < 3 or count >= span:
        return torch.arange(count)
    inner = torch.randperm(span - 2, generator=generator)[: count - 2].sort().values + 1
    return torch.cat([torch.zeros(1, dtype=torch.long), inner, torch.tensor([span - 1])])
