from django.db import migrations, models

VIA = models.CharField(
    max_length=2010,
    blank=True,
    default='',
    help_text='The aliases between the one asked for and the target, in order.',
)


def add_column(apps, schema_editor):
    """A column with a constant default takes no time, however many rows there are; Django's way copies the table on SQLite."""
    kind = VIA.db_type(schema_editor.connection)
    schema_editor.execute(f"ALTER TABLE billing_usagerecord ADD COLUMN \"via\" {kind} NOT NULL DEFAULT ''")


def drop_column(apps, schema_editor):
    schema_editor.execute('ALTER TABLE billing_usagerecord DROP COLUMN "via"')


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0024_kept_turns'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.AddField(model_name='usagerecord', name='via', field=VIA)],
            database_operations=[migrations.RunPython(add_column, drop_column)],
        ),
        migrations.AddIndex(
            model_name='usagerecord',
            index=models.Index(fields=('started_at',), condition=~models.Q(via=''), name='usage_by_way'),
        ),
    ]
