"""Makes the virtual environment that `./gateway` runs in. Standard library only: it runs before anything is installed.

A finished environment carries a stamp of what it was made from, written last. Without a stamp, or with another, the
packages are installed again; one that was interrupted half-way is made from scratch. A lock makes two starts take turns.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints.txt"
BASE_PYTHON = str(getattr(sys, "_base_executable", "") or sys.executable)
"""The interpreter outside any virtual environment: one that is cleared must not be the one that clears it."""


class EnvironmentFailedError(Exception):
    """The environment could not be made; the message is one line that says what to do."""


def ensure(venv: Path, *, dev: bool = False) -> None:
    """Make `venv`, or bring it up to date, unless it is. With `dev`, also what tests and checks need.

    Raises:
        EnvironmentFailedError: packages could not be installed, or the folder cannot be written.
    """
    if _is_current(venv, dev=dev):
        return
    with _turn():
        if not _is_current(venv, dev=dev):
            _build(venv, dev=dev)


def _build(venv: Path, *, dev: bool) -> None:
    log = venv / "install.log"
    unfinished = venv / "unfinished"
    print(f"Setting up {venv}{' for development' if dev else ''} (once; about a minute) …", file=sys.stderr, flush=True)
    try:
        if unfinished.exists() or not _runs(venv):
            _create(venv)
        unfinished.touch()
        _install(venv, _requirements(dev=dev), log)
        _add_root_to_path(venv)
        _stamp_file(venv, dev=dev).write_text(_stamp(dev=dev))
        unfinished.unlink()
    except OSError as error:
        raise EnvironmentFailedError(
            f"the environment {venv} cannot be written ({error.strerror}); set GATEWAY_VENV to a folder that can."
        ) from error


def _runs(venv: Path) -> bool:
    python = venv / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0


def _create(venv: Path) -> None:
    uv = shutil.which("uv")
    command = (
        [uv, "venv", "--clear", "--quiet", "--python", BASE_PYTHON] if uv else [BASE_PYTHON, "-m", "venv", "--clear"]
    )
    done = subprocess.run([*command, str(venv)], check=False, capture_output=True, text=True)
    if done.returncode:
        if "ensurepip" in done.stdout:
            raise EnvironmentFailedError(
                "this Python lacks the venv module; install it (for example: apt install python3-venv) or uv, then try again."
            )
        raise EnvironmentFailedError(f"the environment {venv} could not be made: {_reason(done.stderr or done.stdout)}")


def _install(venv: Path, requirements: list[str], log: Path) -> None:
    """With uv where there is one; then with pip, which may know a package index that uv does not."""
    python = str(venv / "bin" / "python")
    what = ["-c", str(CONSTRAINTS), *requirements]
    uv = shutil.which("uv")
    if uv and _run([uv, "pip", "install", "--quiet", "--python", python, *what], log):
        return
    has_pip = subprocess.run([python, "-m", "pip", "--version"], check=False, capture_output=True).returncode == 0
    if not has_pip and not _run([python, "-m", "ensurepip"], log):
        raise EnvironmentFailedError(f"packages could not be installed: {_reason(log.read_text())} (all of it: {log})")
    if not _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what], log):
        raise EnvironmentFailedError(
            f"packages could not be installed: {_reason(log.read_text())}. Check the network or the package index of pip, "
            f"then run the same command again (all of it: {log})."
        )


def _run(command: list[str], log: Path) -> bool:
    # A user's own PIP_USER would send the packages past the environment.
    environment = {**os.environ, "PIP_USER": "0"}
    with log.open("w") as output:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    return done.returncode == 0


def _reason(output: str) -> str:
    """The line of a failed tool's output that tells most: its last error, or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["no reason was given"])[-1].rstrip(".")


def _requirements(*, dev: bool) -> list[str]:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["dev"] if dev else []
    return [*project["dependencies"], *extra]


def _add_root_to_path(venv: Path) -> None:
    """What an editable install does, without a build."""
    variables = {"base": str(venv), "platbase": str(venv)}
    site_packages = Path(sysconfig.get_path("purelib", "posix_prefix", vars=variables))
    (site_packages / "llmgateway.pth").write_text(f"{ROOT}\n")


def _stamp_file(venv: Path, *, dev: bool) -> Path:
    return venv / ("gateway-dev.stamp" if dev else "gateway.stamp")


def _stamp(*, dev: bool) -> str:
    content = "\n".join([*_requirements(dev=dev), CONSTRAINTS.read_text(encoding="utf-8"), sys.version, str(ROOT)])
    return hashlib.sha256(content.encode()).hexdigest()


def _is_current(venv: Path, *, dev: bool) -> bool:
    try:
        return _stamp_file(venv, dev=dev).read_text() == _stamp(dev=dev) and not (venv / "unfinished").exists()
    except OSError:
        return False


@contextmanager
def _turn() -> Iterator[None]:
    """Hold the lock of this copy of the gateway; whoever comes second waits."""
    with PYPROJECT.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another ./gateway that is setting up the environment …", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    try:
        ensure(Path(sys.argv[1]).absolute())
    except EnvironmentFailedError as error:
        sys.exit(f"gateway: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
