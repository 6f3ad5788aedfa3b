from django.db import migrations, models

import billing.unit_prices

UNITS = models.JSONField(
    null=True,
    blank=True,
    help_text='What is not counted in tokens, by name: milliseconds of sound, characters, images, searches.',
)
REPORTED = models.BigIntegerField(
    'cost as reported',
    null=True,
    blank=True,
    help_text='What the provider says that it cost. Empty: it does not.',
)
SOURCE = models.CharField(
    max_length=16,
    choices=[
        ('provider', 'Reported by the provider'),
        ('estimated', 'Estimated'),
        ('counted', 'Counted in the request'),
        ('none', 'Nothing used'),
    ],
    default='none',
)


def add_columns(apps, schema_editor):
    """Empty columns take no time, however many rows there are; Django's way copies the table on SQLite."""
    connection = schema_editor.connection
    units, reported = UNITS.db_type(connection), REPORTED.db_type(connection)
    schema_editor.execute(f'ALTER TABLE billing_usagerecord ADD COLUMN "units" {units} NULL')
    schema_editor.execute(f'ALTER TABLE billing_usagerecord ADD COLUMN "reported_cost_pico_usd" {reported} NULL')


def drop_columns(apps, schema_editor):
    schema_editor.execute('ALTER TABLE billing_usagerecord DROP COLUMN "units"')
    schema_editor.execute('ALTER TABLE billing_usagerecord DROP COLUMN "reported_cost_pico_usd"')


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0015_day_sums'),
    ]

    operations = [
        migrations.AddField(
            model_name='price',
            name='units',
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text='Pico-dollars of what is not counted in tokens, by unit: second, character, image, search.',
                validators=[billing.unit_prices.validate_units],
            ),
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(model_name='usagerecord', name='units', field=UNITS),
                migrations.AddField(model_name='usagerecord', name='reported_cost_pico_usd', field=REPORTED),
                migrations.AlterField(model_name='usagerecord', name='usage_source', field=SOURCE),
            ],
        ),
        migrations.RunPython(add_columns, drop_columns),
    ]
