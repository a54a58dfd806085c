"""The HTTP API (DESIGN, section 3)."""
