from django.db import migrations, models
from django.db.models import F

FIELDS = {
    'counted': models.BooleanField(
        default=True, help_text='Whether it counts for limits of requests: not where no provider did anything for it.'
    ),
    'input_estimate': models.BigIntegerField(
        default=0, help_text='Input tokens as they were estimated before the request was sent; 0: not known.'
    ),
    'input_bytes': models.BigIntegerField(default=0, help_text='Size of the body; 0: not known.'),
}
DEFAULTS = {'counted': 'true', 'input_estimate': '0', 'input_bytes': '0'}
KEY = ('hour', 'team_id', 'key_id', 'alias', 'provider', 'deployment', 'model', 'status')


def add_columns(apps, schema_editor):
    """A column with a constant default takes no time, however many rows there are; Django's way copies the table."""
    model = apps.get_model('billing', 'UsageRecord')
    for name in FIELDS:
        kind = model._meta.get_field(name).db_type(schema_editor.connection)
        schema_editor.execute(
            f'ALTER TABLE billing_usagerecord ADD COLUMN "{name}" {kind} NOT NULL DEFAULT {DEFAULTS[name]}'
        )


def drop_columns(apps, schema_editor):
    for name in FIELDS:
        schema_editor.execute(f'ALTER TABLE billing_usagerecord DROP COLUMN "{name}"')


def count_requests(apps, schema_editor):
    """What went before is not told apart: every request that was admitted counts, as every row does."""
    rollups = apps.get_model('billing', 'UsageRollup').objects.using(schema_editor.connection.alias)
    rollups.exclude(status='refused').update(counted_requests=F('requests'))


def do_nothing(apps, schema_editor):
    """The columns go, and with them what they say."""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0008_alerts'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(model_name='usagerecord', name=name, field=field)
                for name, field in FIELDS.items()
            ],
        ),
        migrations.RunPython(add_columns, drop_columns),
        migrations.RemoveConstraint(model_name='usagerollup', name='one_rollup_per_hour'),
        migrations.AddField(
            model_name='usagerollup',
            name='code',
            field=models.CharField(
                blank=True, default='', help_text='Why requests were refused: the error code.', max_length=64
            ),
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='counted_requests',
            field=models.BigIntegerField(default=0, help_text='Those that count for limits of requests.'),
        ),
        migrations.AddConstraint(
            model_name='usagerollup',
            constraint=models.UniqueConstraint(fields=(*KEY, 'code'), name='one_rollup_per_hour'),
        ),
        migrations.RunPython(count_requests, do_nothing),
        migrations.CreateModel(
            name='Reconciliation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('finished_at', models.DateTimeField()),
                ('since', models.DateTimeField(help_text='The first hour that was compared.')),
                ('hours', models.PositiveIntegerField(help_text='Hours that were compared.')),
                (
                    'drifted',
                    models.PositiveIntegerField(
                        help_text='Rows of sums that differ from the ledger and were not repaired.'
                    ),
                ),
                (
                    'repaired',
                    models.PositiveIntegerField(help_text='Rows of sums that differed and were repaired.'),
                ),
            ],
            options={'ordering': ('-id',)},
        ),
    ]
