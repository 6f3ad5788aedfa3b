"""What a demo keeps between its runs: its keys' secrets, its admin's password, its provider's port. No Django.

The file also marks a data folder as a demo's: only such a folder is ever reset, and no other gets demo data.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmgateway.supervisor import StartError

FILE = "demo.json"
KEY_VARIABLES = ("DEMO_KEY", "DEMO_MOBILE_KEY", "DEMO_RESEARCH_KEY")


@dataclass(frozen=True, slots=True)
class DemoState:
    admin_password: str
    secrets: dict[str, str]
    """By the variable that `demo.yaml` reads."""
    provider_port: int
    former_ports: tuple[int, ...] = ()
    """Where its provider listened in runs before, and the configuration may still look for it."""

    @property
    def provider_url(self) -> str:
        return _url(self.provider_port)

    def variables(self) -> dict[str, str]:
        """What the gateway's processes read from their environment."""
        former = " ".join(map(_url, self.former_ports))
        return {**self.secrets, "DEMO_PROVIDER_URL": self.provider_url, "DEMO_FORMER_PROVIDER_URLS": former}

    def at_port(self, port: int) -> DemoState:
        """With its provider there."""
        former = {*self.former_ports, self.provider_port} - {0, port}
        return replace(self, provider_port=port, former_ports=tuple(sorted(former)))


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def load_or_create(folder: Path) -> DemoState:
    """The state of the demo in `folder`, with a port for its provider that is free now.

    Raises:
        StartError: the folder holds data that is not a demo's.
    """
    file = folder / FILE
    if file.is_file():
        kept = json.loads(file.read_text())
        state = DemoState(**{**kept, "former_ports": tuple(kept.get("former_ports", ()))})
    elif (folder / "gateway.sqlite3").exists():
        raise StartError(f"{folder} is not a demo's data folder; choose an empty one with --data DIR.")
    else:
        state = DemoState(secrets.token_urlsafe(12), {name: _new_key() for name in KEY_VARIABLES}, provider_port=0)
    state = state.at_port(_free_port(state.provider_port))
    _write(file, state)
    return state


def reset(folder: Path) -> None:
    """Remove everything of the demo in `folder`.

    Raises:
        StartError: what is there is not a demo's.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / FILE).is_file():
        raise StartError(f"{folder} is not a demo's data folder, so it is not reset.")
    for entry in folder.iterdir():
        if entry.name == "gateway.lock":  # Held while this runs.
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _new_key() -> str:
    return f"sk-gw-demo-{secrets.token_urlsafe(24)}"


def _write(file: Path, state: DemoState) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(asdict(state), out, indent=2)


def _free_port(wanted: int) -> int:
    """`wanted` if it is free, so that a second run changes nothing; else any that is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
