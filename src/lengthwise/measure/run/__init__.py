"""Carrying out a measurement: items in order, and the file in which nothing finished is lost."""
