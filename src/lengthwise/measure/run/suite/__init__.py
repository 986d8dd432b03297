"""Suites: many tasks at many lengths, item by item."""
