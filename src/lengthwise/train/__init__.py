"""Training at lengths: data of every length first."""
