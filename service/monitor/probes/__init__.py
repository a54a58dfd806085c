"""Checks of a service: by HTTP, by TCP, by Redis PING."""
