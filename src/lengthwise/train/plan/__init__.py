"""How long a sequence a device can train on, before it is tried.

A step's allocations are written down operation by operation (`layers`, `families`, `attention`,
`levers`, `stream`) and run through autograd's rules of keeping and freeing (`ledger`); the worst
moment is the prediction. Every size follows from the model's shape. Derived and not measured: the
workspaces of CUDA's kernels and optimizer. Not counted: Python, the libraries, the CUDA context,
fragments of memory (glibc's heap alone kept up to 2.7 times the prediction on top in
benchmarks/train_plan.py, unless told to give blocks back).
"""

from lengthwise.train.plan.layers import Training
from lengthwise.train.plan.longest import LADDER, NEXT, Longest, longest, offloads
from lengthwise.train.plan.model import ModelShape, read_shape
from lengthwise.train.plan.optimizers import OPTIMIZERS, Optimizer
from lengthwise.train.plan.step import Levers, Peak, step_peak

__all__ = [
    "LADDER",
    "NEXT",
    "OPTIMIZERS",
    "Levers",
    "Longest",
    "ModelShape",
    "Optimizer",
    "Peak",
    "Training",
    "longest",
    "offloads",
    "read_shape",
    "step_peak",
]
