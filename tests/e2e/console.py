"""Management commands beside a running server: `python -m tests.e2e.console` loads Django once and runs each in a fork.

What a command does is what it would do as `manage.py`; that process would spend most of its time loading Django.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path


class Console:
    """The other end of it, in the test's process. It starts with the first command."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(self, *command: str) -> str:
        """The output of a command, which must succeed."""
        out, err = self._folder / "console.out", self._folder / "console.err"
        with self._turn:
            status = self._order({"arguments": command, "out": str(out), "err": str(err)})
            told = out.read_text()
            assert status == "0", f"{' '.join(command)} failed:\n{told}\n{err.read_text()}"
        return told

    def _order(self, order: dict[str, object]) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.e2e.console"),
                cwd=Path(__file__).resolve().parents[2], env=self._environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=30)
            self._process = None


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")
    import django

    django.setup()
    for line in sys.stdin:
        order = json.loads(line)
        if not (child := os.fork()):
            _become(order["arguments"], Path(order["out"]), Path(order["err"]))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(arguments: list[str], out: Path, err: Path) -> None:
    """Run the command and end with its status. Nothing of the parent is left undone: it has no threads or connections."""
    from django.core.management import execute_from_command_line

    for stream, file in ((sys.stdout, out), (sys.stderr, err)):
        with file.open("wb") as plug:
            os.dup2(plug.fileno(), stream.fileno())
    status = 1
    try:
        execute_from_command_line(["manage.py", *arguments])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  # Whatever it is, it must not go on in the parent's loop.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
