"""What a length costs: measured in seconds and bytes, or worked out from a configuration."""
