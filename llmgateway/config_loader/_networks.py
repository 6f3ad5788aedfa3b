"""Where keys may be used from: the union of their network lists and their own addresses, compiled once per union."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from llmgateway.config_loader._values import as_text, in_slices, texts
from llmgateway.models import KeyNetwork, NetworkList
from llmgateway.pipeline.snapshot import ConfigProblem, Networks

Lists = Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KeyNetworks(Networks):
    """Networks that remember what they were made of, so that a changed list is exchanged without reading keys again."""

    lists: tuple[int, ...] = ()
    """Row ids of network lists."""
    own: tuple[str, ...] = ()
    """The key's own addresses."""


class NetworkCompiler:
    """Compiles each union once; keys with the same rules share the result."""

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self._compiled: dict[tuple[tuple[int, ...], tuple[str, ...]], KeyNetworks] = {}

    def compile(self, list_ids: tuple[int, ...], own: tuple[str, ...]) -> Networks | None:
        """None, meaning anywhere, only where there is neither a list nor an address.

        Raises:
            ValueError: one of the key's own texts is not an address or network.
        """
        if not list_ids and not own:
            return None
        found = self._compiled.get((list_ids, own))
        if found is None:
            # A list that vanished since its tie was read adds nothing: the key is let in from fewer places, not more.
            shared = (text for list_id in list_ids for text in self.lists.get(list_id, ()))
            union = Networks.of(tuple(dict.fromkeys((*shared, *own))))
            found = self._compiled[list_ids, own] = KeyNetworks(union.v4, union.v6, list_ids, own)
        return found


def load_network_lists(problems: list[ConfigProblem]) -> dict[int, tuple[str, ...]]:
    """The usable entries of every list. What cannot be read lets nobody in."""
    lists = {}
    for list_id, name, text in NetworkList.objects.order_by().values_list("id", "name", as_text("networks")):
        lists[list_id], unusable = _usable(text)
        if unusable:
            message = f"{unusable} is not an address or network and lets nobody in; correct the list."
            problems.append(ConfigProblem("llmgateway_networklist", str(list_id), f"network list {name}", message))
    return lists


def _usable(text: str) -> tuple[tuple[str, ...], str]:
    """The entries that are networks, and those that are not as one text."""
    try:
        entries = texts(text)
    except ValueError:
        return (), text[:100]
    bad = []
    for entry in entries:
        try:
            Networks.of((entry,))
        except ValueError:
            bad.append(entry)
    return tuple(entry for entry in entries if entry not in bad), ", ".join(bad)[:100]


def load_ties(key_ids: Collection[int] | None = None, *, pause: Callable[[], None]) -> dict[int, tuple[int, ...]]:
    """The network lists of each key that has some."""
    rows = KeyNetwork.objects.order_by("key_id", "network_list_id")
    if key_ids is not None:
        rows = rows.filter(key_id__in=key_ids)
    ties: dict[int, tuple[int, ...]] = {}
    for key_id, list_id in in_slices(rows.values_list("key_id", "network_list_id"), pause):
        ties[key_id] = (*ties.get(key_id, ()), list_id)
    return ties
