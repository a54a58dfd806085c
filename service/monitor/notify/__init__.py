"""Calls to others: the webhook for recorded changes, the heartbeat URL."""
