import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("llmgateway", "0006_retry_factor_and_jitter"),
    ]

    operations = [
        migrations.CreateModel(
            name="BannedKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "digest",
                    models.CharField(
                        help_text="As usage rows have it in place of a key's id.",
                        max_length=64,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[0-9a-f]{64}$", "Copy all 64 characters of the digest."
                            )
                        ],
                    ),
                ),
                ("note", models.CharField(blank=True, default="", max_length=200)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ("-created_at", "-id"),
            },
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="foreign_keys",
            field=models.BooleanField(
                default=False,
                help_text="Below the names of providers, a key that is not the gateway's is sent on as the provider's. Such calls count for everyone's limits, are recorded by the key's digest, and cost nothing here.",
                verbose_name="callers may bring their own keys",
            ),
        ),
    ]
