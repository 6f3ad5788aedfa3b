from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('providers', '0007_routing_rules'),
    ]

    operations = [
        migrations.AddField(
            model_name='deployment',
            name='health_generation',
            field=models.PositiveIntegerField(default=0, editable=False, help_text='Raised to forget what is known of its health.'),
        ),
    ]
