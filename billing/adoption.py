"""What becomes of the requests of a worker that died: each is closed as `interrupted`, at what it can have cost.

The closes go into a segment of their own that appears whole or not at all, so an adopter may die at any point and
the next one does the same again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from billing.journal_files import (
    ATTEMPT,
    CLOSE,
    OPEN,
    PROGRESS,
    START,
    Ownership,
    Position,
    frame,
    from_json,
    header,
    journal_folders,
    segment_numbers,
    segment_path,
    to_json,
    walk,
    write_whole_segment,
)
from llmgateway.pipeline.protocols import Record

log = logging.getLogger(__name__)

UNBORN_AFTER_S = 60
_TARGET = ("provider", "deployment", "model", "price_id")
_COPIED = (
    "id", "started_at", "admitted_at", "key_id", "key_name", "team_id", "team_name", "end_user", "client_request_id", "client_ip",
    "operation", "path", "alias", "stream", "held_pico_usd", "input_estimate", "input_bytes", "mirror_of",
    "own_key",
)  # fmt: skip


class OpenRequest:
    """A request that was opened and not closed: its `open` record, its upstream calls, its output so far."""

    def __init__(self, opened: Record) -> None:
        self.opened = opened
        self.attempts: list[Record] = [opened] if opened.get("provider") else []
        self.answering: Record | None = None
        """The attempt that a race of two went on with."""
        self.output_tokens = 0

    def add(self, attempt: Record) -> None:
        if attempt.get("won"):
            self.answering = attempt
        else:
            self.answering = None
            self.attempts.append(attempt)

    @property
    def running(self) -> list[int]:
        """Which of the attempts can have been at work at the end: two, as long as they raced."""
        last = len(self.attempts) - 1
        if not self.attempts[last].get("hedge"):
            return [last]
        pair = [last - 1, last]
        if self.answering is None:
            return pair
        return [number for number in pair if self.attempts[number]["deployment"] == self.answering["deployment"]][-1:]


def open_requests(folder: Path, *, live: bool = False) -> dict[str, OpenRequest]:
    """Every request of a journal that has an `open` and no `close`."""
    found: dict[str, OpenRequest] = {}
    closed: set[str] = set()
    for step in walk(folder, START, live=live):
        if step.kind == OPEN:
            opened = from_json(step.payload)
            if opened["id"] not in closed:  # Rescued records may stand after their close.
                found.setdefault(opened["id"], OpenRequest(opened))
        elif step.kind == ATTEMPT:
            attempt = from_json(step.payload)
            if attempt["id"] in found:
                found[attempt["id"]].add(attempt)
        elif step.kind == PROGRESS:
            for request_id, tokens in from_json(step.payload).items():
                if request_id in found:
                    found[request_id].output_tokens = max(found[request_id].output_tokens, tokens)
        elif step.kind == CLOSE:
            request_id = from_json(step.payload)["id"]
            closed.add(request_id)
            found.pop(request_id, None)
    return found


def interrupted(request: OpenRequest) -> Record:
    """The `close` that a dead worker could not write. Without an upstream call nothing was used."""
    opened = request.opened
    record = {name: opened[name] for name in _COPIED if name in opened}
    record |= {"status": "interrupted", "error_type": "process_died"}
    if not request.attempts:
        return record | {"counted": False}
    costs, is_own = _costs(request), bool(opened.get("own_key"))
    last = request.answering or request.attempts[request.running[-1]]
    reserved = 0
    for number in request.running:
        strict = request.attempts[number].get("strict_pico_usd")
        reserved += 0 if strict is None else strict - costs[number]
    attempts = [_attempt(attempt, cost) for attempt, cost in zip(request.attempts, costs, strict=True)]
    return record | {
        **{name: last.get(name) for name in _TARGET},
        "via": last.get("via", ""),
        "priced": is_own or (last.get("input_price") is not None and not last.get("default_price")),
        "default_price": bool(last.get("default_price")),
        "input": opened["input_estimate"],
        "output": request.output_tokens,
        "usage_source": "estimated",
        "cost_pico_usd": sum(costs),
        "needs_review": not is_own,  # Nobody here pays for it.
        "reserved_pico_usd": reserved,
        "attempts": attempts,
    }


def _costs(request: OpenRequest) -> list[int]:
    """Pico-dollars for each attempt: of those that ended as they were told, of those that ran as they are estimated."""
    attempts, running = request.attempts, request.running
    costs = [0] * len(attempts)
    # Nobody has noted whose the output is; of two it is taken for the dearer one's.
    talks = max(running, key=lambda number: attempts[number].get("output_price") or 0)
    for number in running:
        cost = _cost(request, attempts[number], request.output_tokens if number == talks else 0)
        strict = attempts[number].get("strict_pico_usd")
        costs[number] = cost if strict is None else min(cost, strict)  # The most that it can have cost.
    lost = (request.answering or attempts[running[-1]]).get("lost_pico_usd", 0)
    ended = [number for number in range(len(attempts)) if number not in running]
    costs[ended[-1] if ended else running[0]] += lost
    return costs


def _cost(request: OpenRequest, attempt: Record, output_tokens: int) -> int:
    """Pico-dollars for what was sent, what had come back by then, and the call itself."""
    if attempt.get("input_price") is None:
        return 0
    cost: int = request.opened["input_estimate"] * attempt["input_price"]
    return cost + output_tokens * (attempt.get("output_price") or 0) + (attempt.get("request_price") or 0)


def _attempt(attempt: Record, cost: int) -> Record:
    target = {name: attempt.get(name) for name in ("provider", "deployment", "model")}
    record = {**target, "cause": "process_died", "cost_pico_usd": cost}
    if attempt.get("hedge"):
        record["hedge"] = True
    if attempt.get("default_price"):
        record["default_price"] = {name: attempt[f"{name}_price"] for name in ("input", "output", "request")}
    return record


def settle_interrupted(folder: Path) -> int:
    """Closes what a dead owner left open; returns how many. The caller owns the journal."""
    requests = open_requests(folder)
    numbers = segment_numbers(folder)
    if not requests or not numbers:
        return 0
    last, number = numbers[-1], numbers[-1] + 1
    end = segment_path(folder, last).stat().st_size
    records = [header(folder, number, previous=last, previous_end=end)]
    records += [frame(CLOSE, to_json(interrupted(request))) for request in requests.values()]
    write_whole_segment(folder, number, b"".join(records))
    log.warning("%d requests of the dead worker %s are settled as interrupted", len(requests), folder.name)
    return len(requests)


def adopt_orphans(root: Path) -> Iterator[Ownership]:
    """Journals whose owner is gone, now ours, every request in them closed. The caller drains and deletes each."""
    _sweep_unborn(root)
    for folder in journal_folders(root):
        owner = Ownership.take(folder)
        if owner is None:
            continue
        try:
            settle_interrupted(folder)
        except OSError as error:
            log.critical("The journal %s of a dead worker cannot be read: %s", folder, error)
            owner.release()
            continue
        yield owner


def _sweep_unborn(root: Path) -> None:
    """Removes folders of workers that died before their journal got its name. They hold no record."""
    if not root.is_dir():
        return
    for folder in root.glob(".*"):
        with suppress(OSError):
            if folder.is_dir() and time.time() - folder.stat().st_mtime > UNBORN_AFTER_S:
                owner = Ownership.take(folder)
                if owner is not None:
                    owner.delete_folder()


__all__ = ["OpenRequest", "Position", "adopt_orphans", "interrupted", "open_requests", "settle_interrupted"]
