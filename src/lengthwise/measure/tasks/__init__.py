"""Tasks: generated items of exact length, and their scores."""

from lengthwise.measure.tasks.base import Item, Task
from lengthwise.measure.tasks.passkey import Passkey

__all__ = ["Item", "Passkey", "Task"]
