"""How much a model behind Anthropic's Messages is told to think, and how much it may say in all.

Newer models take an effort, older ones a budget of at least 1,024 tokens that is less than `max_tokens`. A caller's own
cap is never raised, for it limits what is paid: the budget shrinks instead. Without a cap, it is the budget and as much
again as an answer gets by default.
"""

from __future__ import annotations

import msgspec

from providers.adapters.dialects._messages_blocks import DIALECT
from providers.adapters.dialects._messages_models import ModelTraits
from providers.adapters.dialects._thinking import BUDGETS, UNLIMITED, budget_of, effort_of
from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import Conversation, Reasoning, Text, Thinking, ToolResult
from providers.adapters.types import JSONObject

DEFAULT_MAX_TOKENS = 4_096
"""Where neither the caller nor the deployment says how long an answer may be; the format wants a number."""
MIN_BUDGET = 1_024
_EFFORTS = {"minimal": "low"}
"""Words that this format has not."""


class Plan(msgspec.Struct, frozen=True):
    """What a request says of it."""

    max_tokens: int
    thinking: JSONObject | None = None
    effort: str = ""
    dropped: tuple[str, ...] = ()

    @property
    def thinks(self) -> bool:
        """Surely so: other models may decide to."""
        return self.thinking is not None and self.thinking.get("type") != "disabled"


def plan(asked: Conversation, limits: Limits, traits: ModelTraits) -> Plan:
    """For the model that `traits` are of."""
    cap = _cap(asked, limits)
    usual = cap if cap is not None else limits.max_output_tokens or DEFAULT_MAX_TOKENS
    thinking, native = asked.thinking, asked.dialect == DIALECT
    if native and "thinking" in asked.extra:
        return Plan(usual, asked.extra["thinking"], thinking.effort if thinking else "")
    if thinking is None:
        return Plan(usual)
    if traits.adapts_thinking:
        return _adaptive(thinking, usual, traits, native=native)
    if thinking.budget_tokens is None and (native or not thinking.effort):
        # Effort without thinking is a word that these models do not know.
        return Plan(usual, dropped=("output_config",) if thinking.effort else ())
    budget = _budget(thinking)
    if budget == 0:
        return Plan(usual, {"type": "disabled"})
    return _budgeted(asked, budget, cap or limits.max_output_tokens or budget + DEFAULT_MAX_TOKENS)


def _cap(asked: Conversation, limits: Limits) -> int | None:
    """The caller's; what is beyond the model's power is not asked for."""
    cap, largest = asked.max_output_tokens, limits.max_output_tokens
    return cap if cap is None or largest is None else min(cap, largest)


def _adaptive(thinking: Thinking, cap: int, traits: ModelTraits, *, native: bool) -> Plan:
    word = effort_of(thinking)
    effort = "" if word == "none" else _EFFORTS.get(word, word)
    if thinking.budget_tokens == 0 or thinking.effort == "none":
        if traits.always_thinks:
            return Plan(cap, effort="low", dropped=("reasoning_effort",))
        return Plan(cap, {"type": "disabled"}, effort)
    if native and thinking.budget_tokens is None:
        return Plan(cap, effort=effort)
    return Plan(cap, {"type": "adaptive", **_display(thinking)}, effort)


def _budget(thinking: Thinking) -> int:
    budget = budget_of(thinking)
    if budget is None or budget == UNLIMITED:
        budget = BUDGETS.get(thinking.effort, BUDGETS["medium"])
    return max(budget, MIN_BUDGET) if budget else 0


def _budgeted(asked: Conversation, budget: int, cap: int) -> Plan:
    if budget >= cap:
        budget = cap // 2
    if budget < MIN_BUDGET or not _may_think(asked):
        return Plan(cap, dropped=("reasoning_effort",))
    display = _display(asked.thinking) if asked.thinking else {}
    return Plan(cap, {"type": "enabled", "budget_tokens": budget, **display})


def _may_think(asked: Conversation) -> bool:
    """With a budget, no tool may be forced, and calls that are being answered must come with the thoughts before them."""
    if asked.tool_choice is not None and asked.tool_choice.mode in {"required", "tool"}:
        return False
    said = [turn for turn in asked.turns if turn.role in {"user", "assistant"}]
    if not said or not any(isinstance(block, ToolResult) for block in said[-1].blocks):
        return True
    answered = next((turn for turn in reversed(said) if turn.role == "assistant"), None)
    first = next((block for block in answered.blocks if block != Text("")), None) if answered else None
    return isinstance(first, Reasoning) and first.dialect == DIALECT


def _display(thinking: Thinking) -> JSONObject:
    if thinking.visible is None and not thinking.summary:
        return {}
    return {"display": "omitted" if thinking.visible is False else "summarized"}
