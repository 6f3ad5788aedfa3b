"""What is vendored is what was reviewed: nothing edited, nothing missing, nothing besides."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from django.conf import settings

VENDOR = Path(settings.BASE_DIR) / "static" / "vendor"
MANIFEST = json.loads((VENDOR / "vendor.json").read_text())


def test_every_vendored_file_has_the_recorded_hash() -> None:
    recorded = {name: digest for package in MANIFEST["packages"] for name, digest in package["files"].items()}

    present = {
        str(file.relative_to(VENDOR)): hashlib.sha256(file.read_bytes()).hexdigest() for file in VENDOR.glob("*/**/*.*")
    }

    assert present == recorded
    assert present


def test_every_package_brings_its_licence_and_says_its_version() -> None:
    for package in MANIFEST["packages"]:
        folder = VENDOR / f"{package['name']}-{package['version']}"
        script = next(folder.glob("*.js")).read_text()

        assert "MIT" in (folder / "LICENSE.md").read_text()
        assert f"v{package['version']}" in script[:200]


def test_pages_name_the_vendored_version() -> None:
    page = (Path(settings.BASE_DIR) / "templates" / "dashboard" / "team.html").read_text()

    for package in MANIFEST["packages"]:
        assert f"vendor/{package['name']}-{package['version']}/" in page
