"""How limits, budgets and targets are written in a call of `admission.lua`, and how its answers are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from billing.windows import reset_bounds, window_bounds
from llmgateway.pipeline.protocols import (
    BudgetRefusal,
    Headroom,
    LimitRefusal,
    TargetTerms,
    Tokens,
)
from llmgateway.pipeline.snapshot import BudgetRule, Limit

UNIT = 60_000_000
"""Of a bucket's level: one request or token."""
BUCKET, WINDOW, SLOTS = 1, 2, 3
SHADOW, FIRST, QUOTA = 1, 2, 4
NEED, AMOUNT = 2, 3
"""Where a limit says how much a request needs of it, and what it allows."""
NOBODYS, OF_REQUESTS, OF_TOKENS = 0, 1, 2
METRICS = ("requests", "input_tokens", "output_tokens", "tokens")
GRACE_S = 3600
"""A window's counter outlives it by an hour: requests that began before its end are still booked on it."""
CONCURRENCY_RETRY_S = 1.0
"""Nobody knows when a slot returns."""
LARGEST_AMOUNT = 2**62
"""Redis adds 64-bit integers; a limit and all that is held and settled of it must fit. Twice `MAX_LIMIT_USD` is less."""

Packed = list[Any]


def is_quota(limit: Limit) -> bool:
    """Token limits over a window are closed while the counters cannot be trusted; rates are not."""
    return limit.metric in METRICS[1:] and kind_of(limit) == WINDOW


def budget_sums(budget: BudgetRule) -> tuple[object, ...]:
    """What a budget sums up. One that sums up something else has another counter, which begins anew."""
    period = (budget.window, budget.time_zone, budget.starts_on)
    return *period, budget.scope, budget.scope_id, budget.each, budget.owner, budget.strict


def limit_sums(limit: Limit) -> tuple[object, ...]:
    """What a limit over a window counts."""
    period = (limit.per, limit.time_zone, limit.starts_on, limit.reset_s, limit.anchor)
    return *period, limit.model, limit.each, limit.owner


def _mark(sums: tuple[object, ...]) -> str:
    """Short, and the same in all workers: while an edit reaches them, each counts by the rule that it knows."""
    return f"{crc32(repr(sums).encode()):08x}"


def limit_window(limit: Limit, now: float) -> tuple[float, float | None]:
    """The window that contains `now`; None: it never ends."""
    if limit.per == "total" and limit.reset_s:
        return reset_bounds(limit.anchor, limit.reset_s, now)
    return window_bounds(limit.per, limit.time_zone, now, starts_on=limit.starts_on)


def kind_of(limit: Limit) -> int:
    if limit.metric == "concurrency":
        return SLOTS
    return BUCKET if limit.per == "minute" else WINDOW


class Asked(msgspec.Struct, frozen=True):
    """One request's question to admission."""

    id: str
    demand: Tokens
    limits: tuple[Limit, ...]
    """The caller's."""
    budgets: tuple[BudgetRule, ...]
    targets: Sequence[TargetTerms]

    def limit(self, number: int, index: int) -> Limit:
        """As an answer counts: target 0 is the caller, all else begins at 1."""
        return (self.targets[number - 1].limits if number else self.limits)[index - 1]

    def budget(self, number: int, index: int) -> BudgetRule:
        return (self.targets[number - 1].budgets if number else self.budgets)[index - 1]


class Frame:
    """A rule as a call takes it, while its window lasts."""

    __slots__ = ("ends_at", "headroom", "is_bucket", "most", "name", "needs", "packed", "rule", "starts_at")

    def __init__(
        self, rule: Limit | BudgetRule, name: str, packed: Packed, start: float, end: float, *, most: int
    ) -> None:
        self.rule = rule
        self.name = name
        self.packed = packed
        self.starts_at = start
        self.ends_at = end
        self.most = most
        """All there is: pico-dollars, plain amounts, or in a bucket's units."""
        self.is_bucket = False
        self.needs = ""
        """The metric of which a request says how much it needs; empty: it needs one."""
        self.headroom = NOBODYS
        """Among whose headers it may be the tightest."""


def limit_frame(limit: Limit, now: float) -> Frame:
    """`{kind, counter, need, amount, burst, flags, expires at, metric}`"""
    kind, start, end = kind_of(limit), -math.inf, math.inf
    name = f"{limit.counter}:{limit.metric}"
    if kind == WINDOW:
        start, ends_at = limit_window(limit, now)
        end = math.inf if ends_at is None else ends_at
        # The period is part of the name: a day and a month may begin at the same moment.
        name = f"{name}:{limit.per}:{int(start)}:{_mark(limit_sums(limit))}"
    flags = SHADOW * limit.shadow + FIRST * limit.first_in_window + QUOTA * is_quota(limit)
    metric = METRICS.index(limit.metric) + 1 if limit.metric in METRICS else 1
    packed = [kind, name, 1, limit.amount, limit.burst, flags, _expiry(end), metric]
    frame = Frame(limit, name, packed, start, end, most=limit.burst * UNIT if kind == BUCKET else limit.amount)
    frame.is_bucket = kind == BUCKET
    frame.needs = limit.metric if metric > 1 else ""
    if kind != SLOTS and not limit.shadow:
        frame.headroom = OF_REQUESTS if limit.metric == "requests" else OF_TOKENS
    return frame


def budget_frame(budget: BudgetRule, now: float) -> Frame:
    """`{window, limit, strict, expires at}`"""
    start, ends_at = window_bounds(budget.window, budget.time_zone, now, starts_on=budget.starts_on)
    end = math.inf if ends_at is None else ends_at
    subject = f"{budget.each}:{budget.scope_id}:" if budget.each else ""
    # The kind of window is part of the name: a day and a month may begin at the same moment.
    name = f"budget:{budget.id}:{subject}{budget.window}:{int(start)}:{_mark(budget_sums(budget))}"
    most = min(budget.limit_at(now), LARGEST_AMOUNT)
    packed = [name, str(most), budget.strict, _expiry(end)]
    # A temporary increase and every credit change the limit when they expire.
    changes = [budget.increase_until, *[expires_at for expires_at, _ in budget.credits]]
    return Frame(budget, name, packed, start, min([end, *[at for at in changes if at > now]]), most=most)


def _expiry(end: float) -> int:
    return 0 if end == math.inf else int((end + GRACE_S) * 1e6)


class Frames:
    """Finds the frame of a rule without working it out again. One per store."""

    LARGEST = 50_000

    def __init__(self) -> None:
        self._known: dict[int, Frame] = {}

    def limit(self, limit: Limit, now: float) -> Frame:
        return self.of_limits((limit,), now)[0]

    def budget(self, budget: BudgetRule, now: float) -> Frame:
        return self.of_budgets((budget,), now)[0]

    def _keep(self, frame: Frame) -> Frame:
        if len(self._known) >= self.LARGEST:
            self._known.clear()
        self._known[id(frame.rule)] = frame
        return frame

    def of_limits(self, limits: Sequence[Limit], now: float) -> list[Frame]:
        # By identity, as rules are shared by all requests of a key: comparing their fields costs more than the rest.
        known = self._known
        found = []
        for limit in limits:
            frame = known.get(id(limit))
            if frame is None or frame.rule is not limit or not frame.starts_at <= now < frame.ends_at:
                frame = self._keep(limit_frame(limit, now))
            found.append(frame)
        return found

    def of_budgets(self, budgets: Sequence[BudgetRule], now: float) -> list[Frame]:
        known = self._known
        found = []
        for budget in budgets:
            frame = known.get(id(budget))
            if frame is None or frame.rule is not budget or not frame.starts_at <= now < frame.ends_at:
                frame = self._keep(budget_frame(budget, now))
            found.append(frame)
        return found

    def limits(self, limits: Sequence[Limit], demand: Tokens, now: float) -> list[Packed]:
        return limits_packed(self.of_limits(limits, now), demand)

    def budgets(self, budgets: Sequence[BudgetRule], now: float) -> list[Packed]:
        return [frame.packed for frame in self.of_budgets(budgets, now)]

    def target(self, target: TargetTerms, demand: Tokens, now: float) -> Packed:
        """`{limits, budgets, expected, wanted or false, least, share}`"""
        strict = target.strict
        return [
            self.limits(target.limits, demand, now) if target.limits else (),
            self.budgets(target.budgets, now) if target.budgets else (),
            amount_text(target.expected_pico_usd),
            False if strict is None else amount_text(strict.wanted),
            "0" if strict is None else amount_text(strict.least),
            1 if strict is None else strict.share,
        ]


def limits_packed(frames: Sequence[Frame], demand: Tokens) -> list[Packed]:
    out = []
    for frame in frames:
        packed = frame.packed
        if frame.needs:
            packed = packed.copy()
            packed[NEED] = demand.amount(frame.needs)
        out.append(packed)
    return out


def amount_text(pico_usd: int) -> str:
    """Pico-dollars as the script takes them: decimal digits."""
    return str(min(pico_usd, LARGEST_AMOUNT))


def used_by_metric(used: Tokens | None) -> tuple[int, ...] | bool:
    """What was used, by `METRICS`; False: nothing."""
    return False if used is None else (1, used.input, used.output, used.input + used.output)


def limit_refusal(limit: Limit, need: int, room: int, wait_us: int, now: float) -> LimitRefusal:
    """`room` in the script's units: of a bucket's level, or plain."""
    kind = kind_of(limit)
    if kind == SLOTS:
        return LimitRefusal(limit, 0, CONCURRENCY_RETRY_S if limit.amount else None)
    remaining = max(0, room // UNIT if kind == BUCKET else room)
    most = limit.burst if kind == BUCKET else limit.amount
    if not limit.amount or not most or (need > most and not limit.first_in_window):
        return LimitRefusal(limit, remaining, None)
    if kind == BUCKET:
        return LimitRefusal(limit, remaining, wait_us / 1e6)
    end = limit_window(limit, now)[1]
    return LimitRefusal(limit, remaining, None if end is None else end - now)


def budget_refusal(budget: BudgetRule, remaining: str, held: str, now: float) -> BudgetRefusal:
    limit = min(budget.limit_at(now), LARGEST_AMOUNT)
    end = window_bounds(budget.window, budget.time_zone, now, starts_on=budget.starts_on)[1]
    return BudgetRefusal(budget, limit - int(remaining) - int(held), int(held), end)


def headrooms(
    frames: Sequence[Frame], rooms: Sequence[tuple[int, int]], now: float
) -> tuple[Headroom | None, Headroom | None]:
    """What the tightest limits of requests and of tokens leave."""
    requests: Headroom | None = None
    tokens: Headroom | None = None
    least_requests = least_tokens = math.inf
    for frame, (room, reset_us) in zip(frames, rooms, strict=True):
        kind = frame.headroom
        if kind == NOBODYS:
            continue
        remaining = max(0, room // UNIT if frame.is_bucket else room)
        if remaining >= (least_requests if kind == OF_REQUESTS else least_tokens):
            continue
        reset_s = reset_us / 1e6 if frame.is_bucket else frame.ends_at - now
        headroom = Headroom(frame.packed[AMOUNT], remaining, reset_s)
        if kind == OF_REQUESTS:
            requests, least_requests = headroom, remaining
        else:
            tokens, least_tokens = headroom, remaining
    return requests, tokens
