"""What the answers of `admission.lua` mean for a request, and what they tell of counters besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llmgateway.pipeline.protocols import HeldWindow, Refusal, Reservation, StoreRefusal, TargetTerms
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_open import OpenRequest
from llmgateway.stores.redis_seen import Seen
from llmgateway.stores.redis_terms import UNIT, Asked, Frames, budget_refusal, headrooms, limit_refusal
from llmgateway.stores.waiting import Waiters


class Answers:
    """Reads them. What they say of counters is noted, for when Redis is away."""

    def __init__(self, frames: Frames, seen: Seen, waiters: Waiters) -> None:
        self._frames = frames
        self._seen = seen
        self._waiters = waiters

    def reservation(self, answer: list[Any], asked: Asked, now: float) -> Reservation:
        _, number, granted, rooms, target_rooms, left, shadowed = answer
        target, limits, budgets = asked.targets[number - 1], asked.limits, asked.budgets
        requests, tokens = headrooms(limits, rooms, now) if limits else (None, None)
        if target.limits:
            limits, rooms = limits + target.limits, [*rooms, *target_rooms]
        if target.budgets:
            budgets += target.budgets
        reservation = Reservation(
            asked.id,
            asked.demand,
            asked.limits,
            target.limits,
            self._held(budgets, left, target, granted, now) if budgets else (),
            number - 1,
            int(granted) if granted else None,
            requests,
            tokens,
            self._named(limits, shadowed, now) if shadowed else (),
        )
        for limit, room in zip(limits, rooms, strict=True):
            self._note(limit, room[0], now)
        return reservation

    def _note(self, limit: Limit, room: int, now: float) -> None:
        name = self._frames.limit(limit, now).name
        if limit.per == "minute":
            self._seen.note_rate(name, limit.burst * UNIT - room, now)
        else:
            self._seen.note(name, limit.amount, room)

    def _held(
        self, budgets: Sequence[BudgetRule], left: Sequence[str], target: TargetTerms, granted: str, now: float
    ) -> tuple[HeldWindow, ...]:
        windows = []
        for budget, remaining in zip(budgets, left, strict=True):
            frame = self._frames.budget(budget, now)
            held = int(granted) if budget.strict and granted else target.expected_pico_usd
            windows.append(HeldWindow(frame.name, budget, held))
            self._seen.note(frame.name, int(frame.packed[1]), int(remaining))
        return tuple(windows)

    def _named(self, limits: Sequence[Limit], names: Sequence[str], now: float) -> tuple[Limit, ...]:
        return tuple([limit for limit in limits if self._frames.limit(limit, now).name in names])

    def refusal(self, answer: list[Any], asked: Asked, now: float) -> Refusal:
        if answer[0] == "limit":
            _, index, number, room, wait_us = answer
            limit = asked.limit(number, index)
            self._note(limit, room, now)
            return limit_refusal(limit, asked.demand.amount(limit.metric), room, wait_us, now)
        if answer[0] == "budget":
            _, index, number, remaining, held = answer
            budget = asked.budget(number, index)
            frame = self._frames.budget(budget, now)
            self._seen.note(frame.name, int(frame.packed[1]), int(remaining))
            if budget.strict:
                self._waiters.refused(frame.name)
            return budget_refusal(budget, remaining, held, now)
        if answer[0] == "closed":
            return StoreRefusal(
                "The counters are being made anew, so strict budgets and token quotas are closed for a moment."
            )
        return StoreRefusal("Redis does not know what this request holds; send it again.")

    def moved(self, opened: OpenRequest, target: TargetTerms, answer: list[Any], now: float) -> Reservation:
        _, _, granted, _, _, left, shadowed = answer
        before = opened.reservation
        callers = before.windows[: opened.callers]
        held = self._held(target.budgets, left[opened.callers :], target, granted, now)
        strict = int(granted) if granted else None
        kept = tuple(
            [
                HeldWindow(
                    window.name,
                    window.budget,
                    strict if window.budget.strict and strict is not None else target.expected_pico_usd,
                )
                for window in callers
            ]
        )
        of_caller = tuple([limit for limit in before.shadowed if limit not in before.target_limits])
        return msgspec.structs.replace(
            before,
            target_limits=target.limits,
            windows=kept + held,
            granted_pico_usd=strict,
            shadowed=of_caller + self._named(target.limits, shadowed, now),
        )


__all__ = ["Answers"]
