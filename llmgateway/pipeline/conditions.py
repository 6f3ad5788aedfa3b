"""What the expressions (CEL) of routing rules may look at, and what comes of them.

docs/routing.md has the table of variables for operators; tests hold the two together.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from billing.windows import load_zone
from llmgateway.cel import compiled
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import RoutingRule
from llmgateway.pipeline.snapshot import Alias, ConfigProblem, Estimation, Key
from providers.adapters.body import estimate_input_tokens

if TYPE_CHECKING:
    from llmgateway.cel import Program

logger = logging.getLogger(__name__)

BUDGET_USED = "budget_used"
"""The one variable that must be asked for: the counters may be elsewhere."""
FIELDS: Mapping[str, frozenset[str]] = {
    "request": frozenset(
        {
            "model", "task_type", "stream", "path", "operation", "end_user", "session", "client_ip", "input_tokens",
            "max_tokens", "choices", "has_tools", "has_images", "metadata",
        }
    ),
    "key": frozenset({"id", "name", "team"}),
    "time": frozenset({"hour", "minute", "weekday", "date"}),
}  # fmt: skip
"""Variables that have fields."""
VARIABLES = frozenset(FIELDS) | {"team", "headers", BUDGET_USED}

_ERRORS = (KeyError, ValueError, TypeError, RuntimeError, IndexError, OverflowError, ZeroDivisionError)
"""What an evaluation may raise."""
_MEMBER = re.compile(r"\b(request|key|time)\s*\.\s*(\w+)")
_AS_A_WHOLE = re.compile(r"\brequest\b(?!\s*\.)")
_TEXT = re.compile(r"""[rRbB]{0,2}("{3}.*?"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL)
_LOOPS = "@not_strictly_false"
"""In what `exists` and `all` become, whose own variables are listed among the others."""
_IMAGES = re.compile(
    rb'"type"\s*:\s*"(?:image|image_url|input_image)"|"mime_?[tT]ype"\s*:\s*"image/|"input_image"', re.ASCII
)
_ESTIMATION = Estimation()
MOST_METADATA_BYTES = 64 * 2**10
"""More than any provider takes. Each evaluation copies all of it: thirty megabytes would stop the worker for seconds."""


class BudgetUsed(NamedTuple):
    """What the counters say of the budgets that a request counts for."""

    share: float | None
    """The largest share, of 1, that is settled or held of one of them; None: it could not be found out."""


class BudgetsNeededError(Exception):
    """A rule looks at `budget_used`, and the counters have not been asked yet."""


class Facts:
    """What is known of one request. What an expression does not ask for is never found out."""

    def __init__(self, request: ModelRequest, key: Key, *, now: float, budget_used: BudgetUsed | None = None) -> None:
        self._request = request
        self._key = key
        self._now = now
        self._budget_used = budget_used
        self._known: dict[str, Any] = {}

    def of(self, rule: RoutingRule) -> dict[str, Any]:
        """The variables that the rule's expression names.

        Raises:
            BudgetsNeededError: among them is one that must be asked for first.
        """
        text = rule.when
        return {name: self._variable(name, text) for name in _asked(text) if self._has(name)}

    def _has(self, name: str) -> bool:
        if name != BUDGET_USED:
            return name in VARIABLES
        if self._budget_used is None:
            raise BudgetsNeededError
        return self._budget_used.share is not None

    def _variable(self, name: str, text: str) -> Any:
        if name == "request":
            return self._request_fields(text)
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._make(name)
        return found

    def _make(self, name: str) -> Any:
        if name == "key":
            return {"id": self._key.id, "name": self._key.name, "team": self._key.team_name}
        if name == "team":
            return self._key.team_name
        if name == "headers":
            return _headers(self._request)
        if name == BUDGET_USED and self._budget_used is not None:
            return self._budget_used.share
        return _moment(self._now, self._key.time_zone)

    def _request_fields(self, text: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name in _mentioned(text):
            find = _LABORIOUS.get(name)
            if find is None:
                fields[name] = _SIMPLE[name](self._request, self._key)
                continue
            found = self._known.get(name)
            if found is None:
                found = self._known[name] = find(self._request)
            fields[name] = found
        return fields


class Conditions:
    """Evaluates rules, and remembers which could not be. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self.failures: Counter[tuple[str, str]] = Counter()
        """By alias and rule: how often an evaluation failed."""
        self._latest: dict[tuple[str, str], tuple[RoutingRule, str]] = {}
        """By the same, why the last of them did."""

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """By alias and rule: why it could not be evaluated the last time that it could not."""
        return {place: reason for place, (_, reason) in self._latest.items()}

    def hold(self, alias: str, rule: RoutingRule, facts: Facts) -> bool:
        """Whether a rule of `alias` applies. One that cannot be evaluated does not."""
        try:
            found = rule.program.execute(facts.of(rule))
        except _ERRORS as error:
            self._note(alias, rule, _readable(error))
            return False
        if not isinstance(found, bool):
            self._note(alias, rule, f"it is {found!r}, neither true nor false")
            return False
        return found

    def problems(self, aliases: Mapping[str, Alias]) -> tuple[ConfigProblem, ...]:
        """The rules among those in force that can be evaluated for no request.

        One that fails for what some caller has sent, or has not, is not the operators' fault and is only counted.
        """
        return tuple(
            ConfigProblem(
                "providers_aliasrule",
                "",
                f"rule {rule.name} of {alias}",
                f"it does not apply to any request: {wrong} Correct its expression.",
            )
            for (alias, _), (rule, _) in self._latest.items()
            if alias in aliases and rule in aliases[alias].rules and (wrong := _wrong_for_all(rule.when))
        )

    def _note(self, alias: str, rule: RoutingRule, reason: str) -> None:
        place = alias, rule.name
        self.failures[place] += 1
        known = self._latest.get(place)
        self._latest[place] = rule, reason[:300]
        if known is None or known[0] != rule:
            logger.warning(
                "rule %s of alias %s could not be evaluated for a request, so it did not apply: %s. "
                "If only some requests have what it looks at, let it ask first: 'x-team' in headers && …",
                rule.name,
                alias,
                reason,
            )


def check_expression(text: str) -> str | None:
    """What is wrong with an expression of a routing rule, for whoever writes it; None: nothing."""
    try:
        program = compiled(text)
    except ValueError as error:
        return f"This is not an expression (CEL): {error}"
    unknown = set(program.variables()) - VARIABLES
    if unknown and _LOOPS not in program.references()["functions"]:
        return f"There is no `{min(unknown)}`; there is {_listed(VARIABLES)}."
    for variable, field in _MEMBER.findall(_TEXT.sub('""', text)):
        if field not in FIELDS[variable]:
            hint = f"write `{field}` alone, for " if field in VARIABLES else ""
            return f"There is no `{variable}.{field}`; {hint}`{variable}` has {_listed(FIELDS[variable])}."
    return _trial(program)


@lru_cache(maxsize=1024)
def _wrong_for_all(text: str) -> str | None:
    """What no request can do anything about; None: it depends on the request."""
    return check_expression(text)


def _trial(program: Program) -> str | None:
    """What a request like any other shows."""
    try:
        found = program.execute(_EXAMPLE)
    except (KeyError, IndexError):
        return None  # A header or a field of `metadata` that not every request has.
    except _ERRORS as error:
        return f"It cannot be evaluated: {_readable(error)}"
    if not isinstance(found, bool):
        return f"It is {found!r} for a request; a condition must be true or false. Compare it with something."
    return None


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _readable(error: BaseException) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]


@lru_cache(maxsize=1024)
def _asked(text: str) -> frozenset[str]:
    return frozenset(compiled(text).variables())


@lru_cache(maxsize=1024)
def _mentioned(text: str) -> tuple[str, ...]:
    """The fields of `request` that an expression names: each that it is given costs as much as evaluating it."""
    if _AS_A_WHOLE.search(_TEXT.sub('""', text)):
        return tuple(sorted(FIELDS["request"]))
    return tuple(sorted(name for name in FIELDS["request"] if name in text))


def _headers(request: ModelRequest) -> dict[str, str]:
    """Those that may go on to providers: no credentials, nothing of the gateway's own."""
    found: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _moment(now: float, time_zone: str) -> dict[str, Any]:
    local = datetime.fromtimestamp(now, load_zone(time_zone))
    return {
        "hour": local.hour,
        "minute": local.minute,
        "weekday": local.isoweekday(),
        "date": local.date().isoformat(),
    }


def _input_tokens(request: ModelRequest) -> int:
    if request.input_estimate is not None:
        return request.input_estimate
    dialect = request.dialect
    text = request.body if dialect.json_requests else dialect.text(request.body)
    return estimate_input_tokens(text, _ESTIMATION.chars_per_token, bytes_per_token=_ESTIMATION.bytes_per_token)


class _Body(msgspec.Struct):
    tools: msgspec.Raw = msgspec.Raw(b"null")
    metadata: msgspec.Raw = msgspec.Raw(b"null")


_decode_body = msgspec.json.Decoder(_Body).decode


def _body(request: ModelRequest) -> _Body:
    if not request.dialect.json_requests or not request.body:
        return _Body()
    return _decode_body(request.body)


def _has_tools(request: ModelRequest) -> bool:
    return bytes(_body(request).tools).strip() not in {b"null", b"[]"}


def _metadata(request: ModelRequest) -> dict[str, Any]:
    raw = _body(request).metadata
    found = msgspec.json.decode(raw) if len(raw) <= MOST_METADATA_BYTES else None
    return found if isinstance(found, dict) else {}


def _has_images(request: ModelRequest) -> bool:
    return _IMAGES.search(request.body) is not None


_SIMPLE: Mapping[str, Callable[[ModelRequest, Key], Any]] = {
    "model": lambda request, _: request.head.model,
    "task_type": lambda request, _: request.task_type,
    "stream": lambda request, _: bool(request.head.stream),
    "path": lambda request, _: request.path,
    "operation": lambda request, _: request.dialect.operation.value,
    "end_user": lambda request, key: request.end_user or key.user_id,
    "session": lambda request, _: request.session,
    "client_ip": lambda request, _: request.client_ip,
    "max_tokens": lambda request, _: request.head.output_cap(request.dialect.output_cap_fields) or 0,
    "choices": lambda request, _: request.head.choices,
}
_LABORIOUS: Mapping[str, Callable[[ModelRequest], Any]] = {
    "input_tokens": _input_tokens,
    "has_tools": _has_tools,
    "has_images": _has_images,
    "metadata": _metadata,
}
_EXAMPLE: dict[str, Any] = {
    "request": {
        "model": "gpt",
        "task_type": "summarization",
        "stream": True,
        "path": "/v1/chat/completions",
        "operation": "chat",
        "end_user": "ana",
        "session": "1",
        "client_ip": "192.0.2.1",
        "input_tokens": 100,
        "max_tokens": 0,
        "choices": 1,
        "has_tools": False,
        "has_images": False,
        "metadata": {},
    },
    "key": {"id": "1", "name": "example", "team": "red"},
    "team": "red",
    "headers": {},
    BUDGET_USED: 0.5,
    "time": {"hour": 12, "minute": 30, "weekday": 3, "date": "2027-01-06"},
}
