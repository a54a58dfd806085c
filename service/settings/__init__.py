"""Settings: their types, the model, its validation, and loading from the environment."""

from service.settings.load import CLIENT_VARIABLES, load, read_text, read_toml, reread
from service.settings.model import Kind, Origin, Settings, is_secret
from service.settings.types import (
    PREFIX,
    SERVICE_NAME,
    Auth,
    LogFormat,
    Unknown,
    can_be_checked,
    is_loopback,
    is_safe_url,
    seconds,
    webhook_key,
)

__all__ = [
    "CLIENT_VARIABLES",
    "PREFIX",
    "SERVICE_NAME",
    "Auth",
    "Kind",
    "LogFormat",
    "Origin",
    "Settings",
    "Unknown",
    "can_be_checked",
    "is_loopback",
    "is_safe_url",
    "is_secret",
    "load",
    "read_text",
    "read_toml",
    "reread",
    "seconds",
    "webhook_key",
]
