"""The monitor: checks the services and records the events that are due (contract, section 8)."""
