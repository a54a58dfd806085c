"""nginx as a contender: one worker, no log, and everything that makes it fast."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.load.measure import Skipped
from tests.load.ours import LIST, Server
from tests.load.processes import free_port, listens, process, until
from tests.load.wire import Reply

_OWN = frozenset({"date", "server", "content-type", "content-length", "connection", "keep-alive"})
"""Header fields that nginx writes by itself."""

_CONFIG = """\
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    types {{ }}
    default_type application/json;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""


@dataclass(frozen=True)
class Site:
    """Answers like `like`: with `return`, or from a file."""

    like: Reply
    from_file: bool = False


@contextmanager
def nginx(sites: Mapping[str, Site], folder: Path, core: int) -> Iterator[dict[str, Server]]:
    """One nginx that has each site on a port of its own. Raises `Skipped` where it is not
    installed."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise Skipped("nginx is not installed (Debian: apt-get install nginx-light)")
    ports = {name: free_port() for name in sites}
    servers = [_server(site, ports[name], folder / name) for name, site in sites.items()]
    user = (
        "user root;" if os.geteuid() == 0 else ""
    )  # The worker reads files in a folder that is ours alone.
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(_CONFIG.format(user=user, folder=folder, servers="\n".join(servers)))
    with process(
        [binary, "-e", str(log), "-p", str(folder), "-c", str(config)], log, core
    ) as started:
        until(lambda: all(listens(("127.0.0.1", port)) for port in ports.values()), started, log)
        yield {name: Server(port, started.pid) for name, port in ports.items()}


def _server(site: Site, port: int, root: Path) -> str:
    own = _OWN | {"etag"} if site.from_file else _OWN  # A file has an ETag of nginx's.
    headers = [
        f"add_header {name} {_quoted(value)};"
        for name, value in site.like.headers
        if name.lower() not in own
    ]
    if site.from_file:
        path = root / LIST.strip("/")
        path.parent.mkdir(parents=True)
        path.write_bytes(site.like.body)
        answer = f"root {root};"
    else:
        answer = f"return {site.like.status} {_quoted(site.like.body.decode()) if site.like.body else ''};"  # noqa: E501
    return f"    server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ {' '.join(headers)} {answer} }} }}"  # noqa: E501


def _quoted(text: str) -> str:
    """A string of nginx's configuration that stands for itself."""
    if set(text) & set("'\\$"):
        raise ValueError(f"nginx would not take this literally: {text!r}")
    return f"'{text}'"
