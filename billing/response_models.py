"""Responses of OpenAI's Responses API that the gateway keeps, where their provider does not."""

from __future__ import annotations

from django.db import models


class KeptTurn(models.Model):
    """One response and what it answered. Written by the data plane alone; what was said is compressed, never shown."""

    response_id = models.CharField(max_length=200, unique=True)
    thread_id = models.CharField(max_length=200, db_index=True, help_text="The response that began the conversation.")
    previous_id = models.CharField(max_length=200, blank=True, default="")
    team_id = models.BigIntegerField(default=0)
    key_id = models.CharField(max_length=64)
    used_at = models.DateTimeField(db_index=True, help_text="When the conversation was gone on with last.")
    packed = models.BinaryField()
    size = models.BigIntegerField(help_text="Bytes before they were compressed.")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.response_id
