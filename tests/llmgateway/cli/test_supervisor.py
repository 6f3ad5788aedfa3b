"""The supervisor over small scripts in place of server and worker, in a process of its own as in real life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmgateway.conf import PROJECT_ROOT
from llmgateway.supervisor import StartError, check_data_folder, lock_data_folder, open_listener

SCRIPT = """
import os, sys
from llmgateway import supervisor
from llmgateway.supervisor import Child, Supervisor
supervisor.FIRST_DELAY_S = 0.01
reading, writing = os.pipe()
def python(code): return [sys.executable, "-c", code.replace("READY", str(writing))]
SLEEP = "import time; time.sleep(60)"
READY = "import os; os.write(READY, b'1'); "
{setup}
sys.exit(Supervisor(children, ready_fd=reading).run())
"""
SERVER = 'Child("server", python(READY + SLEEP), first=True, essential=True, pass_fds=(writing,))'


def start(setup: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(setup=setup)], stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(setup: str) -> tuple[int, str]:
    """Status and standard error of a supervisor that ends by itself."""
    process = start(setup)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def stopped(process: subprocess.Popen[str], within_s: float = 30) -> int:
    """The exit status."""
    process.communicate(timeout=within_s)
    return process.returncode


def wait_for(file: Path, lines: int = 1) -> None:
    deadline = time.monotonic() + 20
    while not file.exists() or len(file.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, f"{file.name} has too few lines"
        time.sleep(0.02)  # noqa: TID251  # another process writes it


def test_a_configuration_error_is_not_tried_again() -> None:
    status, errors = ended(
        'children = [Child("server", python("import sys; sys.exit(78)"), first=True, essential=True)]'
    )

    assert (status, errors) == (1, "")


def test_a_server_that_never_gets_ready_ends_everything() -> None:
    status, errors = ended(
        'children = [Child("server", python("import sys; sys.exit(3)"), first=True, essential=True)]'
    )

    assert status == 1
    assert errors == "gateway: the server ended with status 3 before it was ready; the lines above say why.\n"


def test_a_server_that_crashes_at_once_each_time_is_given_up() -> None:
    status, errors = ended(
        'children = [Child("server", python(READY + "raise SystemExit(1)"), first=True, essential=True, pass_fds=(writing,))]'
    )

    assert status == 1
    assert errors.count("starting it again") == 4
    assert "5 times in a row" in errors.splitlines()[-1]


def test_a_worker_that_keeps_crashing_does_not_end_the_server() -> None:
    process = start(f'children = [{SERVER}, Child("worker", python("raise SystemExit(1)"))]')
    assert process.stderr is not None
    said = next(line for line in process.stderr if "5 times in a row" in line)

    process.send_signal(signal.SIGTERM)

    assert stopped(process) == 0
    assert "Requests are served without it" in said


def test_the_others_start_when_the_server_is_ready(tmp_path: Path) -> None:
    order = tmp_path / "order"
    late = f"import time; time.sleep(0.3); open({str(order)!r}, 'a').write('server\\n'); "
    second = f"open({str(order)!r}, 'a').write('worker\\n'); "
    process = start(
        f'children = [Child("server", python({late!r} + READY + SLEEP), first=True, essential=True, pass_fds=(writing,)), '
        f'Child("worker", python({second!r} + SLEEP))]'
    )
    wait_for(order, lines=2)
    process.send_signal(signal.SIGTERM)

    assert stopped(process) == 0
    assert order.read_text() == "server\nworker\n"


def test_what_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    stubborn = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()) + '\\n'); time.sleep(60)"
    )
    process = start(f'children = [{SERVER}, Child("worker", python({stubborn!r}), stop_within_s=0.5)]')
    wait_for(pid_file)

    process.send_signal(signal.SIGTERM)

    assert stopped(process) == 0
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    stubborn = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()) + '\\n'); time.sleep(60)"
    )
    process = start(f'children = [{SERVER}, Child("worker", python({stubborn!r}), stop_within_s=60)]')
    wait_for(pid_file)

    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # noqa: TID251  # signals of one number that come together count once
    process.send_signal(signal.SIGINT)

    assert stopped(process, 10) == 0


def test_only_one_gateway_gets_a_data_folder(tmp_path: Path) -> None:
    lock = lock_data_folder(tmp_path, wait_s=0)

    with pytest.raises(StartError, match=rf"another gateway \(process {os.getpid()}\) runs on"):
        lock_data_folder(tmp_path, wait_s=0)

    os.close(lock)
    os.close(lock_data_folder(tmp_path, wait_s=0))


def test_a_server_whose_parent_was_killed_is_waited_for(tmp_path: Path) -> None:
    """It holds the lock that it inherited until it has written down what its last requests cost."""
    lock = lock_data_folder(tmp_path, wait_s=0)
    os.pwrite(lock, b"999999999\n", 0)  # A process id that nobody has.
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.6)"], pass_fds=(lock,))
    os.close(lock)

    os.close(lock_data_folder(tmp_path, wait_s=20))

    assert orphan.wait(5) == 0


def test_a_data_folder_below_a_file_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StartError, match="cannot be written"):
        check_data_folder(tmp_path / "file" / "data")


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(StartError, match="choose an address of this machine"):
        open_listener("192.0.2.1", 8000)
