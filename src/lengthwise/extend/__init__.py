"""A pretrained checkpoint past its window."""
