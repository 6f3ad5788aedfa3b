"""`./gateway` from start to stop, as separate processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from tests.e2e.launched import FirstLaunch, LaunchedGateway, descendants, free_port, gateway, is_alive, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def admins(data_dir: Path) -> list[str]:
    with sqlite3.connect(data_dir / "gateway.sqlite3") as database:
        return [name for (name,) in database.execute("SELECT username FROM auth_user WHERE is_superuser")]


def test_a_first_start_prepares_everything_and_a_stop_leaves_nothing_running(data_dir: Path) -> None:
    with FirstLaunch(data_dir) as running:
        running.wait_for_worker()
        family = descendants(running.process.pid)

        assert running.status("/health/ready") == 200
        assert running.status("/admin/login/") == 200
        assert running.status("/static/admin/css/base.css") == 200
        assert admins(data_dir) == ["admin"]
        assert re.search(r"password +\S{20}", running.output)
        for page in ("/v1", "/admin/", "/health"):
            assert f"http://127.0.0.1:{running.port}{page}" in running.output
        assert f"PORT={running.port} (command line)" in running.output

        assert running.send(signal.SIGTERM) == 0

    wait_until(lambda: not any(map(is_alive, family)), within_s=2, what="the end of all processes")
    assert len(family) >= 3
    assert running.status("/health/live") == 0


def test_secrets_are_made_once_and_are_for_their_owner_only(data_dir: Path) -> None:
    with FirstLaunch(data_dir):
        pass
    before = (data_dir / "secrets.env").read_bytes()

    with LaunchedGateway(data_dir) as running:
        second_output = running.output.split("LLM Gateway is ready.")[-2]

    assert (data_dir / "secrets.env").read_bytes() == before
    assert stat.S_IMODE((data_dir / "secrets.env").stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert "password" not in second_output.split("LLM Gateway is ready.")[-1].partition("health")[2]
    assert running.output.count("This password is shown only now") == 1


def test_a_second_start_is_quick(data_dir: Path) -> None:
    """Under 3 s. Counted in processor time, for the tests share the machine with each other."""
    with LaunchedGateway(data_dir):
        pass

    with LaunchedGateway(data_dir) as running:
        used = running.cpu_s(running.process.pid) + running.cpu_s(running.server_pid())

    assert used < 3


def test_the_first_admin_can_be_chosen(data_dir: Path) -> None:
    chosen = {"DJANGO_SUPERUSER_USERNAME": "ana", "DJANGO_SUPERUSER_PASSWORD": "a-long-chosen-password"}

    with LaunchedGateway(data_dir, **chosen) as running:
        output = running.output

    assert admins(data_dir) == ["ana"]
    assert "a-long-chosen-password" not in output


def test_ctrl_c_stops_it(data_dir: Path) -> None:
    with LaunchedGateway(data_dir) as running:
        family = descendants(running.process.pid)

        assert running.send(signal.SIGINT) == 0

    assert not any(map(is_alive, family))


def test_kill_9_of_the_parent_takes_its_children_down(data_dir: Path) -> None:
    with LaunchedGateway(data_dir) as running:
        running.wait_for_worker()
        family = descendants(running.process.pid)

        running.send(signal.SIGKILL)

        wait_until(lambda: not any(map(is_alive, family)), within_s=10, what="the end of the children")
    assert len(family) >= 3


def test_a_server_that_is_killed_comes_back(data_dir: Path) -> None:
    with LaunchedGateway(data_dir) as running:
        killed = running.server_pid()

        os.kill(killed, signal.SIGKILL)

        # Before it is back the socket is still open: requests wait instead of being refused.
        running.wait_until_live()
        assert running.server_pid() != killed
        assert "the server was ended by SIGKILL; starting it again" in running.output


@pytest.mark.parametrize("name", ["demo"])
def test_the_demo_answers_the_curl_line_it_prints(data_dir: Path, name: str) -> None:
    with FirstLaunch(data_dir, name) as running:
        wait_until(lambda: "Press Ctrl-C" in running.output, within_s=10, what="the curl line")
        found = re.search(r"Bearer (\S+)' .*?\"model\": \"(\S+)\"", running.output, re.DOTALL)
        assert found is not None
        secret, model = found.groups()

        status, answer = running.chat(secret, model)

        assert status == 200
        assert answer["choices"][0]["message"]["content"]
        with sqlite3.connect(data_dir / "gateway.sqlite3") as database:
            [(past, dearest)] = database.execute(
                "SELECT count(*), max(cost_pico_usd) FROM billing_usagerecord WHERE id LIKE 'demo-%'"
            )
        assert past > 1000
        assert dearest > 0
        wait_until(lambda: _lines(data_dir / "access.log") > 3, within_s=30, what="traffic")

    with LaunchedGateway(data_dir, name) as again:
        status, _ = again.chat(secret, model)

    assert status == 200
    assert running.output.count("Made up") == 1


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_restored_copy_serves_the_same_keys(data_dir: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar.gz"
    copy = tmp_path / "copy"
    with LaunchedGateway(data_dir, "demo") as running:
        secret = json.loads((data_dir / "demo.json").read_text())["secrets"]["DEMO_KEY"]
        assert running.chat(secret, "demo-chat")[0] == 200

        saved = gateway("backup", str(backup), "--data", str(data_dir))

        assert saved.returncode == 0, saved.stderr
        restored = gateway("restore", str(backup), "--data", str(copy))
        assert restored.returncode == 0, restored.stderr
        # The fake provider of the first is still there to answer the copy.
        with LaunchedGateway(copy) as second:
            status, answer = second.chat(secret, "demo-chat")

    assert (status, answer["object"]) == (200, "chat.completion")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with sqlite3.connect(copy / "gateway.sqlite3") as database:
        [(rows, distinct)] = database.execute("SELECT count(*), count(DISTINCT id) FROM billing_usagerecord")
    assert rows == distinct > 1000


def test_rotated_secrets_keep_keys_and_credentials_working(data_dir: Path) -> None:
    with LaunchedGateway(data_dir, "demo") as running:
        secret = json.loads((data_dir / "demo.json").read_text())["secrets"]["DEMO_KEY"]
        before = (data_dir / "secrets.env").read_text()

        rotated = gateway("rotate-secrets", "--data", str(data_dir))

        assert rotated.returncode == 0, rotated.stderr
        assert (data_dir / "secrets.env").read_text() != before
        time.sleep(1.5)  # noqa: TID251  # The server has read the credentials again by then.
        assert running.chat(secret, "demo-chat")[0] == 200

    with LaunchedGateway(data_dir, "demo") as again:
        assert again.chat(secret, "demo-chat")[0] == 200
    doctor = gateway("doctor", "--data", str(data_dir))
    assert "ok       credentials        1 readable" in doctor.stdout


class TestRefusals:
    """What cannot start says so in one line and exits with a status that is not 0."""

    def assert_one_line(self, *arguments: str, says: str, **more: str) -> None:
        done = gateway(*arguments, **more)

        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("gateway: ")
        assert says in line

    def test_a_busy_port(self, data_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])

            self.assert_one_line("--port", port, "--data", str(data_dir), says=f"port {port} on 127.0.0.1 is in use")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        self.assert_one_line("--data", str(tmp_path / "file" / "data"), says="cannot be written")

    def test_a_bad_setting(self, data_dir: Path) -> None:
        self.assert_one_line("--data", str(data_dir), says="LOG_LEVEL='loud' is not usable", LOG_LEVEL="loud")

    def test_several_workers_without_redis(self, data_dir: Path) -> None:
        arguments = ("--workers", "2", "--data", str(data_dir))
        self.assert_one_line(*arguments, says="set REDIS_URL to share them", DATABASE_URL="postgres:///gateway")

    def test_several_workers_on_sqlite(self, data_dir: Path) -> None:
        arguments = ("--workers", "2", "--data", str(data_dir))
        self.assert_one_line(*arguments, says="set DATABASE_URL to a PostgreSQL", REDIS_URL="redis://127.0.0.1:1/0")

    def test_no_worker_at_all(self, data_dir: Path) -> None:
        self.assert_one_line("--workers", "0", "--data", str(data_dir), says="WORKERS='0' is not usable")

    def test_a_bad_port(self, data_dir: Path) -> None:
        self.assert_one_line("--port", "http", "--data", str(data_dir), says="PORT='http' is not usable")

    def test_a_database_of_another_kind(self, data_dir: Path) -> None:
        arguments = ("--port", str(free_port()), "--data", str(data_dir))

        self.assert_one_line(*arguments, says="DATABASE_URL must name PostgreSQL", DATABASE_URL="mysql://u:p@h/n")

    def test_a_database_that_does_not_answer(self, data_dir: Path) -> None:
        url = f"postgres://user:secret@127.0.0.1:{free_port()}/name"
        arguments = ("--port", str(free_port()), "--data", str(data_dir))

        self.assert_one_line(*arguments, says="check DATABASE_URL", DATABASE_URL=url)

    def test_a_configuration_that_is_wrong(self, data_dir: Path, tmp_path: Path) -> None:
        config = tmp_path / "config.yaml"
        config.write_text("version: 1\nkeyz: {}\n")

        done = gateway("--port", str(free_port()), "--data", str(data_dir), "--config", str(config))

        assert done.returncode == 1
        assert "keyz" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_second_gateway_on_one_data_folder(self, data_dir: Path) -> None:
        with LaunchedGateway(data_dir) as running:
            pid = running.process.pid

            self.assert_one_line("--data", str(data_dir), says=f"another gateway (process {pid}) runs on")
