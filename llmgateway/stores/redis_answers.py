"""What the answers of `admission.lua` mean for a request, and what they tell of counters besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from llmgateway.pipeline.protocols import HeldWindow, Refusal, Reservation, StoreRefusal, TargetTerms
from llmgateway.pipeline.snapshot import BudgetRule, Limit
from llmgateway.stores.redis_open import OpenRequest
from llmgateway.stores.redis_seen import Seen
from llmgateway.stores.redis_terms import Asked, Frame, Frames, budget_refusal, headrooms, limit_refusal
from llmgateway.stores.waiting import Waiters


class Answers:
    """Reads them. What they say of counters is noted, for when Redis is away."""

    def __init__(self, frames: Frames, seen: Seen, waiters: Waiters) -> None:
        self._frames = frames
        self._seen = seen
        self._waiters = waiters

    def reservation(
        self, answer: list[Any], asked: Asked, limits: Sequence[Frame], budgets: Sequence[Frame], now: float
    ) -> Reservation:
        """`limits` and `budgets` are the caller's, as they were asked."""
        _, number, granted, rooms, target_rooms, left, shadowed = answer
        target = asked.targets[number - 1]
        requests, tokens = headrooms(limits, rooms, now) if limits else (None, None)
        if limits:
            self._seen.note_limits(limits, rooms, now)
        if target.limits:
            frames = self._frames.of_limits(target.limits, now)
            self._seen.note_limits(frames, target_rooms, now)
            limits = [*limits, *frames]
        if target.budgets:
            budgets = [*budgets, *self._frames.of_budgets(target.budgets, now)]
        return Reservation(
            asked.id,
            asked.demand,
            asked.limits,
            target.limits,
            self._held(budgets, left, target, granted) if budgets else (),
            number - 1,
            int(granted) if granted else None,
            requests,
            tokens,
            _named(limits, shadowed) if shadowed else (),
        )

    def _held(
        self, budgets: Sequence[Frame], left: Sequence[str], target: TargetTerms, granted: str
    ) -> tuple[HeldWindow, ...]:
        self._seen.note_budgets(budgets, left)
        windows = []
        for frame in budgets:
            budget = cast("BudgetRule", frame.rule)
            held = int(granted) if granted and budget.strict else target.expected_pico_usd
            windows.append(HeldWindow(frame.name, budget, held))
        return tuple(windows)

    def refusal(self, answer: list[Any], asked: Asked, now: float) -> Refusal:
        if answer[0] == "limit":
            _, index, number, room, wait_us = answer
            limit = asked.limit(number, index)
            self._seen.note_limits((self._frames.limit(limit, now),), ((room, wait_us),), now)
            return limit_refusal(limit, asked.demand.amount(limit.metric), room, wait_us, now)
        if answer[0] == "budget":
            _, index, number, remaining, held = answer
            budget = asked.budget(number, index)
            frame = self._frames.budget(budget, now)
            self._seen.note_budgets((frame,), (remaining,))
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
        held = self._held(self._frames.of_budgets(target.budgets, now), left[opened.callers :], target, granted)
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
            shadowed=of_caller + _named(self._frames.of_limits(target.limits, now), shadowed),
        )


def _named(frames: Sequence[Frame], names: Sequence[str]) -> tuple[Limit, ...]:
    return tuple([cast("Limit", frame.rule) for frame in frames if frame.name in names])


__all__ = ["Answers"]
