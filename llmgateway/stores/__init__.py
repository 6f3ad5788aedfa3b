"""Counters of limits and budgets behind one protocol: `memory` for one process, others to come."""
