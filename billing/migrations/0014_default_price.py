from django.db import migrations, models

FIELD = models.BooleanField(
    'at the default price',
    default=False,
    help_text='No price of the model was in force, and it was charged at the default price of the settings.',
)


def add_column(apps, schema_editor):
    """A column with a constant default takes no time, however many rows there are; Django's way copies the table."""
    kind = FIELD.db_type(schema_editor.connection)
    schema_editor.execute(f'ALTER TABLE billing_usagerecord ADD COLUMN "default_price" {kind} NOT NULL DEFAULT false')


def drop_column(apps, schema_editor):
    schema_editor.execute('ALTER TABLE billing_usagerecord DROP COLUMN "default_price"')


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0010_rarely_asked'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(model_name='usagerecord', name='default_price', field=FIELD),
                migrations.AlterField(
                    model_name='usagerecord',
                    name='priced',
                    field=models.BooleanField(
                        default=True,
                        help_text='Whether a price of the model was in force; unpriced is not free.',
                    ),
                ),
            ],
        ),
        migrations.RunPython(add_column, drop_column),
    ]
