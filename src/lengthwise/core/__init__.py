"""The ground floor: torch only."""
