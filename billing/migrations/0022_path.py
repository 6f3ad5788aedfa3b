from django.db import migrations, models

PATH = models.CharField(max_length=128, blank=True, default='', help_text='Where it was called.')


def add_column(apps, schema_editor):
    """A column with a constant default takes no time, however many rows there are; Django's way copies the table on SQLite."""
    kind = PATH.db_type(schema_editor.connection)
    schema_editor.execute(f"ALTER TABLE billing_usagerecord ADD COLUMN \"path\" {kind} NOT NULL DEFAULT ''")


def drop_column(apps, schema_editor):
    schema_editor.execute('ALTER TABLE billing_usagerecord DROP COLUMN "path"')


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0021_kept_objects'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.AddField(model_name='usagerecord', name='path', field=PATH)],
            database_operations=[migrations.RunPython(add_column, drop_column)],
        ),
    ]
