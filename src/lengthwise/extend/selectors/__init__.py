"""Which pages of keys a query reads."""

from lengthwise.extend.selectors.all_pages import AllPages
from lengthwise.extend.selectors.infllm import InfLLM

__all__ = ["AllPages", "InfLLM"]
