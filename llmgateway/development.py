"""`./gateway test`, `check`, `fix`, `bench` and `clean`: what developers and continuous integration run. No Django here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmgateway import live_trials
from llmgateway.conf import PROJECT_ROOT
from llmgateway.coverage_floors import floors, too_low
from llmgateway.environment import EnvironmentFailedError, ensure
from llmgateway.launch import child_environment
from llmgateway.supervisor import say

FLOORS = "--floors"
LIVE = "--live"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CACHES = (".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "htmlcov", "build", "dist", "bench/results")

Step = tuple[str, Sequence[str], dict[str, str]]
"""What it checks, the command, and what it needs in its environment."""


def test(arguments: list[str]) -> int:
    """Run pytest, without slow tests unless `-m` says otherwise. `--floors` also holds coverage at its floors.

    With `--live` real providers are tried in its stead.
    """
    if LIVE in arguments:
        return live_trials.command([word for word in arguments if word != LIVE])
    if not _set_up():
        return 1
    has_browser = any(shutil.which(browser) for browser in BROWSERS)
    if not has_browser:
        say("there is no Chromium here, so the browser tests are left out; install chromium to run them.")
    with _scratch_data_folder() as environment:
        hold_floors = FLOORS in arguments
        pytest = [sys.executable, "-m", "pytest", *selected(arguments, has_browser=has_browser)]
        if not hold_floors:
            return _run(pytest, environment)
        report = Path(environment["GATEWAY_DATA_DIR"], "coverage.json")
        return _run([*pytest, "--cov", "--cov-report=", f"--cov-report=json:{report}"], environment) or _hold(report)


def _hold(report: Path) -> int:
    complaints = too_low(report, floors())
    for complaint in complaints:
        say(complaint)
    return 1 if complaints else 0


def selected(arguments: list[str], *, has_browser: bool) -> list[str]:
    """pytest's arguments with one `-m`, for pytest heeds the last only: what was asked for, or all but slow tests."""
    kept: list[str] = []
    expression = "not slow"
    words = iter(arguments)
    for word in words:
        if word == "-m":
            expression = next(words, "")
        elif word.startswith("-m") and not word.startswith("--"):
            expression = word.removeprefix("-m").removeprefix("=")
        elif word != FLOORS:
            kept.append(word)
    if not has_browser:
        expression = f"({expression}) and not browser" if expression else "not browser"
    return ["-m", expression, *kept]


def check(_: list[str]) -> int:
    """Run every check, also after one has failed, and say at the end which did."""
    if not _set_up():
        return 1
    failed = []
    with _scratch_data_folder() as environment:
        for title, command, more in _checks():
            print(f"── {title}", flush=True)
            if _run(command, {**environment, **more}):
                failed.append(title)
    if failed:
        say(
            f"{len(failed)} of {len(_checks())} checks failed: {', '.join(failed)}. `./gateway fix` mends format and simple lint."
        )
        return 1
    print("All checks passed.")
    return 0


def _checks() -> list[Step]:
    python = sys.executable
    django = [python, "-m", "django"]
    return [
        ("format", [python, "-m", "ruff", "format", "--check", "--quiet", "."], {}),
        ("lint", [python, "-m", "ruff", "check", "--quiet", "."], {}),
        ("types", [python, "-m", "mypy", "."], {}),
        ("spelling", [python, "-m", "codespell_lib"], {}),
        ("migrations", [*django, "makemigrations", "--check", "--dry-run"], {}),
        ("system checks", [*django, "check", "--fail-level", "WARNING"], {}),
        ("deployment checks", [*django, "check", "--deploy", "--fail-level", "WARNING"], {"HTTPS": "true"}),
    ]


def fix(arguments: list[str]) -> int:
    """Format the code, and let the linter mend what it safely can."""
    if not _set_up():
        return 1
    ruff = [sys.executable, "-m", "ruff"]
    linted = _run([*ruff, "check", "--fix", *arguments, "."], child_environment())
    return _run([*ruff, "format", *arguments, "."], child_environment()) or linted


def bench(arguments: list[str]) -> int:
    if not _set_up():
        return 1
    return _run([sys.executable, "-m", "bench", *arguments], child_environment())


def clean(_: list[str]) -> int:
    """Remove what can be made again. Data and the environment stay."""
    for name in CACHES:
        shutil.rmtree(PROJECT_ROOT / name, ignore_errors=True)
    for report in PROJECT_ROOT.glob(".coverage*"):
        report.unlink()
    for folder in ("llmgateway", "providers", "billing", "dashboard", "tests", "bench"):
        for cache in (PROJECT_ROOT / folder).rglob("__pycache__"):
            shutil.rmtree(cache, ignore_errors=True)
    return 0


def _set_up() -> bool:
    """Bring what tests and checks need into the environment that runs us; whether that worked."""
    if sys.prefix == sys.base_prefix:
        say("this needs the gateway's own environment: run it as ./gateway, not with the system's Python.")
        return False
    try:
        ensure(Path(sys.prefix), dev=True)
    except EnvironmentFailedError as error:
        say(str(error))
        return False
    return True


@contextmanager
def _scratch_data_folder() -> Iterator[dict[str, str]]:
    """An environment whose data folder is new and goes away, so that nothing touches an operator's."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        yield {**child_environment(), "GATEWAY_DATA_DIR": folder}


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    return subprocess.run(command, check=False, cwd=PROJECT_ROOT, env=environment, stdin=subprocess.DEVNULL).returncode
