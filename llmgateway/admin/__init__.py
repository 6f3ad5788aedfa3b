"""The admin of access: keys, teams, networks, limits, people, and the record of changes. One noun per module."""

from llmgateway.admin import keys, limits, people, records, system, teams

__all__ = ["keys", "limits", "people", "records", "system", "teams"]
