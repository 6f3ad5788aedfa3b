"""The launcher's own environment, as far as it can be tried without a package index."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmgateway import environment
from llmgateway.conf import PROJECT_ROOT
from llmgateway.environment import EnvironmentFailedError, ensure


def finish(venv: Path, *, dev: bool = False) -> None:
    """A stand-in for an environment that was made completely."""
    venv.mkdir(exist_ok=True)
    environment._stamp_file(venv, dev=dev).write_text(environment._stamp(dev=dev))


def test_a_finished_environment_is_left_alone(tmp_path: Path) -> None:
    finish(tmp_path / "venv")

    ensure(tmp_path / "venv")

    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["gateway.stamp"]


@pytest.mark.parametrize("reason", ["unfinished", "other versions", "no development packages"])
def test_any_other_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    venv = tmp_path / "venv"
    finish(venv)
    if reason == "unfinished":
        (venv / "unfinished").touch()
    elif reason == "other versions":
        (venv / "gateway.stamp").write_text("of something else")
    built = []
    monkeypatch.setattr(environment, "_build", lambda venv, *, dev: built.append((venv, dev)))

    ensure(venv, dev=reason == "no development packages")

    assert built == [(venv, reason == "no development packages")]


def test_an_index_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # Without uv, wherever it is installed.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    venv = tmp_path / "venv"

    with pytest.raises(EnvironmentFailedError) as caught:
        ensure(venv)

    assert "\n" not in str(caught.value)
    assert "Check the network or the package index" in str(caught.value)
    assert (venv / "unfinished").exists()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-I", str(PROJECT_ROOT / "llmgateway" / "environment.py"), str(tmp_path / "file" / "venv")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gateway: the environment")


def test_the_launcher_says_which_python_it_needs(tmp_path: Path) -> None:
    """With no Python on the path but the shell's own tools."""
    for tool in ("sh", "dirname", "readlink"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")  # As one that is too old answers.
    (tmp_path / "python3").chmod(0o755)
    done = subprocess.run(
        [str(PROJECT_ROOT / "gateway")], check=False, capture_output=True, text=True,
        env={"PATH": str(tmp_path), "GATEWAY_VENV": str(tmp_path / "venv")},
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.startswith("gateway: Python 3.11 or newer is needed")
    assert len(done.stderr.splitlines()) == 1


def test_the_constraints_pin_every_requirement_and_name_no_host() -> None:
    lines = environment.CONSTRAINTS.read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    required = {re.split(r"[\[<>=;]", text)[0].lower() for text in environment._requirements(dev=True)}

    assert required <= pinned
    assert all("==" in line for line in lines if not line.startswith("#"))
    assert not [line for line in lines if "://" in line]
