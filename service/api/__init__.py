"""The HTTP API (deploy/API.md)."""
