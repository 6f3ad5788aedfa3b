from django.db import migrations, models
from django.db.models import Q

FIELDS = {
    "admitted_at": models.DateTimeField(
        blank=True, null=True, help_text="When it counted for limits and budgets. Empty: when it started."
    ),
    "over_hold": models.BooleanField(default=False, help_text="It cost more than strict budgets held for it."),
    "needs_review": models.BooleanField(
        default=False, help_text="What it cost is a guess, because the process died during an upstream call."
    ),
    "reserved_pico_usd": models.BigIntegerField(
        default=0,
        help_text="Besides its cost, strict budgets are charged this until it is reviewed.",
        verbose_name="reserved",
    ),
    "reviewed_at": models.DateTimeField(blank=True, null=True),
    "reviewed_by": models.CharField(blank=True, default="", max_length=200),
}
DEFAULTS = {"over_hold": "false", "needs_review": "false", "reserved_pico_usd": "0", "reviewed_by": "''"}


def add_columns(apps, schema_editor):
    """A column with a constant default takes no time, however many rows there are; Django's way copies the table."""
    model = apps.get_model("billing", "UsageRecord")
    for name in FIELDS:
        kind = model._meta.get_field(name).db_type(schema_editor.connection)
        rest = f"NOT NULL DEFAULT {DEFAULTS[name]}" if name in DEFAULTS else "NULL"
        schema_editor.execute(f'ALTER TABLE billing_usagerecord ADD COLUMN "{name}" {kind} {rest}')


def drop_columns(apps, schema_editor):
    for name in FIELDS:
        schema_editor.execute(f'ALTER TABLE billing_usagerecord DROP COLUMN "{name}"')


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0005_every_budget"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(model_name="usagerecord", name=name, field=field) for name, field in FIELDS.items()
            ],
        ),
        migrations.RunPython(add_columns, drop_columns),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(condition=Q(needs_review=True), fields=["started_at"], name="usage_for_review"),
        ),
    ]
