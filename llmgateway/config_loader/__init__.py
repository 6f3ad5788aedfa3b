"""ORM rows to the frozen snapshot: the only door from the database to the hot path.

What cannot be used denies and is listed in `Snapshot.problems`; it never keeps the rest from loading.
"""

from __future__ import annotations

from llmgateway.config_loader._garbage import give_back
from llmgateway.config_loader._load import load_snapshot
from llmgateway.config_loader._patch import FILE, MOST_CHANGES, Change, patch_snapshot

__all__ = ["FILE", "MOST_CHANGES", "Change", "give_back", "load_snapshot", "patch_snapshot"]
