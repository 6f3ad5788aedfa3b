"""ORM rows to the frozen snapshot: the only door from the database to the hot path.

What cannot be used denies and is listed in `Snapshot.problems`; it never keeps the rest from loading.
"""

from __future__ import annotations

from llmgateway.config_loader._garbage import give_back, keep, no_collection
from llmgateway.config_loader._lent import LentKeys, exchanged, held_by
from llmgateway.config_loader._load import load_snapshot
from llmgateway.config_loader._patch import FILE, MOST_CHANGES, Change, patch_snapshot

__all__ = [
    "FILE",
    "MOST_CHANGES",
    "Change",
    "LentKeys",
    "exchanged",
    "give_back",
    "held_by",
    "keep",
    "load_snapshot",
    "no_collection",
    "patch_snapshot",
]
