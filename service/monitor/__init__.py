"""The monitor: checks the services, decides what is worth an event, records it (DESIGN, section
8)."""
