"""Which version this is. Read from the changelog, so that there is one place to write it. No Django."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from llmgateway.conf import PROJECT_ROOT


@dataclass(frozen=True, slots=True)
class Build:
    """What is running. `commit` and `built_at` are empty where they are not known."""

    version: str
    commit: str
    built_at: str
    """ISO 8601: when the image was built or, in a clone, when its commit was made."""
    python: str


@lru_cache(maxsize=1)
def build() -> Build:
    """GATEWAY_COMMIT and GATEWAY_BUILD_TIME, which an image carries, win over the clone's own history."""
    commit = os.environ.get("GATEWAY_COMMIT") or _git("rev-parse", "--short=12", "HEAD")
    built_at = os.environ.get("GATEWAY_BUILD_TIME") or _git("show", "--no-patch", "--format=%cI", "HEAD")
    return Build(version=version(), commit=commit, built_at=built_at, python=platform.python_version())


def version() -> str:
    changelog = PROJECT_ROOT / "CHANGELOG.md"
    if changelog.is_file():
        found = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return metadata.version("llmgateway")


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None or not (PROJECT_ROOT / ".git").exists():
        return ""
    done = subprocess.run([git, "-C", str(PROJECT_ROOT), *arguments], check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
