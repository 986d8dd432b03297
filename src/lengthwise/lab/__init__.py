"""Experiments of the papers, made again at small size, each with a verdict."""
