from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ('billing', '0025_ways'),
    ]

    operations = [
        migrations.AlterField(
            model_name='budgetcredit',
            name='expires_at',
            field=models.DateTimeField(
                blank=True,
                help_text='From then on what was not spent no longer adds to the limit. Empty: never.',
                null=True,
            ),
        ),
        migrations.AddField(
            model_name='budgetcredit',
            name='used_pico_usd',
            field=models.BigIntegerField(
                blank=True,
                editable=False,
                help_text='What of it was spent when it expired, and stays part of the limit. Empty: not known yet.',
                null=True,
                verbose_name='used',
            ),
        ),
    ]
