"""Whether a difference is one: intervals, effective lengths, and a judge's bias for length."""
