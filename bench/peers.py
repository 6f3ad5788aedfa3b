"""Other gateways, measured in the same run where they are installed: LiteLLM from PyPI and Portkey from npm.

`./gateway bench --install-peers` puts them into a cache folder, each into an environment of its own; nothing else
does. They run as their documentation starts them for production, without features that they have switched off by default.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from bench import wire
from bench.processes import BenchError, Child, accepts, cpu_seconds, descendants, free_port, pin, rss_mb
from bench.targets import Target

LITELLM_VERSION = "1.106.2"
PORTKEY_VERSION = "1.15.2"
PORTKEY_PINS = {"@hono/node-server": "1.13.8", "@hono/node-ws": "1.0.8"}
"""With later ones, which it allows, it answers every stream with 500."""
_SLOW_START_S = 120
_LITELLM_KEY = "sk-bench-litellm"
_INSTALL = "install it with ./gateway bench --install-peers"


def cache_folder() -> Path:
    """Where peers are installed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "llmgateway-bench")


class Peer(Target):
    """One process, or a process and its children."""

    by_meaning = True
    upstream_port = 0

    def _pids(self) -> list[int]:
        return [self.server.pid, *descendants(self.server.pid)]

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self._pids()))

    def rss_mb(self) -> float:
        return max(map(rss_mb, self._pids()))

    def pin(self, cpus: frozenset[int]) -> None:
        for pid in self._pids():
            pin(pid, cpus)


class LiteLLM(Peer):
    """`litellm` with one worker and a master key, without a database: no keys, budgets or spend log."""

    keys = (_LITELLM_KEY,)

    @staticmethod
    def folder() -> Path:
        return cache_folder() / f"litellm-{LITELLM_VERSION}"

    @classmethod
    def missing(cls) -> str:
        return "" if (cls.folder() / "bin" / "litellm").exists() else f"LiteLLM is not installed; {_INSTALL}"

    @classmethod
    def install(cls, say: Callable[[str], None]) -> None:
        venv.create(cls.folder(), with_pip=True, clear=True)
        python = str(cls.folder() / "bin" / "python")
        _run([python, "-m", "pip", "install", "--quiet", f"litellm[proxy]=={LITELLM_VERSION}"], say)

    @staticmethod
    def configuration(upstream_port: int) -> dict[str, object]:
        upstream = {"model": "openai/bench-upstream", "api_base": f"http://127.0.0.1:{upstream_port}/v1"}
        return {
            "model_list": [
                {
                    "model_name": wire.MODEL,
                    "litellm_params": {**upstream, "api_key": "sk-bench-upstream"},
                    "model_info": {"input_cost_per_token": 0.15e-6, "output_cost_per_token": 0.60e-6},
                }
            ],
            "litellm_settings": {"telemetry": False, "set_verbose": False},
            "general_settings": {"master_key": _LITELLM_KEY},
        }

    @classmethod
    def start(cls, folder: Path, upstream_port: int) -> LiteLLM:
        port = free_port()
        file = folder / "litellm.yaml"
        file.write_text(yaml.safe_dump(cls.configuration(upstream_port)))
        quiet = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        words = [
            "--config",
            str(file),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--num_workers",
            "1",
            "--keepalive_timeout",
            "600",
        ]
        # An empty DATABASE_URL would stop it too.
        program = ["env", "-u", "DATABASE_URL", str(cls.folder() / "bin" / "litellm")]
        server = Child([*program, *words], env={**quiet, "NO_DOCS": "True"}, output=folder / "litellm.log")
        server.wait_until(lambda: accepts(port), what="its port is open", timeout_s=_SLOW_START_S)
        made = cls(server, port)
        made.upstream_port = upstream_port
        return made

    def described(self) -> dict[str, object]:
        return {
            "version": LITELLM_VERSION,
            "database": "none",
            "workers": 1,
            "configuration": self.configuration(self.upstream_port),
        }


class Portkey(Peer):
    """`@portkey-ai/gateway` on Node, which keeps no keys, limits or books: headers name the provider and its address."""

    @staticmethod
    def folder() -> Path:
        return cache_folder() / f"portkey-{PORTKEY_VERSION}"

    @classmethod
    def program(cls) -> Path:
        return cls.folder() / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

    @classmethod
    def missing(cls) -> str:
        if shutil.which("node") is None:
            return "Portkey needs Node.js, which is not installed"
        return "" if cls.program().exists() else f"Portkey is not installed; {_INSTALL}"

    @classmethod
    def install(cls, say: Callable[[str], None]) -> None:
        if shutil.which("npm") is None:
            raise BenchError("Portkey needs npm, which is not installed.")
        shutil.rmtree(cls.folder(), ignore_errors=True)
        cls.folder().mkdir(parents=True)
        wanted = {"dependencies": {"@portkey-ai/gateway": PORTKEY_VERSION}, "overrides": PORTKEY_PINS}
        (cls.folder() / "package.json").write_text(json.dumps({"private": True, **wanted}))
        words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(cls.folder())]
        _run(words, say)

    @classmethod
    def start(cls, upstream_port: int) -> Portkey:
        port = free_port()
        server = Child(["node", str(cls.program()), f"--port={port}", "--headless"], env={"NODE_ENV": "production"})
        server.wait_until(lambda: accepts(port), what="its port is open", timeout_s=_SLOW_START_S)
        made = cls(server, port)
        made.upstream_port = upstream_port
        return made

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{self.upstream_port}/v1",
            "Authorization": "Bearer sk-bench-upstream",
        }

    def described(self) -> dict[str, object]:
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return {"version": PORTKEY_VERSION, "node": node, "pinned": PORTKEY_PINS, "configuration": self.headers}


PEERS: tuple[type[LiteLLM | Portkey], ...] = (LiteLLM, Portkey)


def install(say: Callable[[str], None]) -> list[str]:
    """Install what is missing; returns what could not be."""
    failed = []
    for peer in PEERS:
        if not peer.missing():
            say(f"{peer.__name__} is there: {peer.folder()}")
            continue
        try:
            peer.install(say)
        except BenchError as error:
            failed.append(f"{peer.__name__}: {error}")
    return failed


def _run(words: Sequence[str], say: Callable[[str], None]) -> None:
    say(" ".join(words))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError((done.stdout + done.stderr)[-2000:].strip())


__all__ = ["PEERS", "LiteLLM", "Portkey", "cache_folder", "install"]
