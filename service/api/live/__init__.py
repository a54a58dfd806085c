"""Responses that wait for changes: long polls and event streams. They know no aiohttp."""
