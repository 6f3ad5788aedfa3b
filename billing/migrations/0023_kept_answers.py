from django.db import migrations, models

CACHE = models.CharField(
    max_length=8,
    choices=[
        ('hit', 'Kept answer'),
        ('semantic', 'Kept answer of a similar question'),
        ('miss', 'No kept answer'),
    ],
    blank=True,
    default='',
    help_text='Whether a kept answer served. Empty: none was looked for.',
)
SAVED = models.BigIntegerField('saved', default=0, help_text='What it would have cost without the kept answer.')
MIRROR_OF = models.CharField(
    max_length=64, blank=True, default='', help_text='The request that this mirrors. Its answer went to nobody.'
)
COLUMNS = (('cache', CACHE, "''"), ('saved_pico_usd', SAVED, '0'), ('mirror_of', MIRROR_OF, "''"))


def add_columns(apps, schema_editor):
    """Columns with constant defaults take no time, however many rows there are; Django's way copies the table on SQLite."""
    for name, field, default in COLUMNS:
        kind = field.db_type(schema_editor.connection)
        schema_editor.execute(
            f'ALTER TABLE billing_usagerecord ADD COLUMN "{name}" {kind} NOT NULL DEFAULT {default}'
        )


def drop_columns(apps, schema_editor):
    for name, _, _ in COLUMNS:
        schema_editor.execute(f'ALTER TABLE billing_usagerecord DROP COLUMN "{name}"')


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0022_path'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(model_name='usagerecord', name=name, field=field) for name, field, _ in COLUMNS
            ],
            database_operations=[migrations.RunPython(add_columns, drop_columns)],
        ),
    ]
