"""Processes that play a worker of the gateway and are killed at a named point. Run as a module, driven by its stdin.

One process loads Django and forks for every order it reads, so that a death costs milliseconds. Crash points are put
over the product's functions in the child alone; the product knows nothing of them.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import django

# Kept in the order of what happens to a request.
POINTS = (
    "open", "open.half", "attempt", "attempt.half", "forward", "progress", "close", "close.half",
    "segment.create", "segment.header", "segment.delete",
    "drain.offset", "drain.insert", "drain.rollups", "drain.commit", "drain.journal",
    "rescue.write", "rescue.replace",
)  # fmt: skip
"""Where the worker dies: `before:` or `after:` each, or in the middle of a write (`.half`)."""
ADOPTION_POINTS = (
    "adopt.take", "adopt.settle", "adopt.segment", "drain.offset", "drain.insert", "drain.rollups", "drain.commit",
    "adopt.delete", "segment.delete", "adopt.forget",
)  # fmt: skip
BARRIER = "go"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Crash:
    """Kills this process when a point is met for the `nth` time."""

    def __init__(self, point: str, nth: int) -> None:
        self.when, _, self.name = point.partition(":")
        self.left = nth

    def over(self, name: str, owner: Any, attribute: str, *, only: Callable[..., bool] = lambda *_: True) -> None:
        """Puts the point `name` before or after `owner.attribute`, where it is the one that was asked for."""
        if name != self.name:
            return
        real = getattr(owner, attribute)

        def wrapped(*args: Any, **options: Any) -> Any:
            if not only(*args):
                return real(*args, **options)
            self.left -= 1
            if self.when == "before" and self.left <= 0:
                die()
            result = real(*args, **options)
            if self.when == "after" and self.left <= 0:
                die()
            return result

        setattr(owner, attribute, wrapped)

    def over_half_writes(self) -> None:
        """Half of a record of some kind reaches the file."""
        from billing.journal_files import ATTEMPT, CLOSE, FRAME, HEADER, OPEN

        kinds = {"open.half": OPEN, "attempt.half": ATTEMPT, "close.half": CLOSE, "segment.header": HEADER}
        wanted = kinds.get(self.name)
        real = os.write

        def write(descriptor: int, data: bytes) -> int:
            if data[FRAME.size : FRAME.size + 1] == wanted:
                self.left -= 1
                if self.left <= 0:
                    real(descriptor, data[: len(data) // 2])
                    die()
            return real(descriptor, data)

        if wanted is not None:
            os.write = write  # type: ignore[assignment]  # a bytes-like argument is enough here


def put_crash_points(crash: Crash) -> None:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from billing import adoption, journal, ledger
    from billing.journal_files import Ownership

    over = crash.over
    for name in ("open", "attempt", "progress", "close"):
        over(name, journal.Journal, name)
    over("forward", Provider, "serve")
    over("segment.create", journal.Journal, "_new_segment")
    over("segment.delete", pathlib.Path, "unlink", only=lambda path, *_: path.suffix == ".journal")
    over("drain.offset", ledger.JournalDrain, "_advance")
    over("drain.insert", ledger, "insert")
    over("drain.rollups", ledger, "add_rollups")
    over("drain.commit", BaseDatabaseWrapper, "commit")
    over("drain.journal", journal.Journal, "drained_to")
    over("rescue.write", journal, "write_whole_segment")
    over("rescue.replace", journal.Journal, "_replace")
    over("adopt.take", Ownership, "take")
    over("adopt.settle", adoption, "settle_interrupted")
    over("adopt.segment", adoption, "write_whole_segment")
    over("adopt.delete", Ownership, "delete_folder")
    over("adopt.forget", ledger, "_forget_journal")
    crash.over_half_writes()


class Diary:
    """What really happened, outside of what is being tested. Lines survive the kill that follows them."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


class Provider:
    """Serves requests and counts for itself."""

    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def serve(self, request_id: str, tokens: tuple[int, int]) -> tuple[int, int]:
        self._diary.note("reached", request_id, *tokens)
        return tokens


INPUT_PRICE, OUTPUT_PRICE, REQUEST_PRICE = 150, 600, 7
HELD = 10_000_000


def play_worker(root: str, diary_path: str, *, requests: int = 36) -> None:
    """Answers requests of every kind, a few at a time, while the drain moves what there is every now and then."""
    from billing.journal import Journal
    from billing.ledger import JournalDrain
    from tests.billing.records import NOON, closed, opened

    diary = Diary(diary_path)
    provider = Provider(diary)
    journal = Journal(Path(root), fsync="never", max_bytes=2**30, segment_bytes=5_000)
    drain = JournalDrain(journal.folder, journal=journal)
    prices = {"input_price": INPUT_PRICE, "output_price": OUTPUT_PRICE, "request_price": REQUEST_PRICE}
    target = {"provider": "openai", "deployment": "spare", "model": "gpt-4o", "price_id": 6, **prices}
    running: list[tuple[int, str, tuple[int, int]]] = []

    def finish(number: int, request_id: str, used: tuple[int, int]) -> None:
        cancelled = number % 7 == 6
        journal.close(
            closed(
                request_id,
                started_at=NOON + number * 211,
                key_id=str(number % 3),
                status="cancelled" if cancelled else "completed",
                usage_source="estimated" if cancelled else "provider",
                input=used[0], output=used[1], cache_read=0, reasoning=0,
                cost_pico_usd=cost_of(*used),
                held_pico_usd=HELD,
            )
        )  # fmt: skip
        diary.note("told", request_id)

    for number in range(requests):
        request_id, tokens = f"r{number:03}", (100 + number, 10 + number)
        strict = HELD if number % 2 else None
        journal.open(
            opened(
                request_id, started_at=NOON + number * 211, key_id=str(number % 3), held_pico_usd=HELD,
                input_estimate=120, strict_pico_usd=strict, **prices,
            )
        )  # fmt: skip
        if number % 6 == 5:
            journal.attempt(request_id, {**target, "strict_pico_usd": strict})
        running.append((number, request_id, provider.serve(request_id, tokens)))
        if number % 6 == 3:
            journal.progress([(each[1], 3) for each in running])
        while len(running) > 3:
            # Some take long, and keep the segment in which they began.
            finish(*running.pop(0 if running[0][0] % 6 != 4 or number - running[0][0] > 7 else 1))
        if number % 5 == 4:
            journal.refused([_refusal(number)])
            diary.note("refused", 1)
        if number == 20:
            _fail_one_sync(journal)
        if number % 4 == 3:
            drain._most = 3
            drain.drain()


def _refusal(number: int) -> dict[str, Any]:
    from tests.billing.records import NOON

    who = {"team_id": 3, "team_name": "red", "key_id": "7", "key_name": "alice-key", "alias": "gpt-4o-mini"}
    return {"hour": int(NOON) + number // 10 * 3600, **who, "code": "rate_limit_exceeded", "count": 1}


def _fail_one_sync(journal: Any) -> None:
    def fail(fd: Any) -> None:  # Named like the real one's.
        raise OSError(5, "Input/output error")

    real, os.fdatasync = os.fdatasync, fail
    try:
        journal._sync()
    finally:
        os.fdatasync = real


def cost_of(input_tokens: int, output_tokens: int) -> int:
    return input_tokens * INPUT_PRICE + output_tokens * OUTPUT_PRICE + REQUEST_PRICE


def play_adopter(root: str, _diary: str) -> None:
    from billing.ledger import drain_orphans

    drain_orphans(Path(root))


def play_adopter_at_once(root: str, diary: str) -> None:
    """Waits for the starting shot, so that several are as close as can be."""
    gate = Path(diary).with_name(BARRIER)
    while not gate.exists():
        time.sleep(0.0005)  # noqa: TID251  # a process of its own
    play_adopter(root, diary)


def play_writer_on_a_full_disk(root: str, diary_path: str) -> None:
    """The kernel refuses to let files grow, in the middle of a record, and later allows it again."""
    import resource

    from billing.journal import Journal
    from llmgateway.pipeline.errors import LedgerUnavailableError
    from tests.billing.records import closed, opened

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    diary = Diary(diary_path)
    journal = Journal(Path(root), fsync="interval", max_bytes=2**30)
    journal.open(opened("first"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.position().offset + 300, hard))
    with suppress(LedgerUnavailableError):
        journal.open(opened("refused"))
        diary.note("let in")
    journal.close(closed("first"))
    diary.note("waiting", journal.unwritten_closes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    while journal.unwritten_closes:
        time.sleep(0.01)  # noqa: TID251
    journal.open(opened("second"))
    journal.close(closed("second"))
    die()


ROLES: dict[str, Callable[[str, str], None]] = {
    "worker": play_worker,
    "adopter": play_adopter,
    "adopter at once": play_adopter_at_once,
    "full disk": play_writer_on_a_full_disk,
}


def _child(order: dict[str, Any]) -> None:
    from django.db import connections

    with suppress(AttributeError):
        del connections["default"]  # Made with the parent's settings; nothing was asked of it yet.
    connections.databases["default"].update(order["database"])
    put_crash_points(Crash(order["point"], order["nth"]))
    ROLES[order["role"]](order["root"], order["diary"])
    if order["role"] == "worker" and not order["point"]:
        die()  # Otherwise it never came to its point, and its exit status says so.
    connections.close_all()


def _fork(order: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _child(order)
        status = 0
    except BaseException:  # noqa: BLE001  # Whatever it is, the parent's code must not run on in the child.
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Reads lists of orders, runs those of one list side by side, answers with their exit statuses."""
    django.setup()
    import billing.ledger  # noqa: F401  # Loaded once, for all children.

    _say("ready")
    for line in sys.stdin:
        orders = json.loads(line)
        children = [_fork(order) for order in orders]
        if len(children) > 1:
            Path(orders[0]["diary"]).with_name(BARRIER).touch()
        _say(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
