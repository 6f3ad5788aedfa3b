"""What a request asks of limits and budgets before it may run: tokens, and pico-dollars to hold. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from billing.pricing import PriceVersion, dearest, dearest_of, dearest_units, in_force
from llmgateway.pipeline.errors import BudgetExceededError
from llmgateway.pipeline.learning import OutputLearner
from llmgateway.pipeline.parameters import as_each_gets_it
from llmgateway.pipeline.protocols import StrictHold, TargetTerms, Tokens
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.rules import NOTHING_ADDED, Rules
from llmgateway.pipeline.snapshot import AdmissionRules, BudgetRule, Deployment, Limit
from llmgateway.pipeline.spending import affordable_output, unpriced
from providers.adapters.body import RequestHead, estimate_input_tokens
from providers.adapters.bounds import Bound, NotBoundableError, bound
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import Operation, Units

EXPECTED_OUTPUT_TOKENS = 1024
"""Expected of a model that nothing was learned about, when the request names no smaller cap."""
ADDED_CAP_TOKENS = 8_192
"""A strict budget never adds a larger cap than this, unless the deployment says that its model can say more."""
WITHOUT_OUTPUT = {
    Operation.EMBEDDINGS, Operation.MODERATION, Operation.RERANK, Operation.OCR, Operation.PASSTHROUGH,
}  # fmt: skip
"""Operations whose answers are not made of tokens."""
_PLAIN = {Operation.CHAT, Operation.TEXT_COMPLETION}
"""Operations whose requests say no units beside tokens."""
_FREE = {"GET", "HEAD", "OPTIONS", "DELETE"}
LARGEST_HOLD = 2**62
"""More than any budget, and still a number that every store can keep."""


NO_REQUESTS: Mapping[int, ModelRequest] = MappingProxyType({})


class StrictTerms(msgspec.Struct, frozen=True):
    """How a strict hold becomes a cap on output."""

    base_pico_usd: int
    """The most that everything but the output can cost."""
    token_pico_usd: int
    """The most that one more token of every choice can cost."""
    cap: int | None
    """The request's own."""
    ceiling: int
    """No cap above it is worth sending."""
    within: int | None = None
    """The cap that the caller's own largest price pays for; None: the caller names none."""

    def granted_cap(self, granted_pico_usd: int) -> int | None:
        """The cap to send, for the hold that was granted; None: the request's own will do."""
        if self.token_pico_usd == 0:
            return None
        affordable = min(self.ceiling, (granted_pico_usd - self.base_pico_usd) // self.token_pico_usd)
        return affordable if self.cap is None or affordable < self.cap else None

    def cap_within(self, granted_pico_usd: int | None) -> int | None:
        """The same, and within what the caller itself pays at most. None granted: no strict budget is concerned."""
        paid = None if granted_pico_usd is None else self.granted_cap(granted_pico_usd)
        if paid is None or self.within is None:
            return self.within if paid is None else paid
        return min(paid, self.within)


class Ask(msgspec.Struct, frozen=True):
    """All that admission must know of one request."""

    demand: Tokens
    candidates: tuple[Deployment, ...]
    """Those whose cost can be told, as far as budgets want to know it."""
    targets: tuple[TargetTerms, ...]
    """For each candidate."""
    strict: tuple[StrictTerms | None, ...]
    """For each candidate; None: no strict budget, or a cost that no cap bounds."""
    units: Units = ()
    """What the request says that it uses beside tokens."""
    requests: Mapping[int, ModelRequest] = NO_REQUESTS
    """By id of a deployment, what it is asked where aliases on the way change the request."""


class _Place(msgspec.Struct, frozen=True):
    """What is the same for every request in a dialect to a deployment."""

    deployment: Deployment
    cap_fields: tuple[str, ...]
    """The request's fields that cap output and are obeyed there."""
    limits: tuple[Limit, ...]
    """Those that a store counts."""
    has_strict: bool
    searches_unasked: bool

    @classmethod
    def of(cls, deployment: Deployment, dialect: Dialect) -> _Place:
        return cls(
            deployment,
            _output_cap_fields(dialect, deployment),
            _counted(deployment.limits),
            any(budget.strict for budget in deployment.budgets),
            deployment.adapter.searches_unasked(deployment.model),
        )


class Terms:
    """Works out what requests ask. One per process, used from the event loop alone."""

    def __init__(self) -> None:
        self.learner = OutputLearner()
        self._places: dict[tuple[int, str], _Place] = {}

    def ask(
        self,
        request: ModelRequest,
        rules: Rules,
        candidates: tuple[Deployment, ...],
        settings: AdmissionRules,
        *,
        now: float,
    ) -> Ask:
        """At the prices in force `now`: a body may have come slowly.

        Raises:
            BudgetExceededError: a budget is concerned, and no candidate's cost has a price and a bound.
        """
        first = candidates[0]
        dialect = request.dialect
        if len(candidates) == 1 and not rules.via and dialect.operation in _PLAIN and request.spending is None:
            return self._plain(request, rules, first, candidates, settings, now=now)
        opaque = dialect.operation is Operation.PASSTHROUGH
        own = as_each_gets_it(request, rules.via) if rules.via else NO_REQUESTS
        asked = own.get(first.id, request)
        demand = Tokens(
            0 if opaque else _expected_input(asked, first), self._expected_output(asked, rules.key.id, first)
        )
        units = dialect.asked_units(request.body) if dialect.measures else ()
        able, targets, strict = [], [], []
        unable: BudgetExceededError | None = None
        for deployment in candidates:
            try:
                asked = own.get(deployment.id, request)
                target, terms = _target(asked, rules, deployment, demand, settings, now=now, units=units)
            except BudgetExceededError as error:
                unable = unable or error
                continue
            able.append(deployment)
            targets.append(target)
            strict.append(terms)
        if unable is not None and not able:
            raise unable
        return Ask(demand, tuple(able), tuple(targets), tuple(strict), units, own)

    def _plain(
        self,
        request: ModelRequest,
        rules: Rules,
        deployment: Deployment,
        candidates: tuple[Deployment, ...],
        settings: AdmissionRules,
        *,
        now: float,
    ) -> Ask:
        """`ask` for nearly all requests: in text, for one deployment. What it says is what the long way says."""
        dialect, head = request.dialect, request.head
        place = self._places.get((deployment.id, dialect.name))
        if place is None or place.deployment is not deployment:
            place = self._places[deployment.id, dialect.name] = _Place.of(deployment, dialect)
        cap, choices = head.output_cap(place.cap_fields), head.choices
        expected = self.learner.expected(rules.key.id, deployment.model) or EXPECTED_OUTPUT_TOKENS
        output = (expected if cap is None or expected < cap else cap) * choices
        estimate = request.input_estimate
        demand = Tokens(estimated_input(request.body, deployment) if estimate is None else estimate, output)
        price, budgets = in_force(deployment.prices, now), deployment.budgets
        if price is None:
            if rules.budgets or budgets:
                raise _unpriced(deployment)
            return Ask(demand, candidates, (TargetTerms(place.limits),), (None,))
        pico_usd = min(LARGEST_HOLD, demand.input * price.dearest_input + output * price.dearest_output + price.request)
        hold = terms = None
        if rules.strict or place.has_strict:
            hold, terms = _strict(request, place, price, settings, cap=cap)
        return Ask(demand, candidates, (TargetTerms(place.limits, budgets, pico_usd, hold),), (terms,))

    def expected(self, request: ModelRequest, key_id: str, deployment: Deployment) -> Tokens:
        """What a request probably takes there."""
        return Tokens(_expected_input(request, deployment), self._expected_output(request, key_id, deployment))

    def _expected_output(self, request: ModelRequest, key_id: str, deployment: Deployment) -> int:
        """Output tokens that a request probably takes, over all its choices."""
        if request.dialect.operation in WITHOUT_OUTPUT:
            return 0
        head = request.head
        expected = self.learner.expected(key_id, deployment.model) or EXPECTED_OUTPUT_TOKENS
        cap = head.output_cap(output_cap_fields(request, deployment))
        return (expected if cap is None or expected < cap else cap) * head.choices


def _expected_input(request: ModelRequest, deployment: Deployment) -> int:
    if request.input_estimate is not None:
        return request.input_estimate
    dialect = request.dialect
    return estimated_input(request.body if dialect.json_requests else dialect.text(request.body), deployment)


def _target(
    request: ModelRequest,
    rules: Rules,
    deployment: Deployment,
    demand: Tokens,
    settings: AdmissionRules,
    *,
    now: float,
    units: Units = (),
) -> tuple[TargetTerms, StrictTerms | None]:
    added = rules.added.get(deployment.id, NOTHING_ADDED)
    limits, budgets = _counted(deployment.limits) + added.limits, deployment.budgets + added.budgets
    if request.dialect.operation is Operation.PASSTHROUGH:
        return _opaque(request, rules, deployment, limits, budgets), None
    price = in_force(deployment.prices, now)
    if price is None or (units and not _says_anything_of(price, units)):
        if request.spending is not None:
            raise unpriced(deployment)
        if rules.budgets or budgets:
            raise _unpriced(deployment)
        return TargetTerms(limits), None
    expected = dearest(price, input_tokens=demand.input, output_tokens=demand.output)
    if units:
        expected += dearest_units(price.units, units)
    expected = min(LARGEST_HOLD, expected)
    if not rules.strict and not (budgets and any(budget.strict for budget in budgets)):
        terms = _within(request, deployment, price, demand, None) if request.spending is not None else None
        return TargetTerms(limits, budgets, expected), terms
    place = _Place.of(deployment, request.dialect)
    cap = request.head.output_cap(place.cap_fields)
    hold, terms = _strict(request, place, price, settings, cap=cap, units=units)
    if request.spending is not None:
        terms = _within(request, deployment, price, demand, terms)
    return TargetTerms(limits, budgets, expected, hold), terms


def _within(
    request: ModelRequest, deployment: Deployment, price: PriceVersion, demand: Tokens, terms: StrictTerms | None
) -> StrictTerms | None:
    """`terms` that also hold to what the caller would pay at most."""
    spending = request.spending
    if spending is None:
        return terms
    fields = output_cap_fields(request, deployment)
    cap = request.head.output_cap(fields)
    output = affordable_output(request, spending, deployment, price, input_tokens=demand.input, own_cap=cap)
    if output is None or not fields:
        return terms
    ceiling = (deployment.max_output_tokens or ADDED_CAP_TOKENS) if cap is None else cap
    terms = terms or StrictTerms(0, 0, cap, ceiling)
    return msgspec.structs.replace(terms, within=min(output // request.head.choices, ceiling))


def _opaque(
    request: ModelRequest,
    rules: Rules,
    deployment: Deployment,
    limits: tuple[Limit, ...],
    budgets: tuple[BudgetRule, ...],
) -> TargetTerms:
    """Terms of a call that the gateway does not understand: reading is free, anything else may cost who knows what."""
    if not (rules.budgets or budgets):
        return TargetTerms(limits)
    verbatim = request.verbatim
    if verbatim is not None and (verbatim.costs_nothing or verbatim.method in _FREE):
        return TargetTerms(limits, budgets, 0, StrictHold(wanted=0, least=0))
    whole = deployment.max_request_pico_usd
    if whole is None:
        raise _not_boundable(deployment, "the gateway does not understand this call of the provider's own API")
    return TargetTerms(limits, budgets, whole, StrictHold(wanted=whole, least=whole))


def output_cap_fields(request: ModelRequest, deployment: Deployment) -> tuple[str, ...]:
    """The request's fields that cap output and that are obeyed at `deployment`; translation carries every one over."""
    return _output_cap_fields(request.dialect, deployment)


def _output_cap_fields(dialect: Dialect, deployment: Deployment) -> tuple[str, ...]:
    adapter = deployment.adapter
    return adapter.output_cap_fields(dialect) if adapter.dialect_for(dialect) is dialect else dialect.output_cap_fields


def _counted(limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """Those that a store counts."""
    if not limits:
        return limits
    return tuple([limit for limit in limits if limit.metric != "request_bytes"])


def estimated_input(body: bytes, deployment: Deployment) -> int:
    estimation = deployment.estimation
    return estimate_input_tokens(
        body,
        estimation.chars_per_token,
        bytes_per_token=estimation.bytes_per_token,
        max_sample_bytes=estimation.max_sample_bytes,
    )


def _strict(
    request: ModelRequest,
    place: _Place,
    price: PriceVersion,
    settings: AdmissionRules,
    *,
    cap: int | None,
    units: Units = (),
) -> tuple[StrictHold, StrictTerms | None]:
    """`cap` is the request's own, by the fields that are obeyed there."""
    head, deployment = request.head, place.deployment
    try:
        bounds = bound(request.body, request.dialect, deployment.adapter, choices=head.choices)
        _check_bounds_of_units(request, place, price)
    except NotBoundableError as error:
        if deployment.max_request_pico_usd is None:
            raise _not_boundable(deployment, str(error)) from None
        whole = deployment.max_request_pico_usd
        return StrictHold(wanted=whole, least=whole), None
    terms = _strict_terms(place, price, bounds, units, cap)
    cap = terms.cap
    worthwhile = _least_output(head, deployment, settings)
    least = worthwhile if cap is None or cap > worthwhile else cap
    wanted = terms.ceiling if cap is None else cap
    base, each = terms.base_pico_usd, terms.token_pico_usd
    return (
        StrictHold(
            min(LARGEST_HOLD, base + max(wanted, least) * each),
            min(LARGEST_HOLD, base + least * each),
            settings.absent_cap_share if cap is None else 1,
        ),
        terms,
    )


def _check_bounds_of_units(request: ModelRequest, place: _Place, price: PriceVersion) -> None:
    """Raises NotBoundableError: what has a price is neither in the request nor capped by it."""
    dialect = request.dialect
    if place.searches_unasked and dearest_of(price.units, "search") is not None:
        raise NotBoundableError("the model searches as often as it likes")
    if not dialect.measures:
        return
    if not dialect.counts_units:
        raise NotBoundableError("how long the sound is can be told only by those who play it")
    if price.dearest_output and dialect.operation not in WITHOUT_OUTPUT:
        raise NotBoundableError("no field of it caps the tokens of its answer")


def _says_anything_of(price: PriceVersion, units: Units) -> bool:
    """Whether it prices tokens, requests, or these units; a price of nothing that can be used is none."""
    if price.request or price.dearest_input or price.dearest_output:
        return True
    return any(dearest_of(price.units, name.partition(":")[0]) is not None for name, _ in units)


def _strict_terms(place: _Place, price: PriceVersion, bounds: Bound, units: Units, cap: int | None) -> StrictTerms:
    base = bounds.input_tokens * price.dearest_input + price.request
    if units:
        base += dearest_units(price.units, units)
    if not place.cap_fields:
        return StrictTerms(base, 0, cap=0, ceiling=0)
    ceiling = (place.deployment.max_output_tokens or ADDED_CAP_TOKENS) if cap is None else cap
    return StrictTerms(base, bounds.choices * price.dearest_output, cap, ceiling)


def _least_output(head: RequestHead, deployment: Deployment, settings: AdmissionRules) -> int:
    """The smallest cap that is worth sending: never below the provider's minimum or what the model must think with."""
    least, smallest = settings.strict_min_output_tokens, deployment.adapter.min_output_tokens
    least = max(least, smallest)
    return least if head.thinking is None else least + head.thinking_budget


def _unpriced(deployment: Deployment) -> BudgetExceededError:
    return BudgetExceededError(
        f"The model '{deployment.model}' of '{deployment.provider}' has no price, so it cannot count against a budget. "
        "Ask an admin to add a price, or a default price.",
        code="model_not_priced",
    )


def _not_boundable(deployment: Deployment, reason: str) -> BudgetExceededError:
    return BudgetExceededError(
        f"What this request may cost at most is unknown: {reason}. A strict budget needs a bound; ask an admin to set "
        f"the largest cost of a request on the deployment '{deployment.name}'.",
        code="cost_not_boundable",
    )
