"""Secrets that the gateway makes for itself: once, unguessable, and readable by its own user only.

They live in `secrets.env` in the data folder. Environment variables of the same names win.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet

HEADER = "# Generated once. Keep a copy with your backups: without it, stored credentials cannot be read.\n"


def ensure_secrets(file: Path) -> None:
    """Create `file` with fresh secrets unless it exists; never changes one that does."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_secrets(file, fresh_secrets(), replace=False)


def fresh_secrets() -> dict[str, str]:
    """A complete new set, by variable name."""
    return {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "GATEWAY_FIELD_KEYS": Fernet.generate_key().decode(),
        "GATEWAY_KEY_PEPPERS": secrets.token_hex(32),
    }


def write_secrets(file: Path, values: dict[str, str], *, replace: bool = True) -> None:
    """Write `values` to `file` with mode 0600, whole or not at all.

    With `replace=False` a file that another process created meanwhile is left as it is.
    """
    text = HEADER + "".join(f"{name}={value}\n" for name, value in values.items())
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        if replace:
            draft.replace(file)
        else:
            _link_if_absent(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _link_if_absent(draft: Path, file: Path) -> None:
    try:
        os.link(draft, file)
    except FileExistsError:
        return
