"""The response cache: keys, pure renderers, prepared responses. It knows no aiohttp."""
