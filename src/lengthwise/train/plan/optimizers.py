"""What an optimizer keeps for every trained number, and what its step needs on top."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """One optimizer of torch.

    Attributes:
        states: Numbers kept for each trained number, in its type.
        single: Copies of the largest tensor that a step needs, one tensor at a time (CPU).
        multi: Copies of everything trained that a step needs, all tensors together (CUDA).
    """

    name: str
    states: int
    single: int
    multi: int

    def state_bytes(self, trained: int) -> int:
        """Bytes of states for `trained` bytes of parameters."""
        return self.states * trained

    def work_bytes(self, trained: int, largest: int, gpu: bool) -> int:
        """Bytes that live only while a step is taken."""
        return self.multi * trained if gpu else self.single * largest


# torch.optim's defaults. AdamW one tensor at a time makes a square root, its quotient, and a third
# copy that was found by measuring; all together it makes the square roots of everything.
OPTIMIZERS = {
    "adamw": Optimizer("adamw", 2, 3, 1),
    "sgd": Optimizer("sgd", 0, 0, 0),
    "momentum": Optimizer("momentum", 1, 0, 0),
}
