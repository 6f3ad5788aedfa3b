import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("llmgateway", "0008_routing_settings"),
    ]

    operations = [
        migrations.AddField(
            model_name="team",
            name="own_keys",
            field=models.CharField(
                choices=[("inherit", "As the settings say"), ("allow", "Allowed"), ("refuse", "Refused")],
                default="inherit",
                help_text="Whether requests with this team's keys may bring a key of their own at a provider, which pays for them.",
                max_length=8,
                verbose_name="own keys at providers",
            ),
        ),
        migrations.AlterField(
            model_name="bannedkey",
            name="digest",
            field=models.CharField(
                help_text="As usage rows have it under Own key.",
                max_length=64,
                unique=True,
                validators=[
                    django.core.validators.RegexValidator("^[0-9a-f]{64}$", "Copy all 64 characters of the digest.")
                ],
            ),
        ),
        migrations.AlterField(
            model_name="gatewaysettings",
            name="foreign_keys",
            field=models.BooleanField(
                default=False,
                help_text="Below the names of providers, a key that is not the gateway's is sent on as the provider's. Beside a gateway key, a key may come for a provider that the caller names, unless the team says otherwise. Such calls count for limits, are recorded by the key's digest, and cost nothing here.",
                verbose_name="callers may bring their own keys",
            ),
        ),
    ]
