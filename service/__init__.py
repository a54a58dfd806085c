"""Probes the services of a platform, records events in Redis, and serves them over HTTP."""

__version__ = "0.1.0"
