"""The monitor: checks the services and records the events that are due.

See `service/DESIGN.md`, "Recording rules" and "Leader election".
"""
