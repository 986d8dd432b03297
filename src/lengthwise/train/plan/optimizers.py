"""What an optimizer keeps for every trained number, and what its step needs on top."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """One optimizer of torch.

    Attributes:
        states: Numbers kept for each trained number, in its type.
        single: Copies of a tensor that its step needs, one tensor after the other (CPU).
        kept: How many of them last into the next tensor's step.
        multi: Copies of everything trained that a step needs, all tensors together (CUDA).
    """

    name: str
    states: int
    single: int
    kept: int
    multi: int

    def state_bytes(self, trained: int) -> int:
        """Bytes of states for `trained` bytes of parameters."""
        return self.states * trained

    def work_bytes(self, tensors: list[int], gpu: bool) -> int:
        """Bytes that live only while a step is taken over tensors of these bytes."""
        if gpu:
            return self.multi * sum(tensors)
        pairs = zip(tensors, [0, *tensors], strict=False)
        return max(self.single * now + self.kept * before for now, before in pairs)


# torch.optim's defaults. AdamW one tensor at a time makes a square root and its quotient, and the
# quotient is let go when the next is there; all together it makes the square roots of everything.
OPTIMIZERS = {
    "adamw": Optimizer("adamw", 2, 2, 1, 1),
    "sgd": Optimizer("sgd", 0, 0, 0, 0),
    "momentum": Optimizer("momentum", 1, 0, 0, 0),
}
