"""What providers keep for callers: which team made it, and which request paid for it."""

from __future__ import annotations

from django.db import models

LONGEST_MODEL = 200


class KeptObject(models.Model):
    """A file, batch or other object at a provider. Written by the data plane alone."""

    provider = models.CharField(max_length=200)
    object_id = models.CharField(max_length=200, unique=True, help_text="As the provider calls it.")
    team_id = models.BigIntegerField(default=0)
    key_id = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    model = models.CharField(
        max_length=LONGEST_MODEL,
        blank=True,
        default="",
        help_text="Of the batch that it belongs to, as far as the gateway has seen it.",
    )
    charged_by = models.CharField(
        max_length=40, blank=True, default="", help_text="The request whose row has the cost of a batch's results."
    )
    charged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.provider}/{self.object_id}"
