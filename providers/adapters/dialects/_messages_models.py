"""What the models behind Anthropic's Messages differ in, read from their names: the API refuses what a model does not take.

https://platform.claude.com/docs/en/build-with-claude/thinking and /mid-conversation-system-messages. A name without a
version, as of another vendor's server that speaks this dialect, gets what all of them have taken since the beginning.
"""

from __future__ import annotations

import functools
import re

import msgspec

# `claude-opus-4-6`, `claude-3-7-sonnet-20250219`, and with a region before and a date behind.
_NEW_NAME = re.compile(r"(opus|sonnet|haiku|fable|mythos)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(\d{1,2})(?:[-.](\d{1,2}))?-(opus|sonnet|haiku)")


class ModelTraits(msgspec.Struct, frozen=True):
    """What requests to one model may say."""

    adapts_thinking: bool = False
    """It takes an effort and decides itself how long to think; others take a budget."""
    always_thinks: bool = False
    """Thinking cannot be switched off."""
    samples: bool = True
    """It takes `temperature`, `top_p` and `top_k`."""
    samples_one_way: bool = False
    """It takes either `temperature` or `top_p`."""
    system_turns: bool = False
    """System messages may stand in the middle of the conversation."""


@functools.lru_cache(maxsize=1024)
def traits_of(model: str) -> ModelTraits:
    """By the model's name at the provider."""
    if "mythos-preview" in model:
        return ModelTraits(adapts_thinking=True, always_thinks=True, samples=False, samples_one_way=True)
    family, version = _family_and_version(model)
    return ModelTraits(
        adapts_thinking=version >= (4, 6),
        always_thinks=family in {"fable", "mythos"},
        samples=version < (4, 7),
        samples_one_way=version >= (4, 1),
        system_turns=version >= (4, 8) and (family, version) != ("sonnet", (5, 0)),
    )


def _family_and_version(model: str) -> tuple[str, tuple[int, int]]:
    if found := _NEW_NAME.search(model):
        return found[1], (int(found[2]), int(found[3] or 0))
    if found := _OLD_NAME.search(model):
        return found[3], (int(found[1]), int(found[2] or 0))
    return "", (0, 0)
