"""A server's process gives back what a peak has left, and threads need no heaps of their own."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import AppConfig, apps

from llmgateway import memory
from llmgateway.management.commands import serve
from llmgateway.memory import LOOKS, WORTH_BYTES, Returning, forget_modules

GLIBC = pytest.mark.skipif(not hasattr(memory._LIBC, "malloc_trim"), reason="only glibc is told to give memory back")
NEEDED = 100 * 2**20


class Process:
    """Says what it has, and what it needs when it was asked to give back."""

    def __init__(self, resident: int) -> None:
        self.resident = self.needed = resident
        self.asked = 0

    def give_back(self) -> None:
        self.asked += 1
        self.resident = self.needed

    def watched(self) -> Returning:
        returning = Returning(resident=lambda: self.resident, give_back=self.give_back)
        returning._least = self.resident
        return returning


def test_what_a_peak_has_left_is_given_back_once() -> None:
    process = Process(NEEDED)
    returning = process.watched()

    process.resident += WORTH_BYTES
    returning.look()
    returning.look()

    assert process.asked == 1


def test_a_little_growth_is_not_worth_the_search() -> None:
    process = Process(NEEDED)
    returning = process.watched()

    process.resident += WORTH_BYTES - 1
    returning.look()

    assert process.asked == 0


def test_what_is_needed_now_is_not_searched_again() -> None:
    process = Process(NEEDED)
    returning = process.watched()

    process.needed = process.resident = NEEDED + 10 * WORTH_BYTES
    for _ in range(LOOKS):
        returning.look()

    assert process.asked == 1


def test_what_was_in_use_at_the_peak_is_given_back_when_it_is_free() -> None:
    process = Process(NEEDED)
    returning = process.watched()
    process.needed = process.resident = NEEDED + 10 * WORTH_BYTES
    returning.look()

    process.needed = NEEDED
    for _ in range(LOOKS):
        returning.look()

    assert (process.asked, process.resident) == (2, NEEDED)


def test_growth_counts_from_the_least_there_was() -> None:
    process = Process(NEEDED)
    returning = process.watched()

    process.resident = process.needed = NEEDED - 5 * WORTH_BYTES
    returning.look()
    process.resident += WORTH_BYTES
    returning.look()

    assert process.asked == 1


@GLIBC
def test_the_thread_looks_by_itself_and_ends_when_told() -> None:
    asked = threading.Event()
    sizes = iter([0, WORTH_BYTES])
    returning = Returning(every_s=0.001, resident=lambda: next(sizes, 0), give_back=asked.set)

    returning.start()

    assert asked.wait(5)
    returning.stop()
    assert not returning._thread.is_alive()


def test_one_that_was_not_started_can_be_stopped() -> None:
    returning = Returning()

    returning.stop()

    assert returning._stopping.is_set()
    assert not returning._thread.is_alive()


@GLIBC
def test_free_pages_below_something_small_leave_the_process() -> None:
    code = """
from llmgateway.memory import Returning, resident_bytes
returning = Returning()
many = [bytes(3_000) for _ in range(10_000)]
left = [bytes(3_000)]
full = resident_bytes()
del many
kept = resident_bytes()
returning.look()
print(full - kept, kept - resident_bytes())
"""

    by_itself, returned = (int(figure) for figure in _python(code).split())

    assert by_itself < 5 * 2**20
    assert returned > 20 * 2**20


@GLIBC
def test_threads_share_the_heap_of_the_first(tmp_path: Path) -> None:
    code = f"""
import ctypes, threading
from llmgateway.memory import use_one_heap
use_one_heap()
ready = threading.Barrier(4)
def work():
    kept = [bytes(1_000) for _ in range(100)]
    ready.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen({str(tmp_path / "heaps.xml").encode()!r}, b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""

    _python(code)

    assert (tmp_path / "heaps.xml").read_text().count("<heap nr=") == 1


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With a module of each kind."""
    name = "soon_forgotten"
    for folder in (tmp_path / name, tmp_path / name / "migrations"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "first.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_modules_that_have_done_their_work_are_let_go(package: str) -> None:
    importlib.import_module(f"{package}.first")
    migration = importlib.import_module(f"{package}.migrations.first")

    forget_modules(f"{package}.migrations")

    assert {name for name in sys.modules if name.startswith(package)} == {
        package,
        f"{package}.first",
        f"{package}.migrations",
    }
    assert not [
        kept for kept in gc.get_referrers(migration) if isinstance(kept, dict) and kept.get("first") is migration
    ]
    assert importlib.import_module(f"{package}.migrations.first") is not migration


def test_a_server_that_is_prepared_has_let_go_of_its_migrations(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def migrate() -> bool:
        importlib.import_module(f"{package}.migrations.first")
        return False

    monkeypatch.setattr(apps, "get_app_configs", lambda: [AppConfig(package, importlib.import_module(package))])
    monkeypatch.setattr(serve, "migrate_if_needed", migrate)
    monkeypatch.setattr(serve, "collect_static_if_changed", lambda: False)
    monkeypatch.setattr(serve, "create_first_admin", lambda: None)

    serve.Command().prepare(None)

    assert f"{package}.migrations.first" not in sys.modules


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
