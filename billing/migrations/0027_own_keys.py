from django.db import migrations, models

OWN_KEY = models.CharField(
    max_length=64,
    blank=True,
    default='',
    help_text="Digest of the caller's own key at the provider, whose account paid. Empty: the gateway's did.",
)


def add_column(apps, schema_editor):
    """A column with a constant default takes no time, however many rows there are; Django's way copies the table on SQLite."""
    kind = OWN_KEY.db_type(schema_editor.connection)
    schema_editor.execute(f"ALTER TABLE billing_usagerecord ADD COLUMN \"own_key\" {kind} NOT NULL DEFAULT ''")


def drop_column(apps, schema_editor):
    schema_editor.execute('ALTER TABLE billing_usagerecord DROP COLUMN "own_key"')


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0026_credit_used'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.AddField(model_name='usagerecord', name='own_key', field=OWN_KEY)],
            database_operations=[migrations.RunPython(add_column, drop_column)],
        ),
    ]
