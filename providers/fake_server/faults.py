"""Rules in CEL that make the fake provider fail: which requests, how, and how often. For game days and tests.

A rule is an expression over a request and what then happens to it, in the words of scripts. The first rule that holds
decides. A plan of rules with a seed draws the same chances for the same requests in the same order.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import cel
import msgspec

from providers.adapters.types import JSONObject
from providers.fake_server.scripts import Script

_FAILURES = (LookupError, ArithmeticError, ValueError, TypeError, RuntimeError)
"""What evaluating an expression may raise."""


class Asked(msgspec.Struct, frozen=True):
    """What rules may ask about a request."""

    model: str = ""
    """Empty where a request names none, as the list of models does."""
    path: str = ""
    stream: bool = False
    headers: Mapping[str, str] = {}
    """By their names in lower case."""
    chance: float = 0.0
    """Drawn once per request, uniformly from 0 to 1, so `chance < 0.1` and then `chance < 0.3` hit a tenth and a fifth."""
    count: int = 1
    """The number of the request since the rules were set."""
    seconds: float = 0.0
    """How long ago they were."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to which requests."""

    do: Mapping[str, Any]
    """Fields of a script."""
    when: str = "true"
    name: str = ""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules, in the order in which they are asked."""

    rules: tuple[Rule, ...] = ()
    seed: int | None = None
    """None: by chance. What was drawn is shown, so that a run can be repeated."""


class PlanError(ValueError):
    """A plan cannot be followed; the message says which rule, and why."""


class _Standing:
    """A rule that is being followed."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.program = _compiled(rule)
        self.matched = 0
        self.failed = 0
        self.last_error = ""

    def holds(self, asked: dict[str, Any]) -> bool:
        """An expression that fails for a request, as where it asks for a header that is not there, does not hold."""
        try:
            holds = self.program.execute(asked)
        except _FAILURES as error:
            self.failed += 1
            self.last_error = f"{type(error).__name__}: {error}"
            return False
        self.matched += holds is True
        return holds is True


class Faults:
    """Follows one plan at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """No rules any more."""
        self.follow(Plan())

    def follow(self, plan: Plan) -> None:
        """In place of what was followed before; counts begin anew.

        Raises:
            PlanError: a rule cannot be used. The rules from before go on.
        """
        self._rules = [_Standing(rule) for rule in plan.rules]
        self.seed = secrets.randbits(32) if plan.seed is None else plan.seed
        self._random = random.Random(self.seed)  # noqa: S311  # to be repeated, not to be secret
        self._since = self._clock()
        self._count = 0

    def jitter(self, most: float) -> float:
        """From 0 to `most`, by chance."""
        return self._random.uniform(0, most) if most else 0.0

    def of(self, *, model: str, path: str, stream: bool, headers: Mapping[str, str]) -> Mapping[str, Any]:
        """Fields of the script that a request meets; empty if no rule holds."""
        if not self._rules:
            return {}
        self._count += 1
        asked = Asked(
            model, path, stream, headers, self._random.random(), self._count, round(self._clock() - self._since, 3)
        )
        told = msgspec.structs.asdict(asked)
        return next((standing.rule.do for standing in self._rules if standing.holds(told)), {})

    def standing(self) -> JSONObject:
        """The plan and how often each rule has held."""
        rules = [
            {**msgspec.to_builtins(each.rule), "matched": each.matched, "failed": each.failed, "last_error": each.last_error}
            for each in self._rules
        ]  # fmt: skip
        return {"seed": self.seed, "requests": self._count, "rules": rules}


def read_plan(content: Any) -> Plan:
    """A plan from decoded JSON or YAML.

    Raises:
        PlanError: it is none.
    """
    try:
        return msgspec.convert(content, Plan)
    except msgspec.ValidationError as error:
        raise PlanError(
            f"The rules cannot be read: {error}. Write {{seed: 7, rules: [{{when: …, do: {{…}}}}]}}."
        ) from None


def _compiled(rule: Rule) -> cel.Program:
    """Raises PlanError for a rule that could never do what it says."""
    name = rule.name or rule.when
    try:
        msgspec.convert(rule.do, Script, strict=False)
        program = cel.compile(rule.when)
    except ValueError as error:
        raise PlanError(f"The rule {name!r} cannot be used: {error}") from None
    if strange := _unknown_to(program):
        raise PlanError(
            f"The rule {name!r} asks for {', '.join(sorted(strange))}; there is {', '.join(sorted(_KNOWN))}."
        )
    try:
        tried = program.execute(msgspec.structs.asdict(Asked()))
    except KeyError:
        return program  # Of a header that not every request has.
    except _FAILURES as error:
        raise PlanError(f"The rule {name!r} cannot be used: {error}") from None
    if not isinstance(tried, bool):
        raise PlanError(f"The rule {name!r} is {tried!r}, neither true nor false.")
    return program


_KNOWN = {field.name for field in msgspec.structs.fields(Asked)}
_LOOPS = "@not_strictly_false"
"""In what `exists` and `all` become, whose own variables are listed among the others."""


def _unknown_to(program: cel.Program) -> set[str]:
    """Variables that no request has. A trial does not find them where an expression is decided before them."""
    return set() if _LOOPS in program.references()["functions"] else set(program.variables()) - _KNOWN
