"""What is measured: the mock upstream itself, nginx, a bare ASGI server, and the gateway."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from bench import wire
from bench.processes import PYTHON, BenchError, Child, accepts, cpu_seconds, free_port, pin, rss_mb


class Service(Protocol):
    """What a target keeps its state in: processor time that is told apart."""

    def cpu_seconds(self) -> float: ...

    def pin(self, cpus: frozenset[int]) -> None: ...


class Target:
    """A running server behind a port."""

    keys: tuple[str, ...] = ()
    """What its callers present, in turns."""
    models: tuple[str, ...] = (wire.MODEL,)
    """What they ask for, in turns."""
    path = "/v1/chat/completions"
    by_meaning = False
    """It writes answers anew, so that their words are compared and not their bytes."""

    def __init__(self, server: Child, port: int) -> None:
        self.server = server
        self.port = port
        self.services: tuple[Service, ...] = ()

    @property
    def key(self) -> str:
        """The first of them, or none."""
        return self.keys[0] if self.keys else ""

    @property
    def headers(self) -> dict[str, str]:
        """Beside the usual ones."""
        return {}

    def described(self) -> dict[str, object]:
        """Version and configuration, for the result."""
        return {}

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.server.pid)

    def rss_mb(self) -> float:
        return rss_mb(self.server.pid)

    def pin(self, cpus: frozenset[int]) -> None:
        pin(self.server.pid, cpus)

    def settle(self, requests: int) -> None:
        """Wait until the work that `requests` since the start left behind is done, so that it is counted as theirs."""

    def stop(self) -> None:
        self.server.stop()


class Direct(Target):
    """The mock upstream without anything in front: the zero of added latency and the limit of the harness."""

    @classmethod
    def start(cls) -> Direct:
        server = Child([PYTHON, "-m", "bench.mock_upstream"], talks=True)
        return cls(server, int(server.read_line().split()[1]))


class Echo(Target):
    """A raw ASGI application on uvicorn that answers by itself."""

    @classmethod
    def start(cls) -> Echo:
        port = free_port()
        quiet = ("--no-access-log", "--no-server-header", "--no-date-header", "--log-level", "warning")
        protocols = ("--loop", "uvloop", "--http", "httptools", "--lifespan", "off")
        command = [PYTHON, "-m", "uvicorn", "bench.echo_app:app", "--port", str(port), *protocols, *quiet]
        server = Child(command)
        server.wait_until(lambda: accepts(port), what="its port is open")
        return cls(server, port)


NGINX_CONF = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream mock {{
        server 127.0.0.1:{upstream_port};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
"""One process, kept connections on both sides, no access log; unbuffered, as event streams need it."""


class Nginx(Target):
    """`proxy_pass` and nothing else: the practical limit of any proxy."""

    @classmethod
    def start(cls, *, folder: Path, upstream_port: int) -> Nginx:
        port = free_port()
        folder.mkdir(parents=True)
        conf = folder / "nginx.conf"
        conf.write_text(NGINX_CONF.format(folder=folder, upstream_port=upstream_port, port=port))
        server = Child([cls.program(), "-p", str(folder), "-c", str(conf)])
        server.wait_until(lambda: accepts(port), what="its port is open")
        return cls(server, port)

    def described(self) -> dict[str, object]:
        return {"version": self.version(), "configuration": NGINX_CONF.strip()}

    @staticmethod
    def program() -> str:
        found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise BenchError(
                "nginx is not installed; install it (apt install nginx-light) or leave it out of --targets"
            )
        return found

    @classmethod
    def installed(cls) -> bool:
        return not cls.missing()

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here; empty when it can."""
        try:
            cls.program()
        except BenchError as error:
            return str(error).rstrip(".")
        return ""

    @classmethod
    def version(cls) -> str:
        told = subprocess.run([cls.program(), "-v"], capture_output=True, text=True, check=True).stderr
        match = re.search(r"nginx/(\S+)", told)
        return match[1] if match else told.strip()
