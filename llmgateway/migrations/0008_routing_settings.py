import django.core.validators
import django.db.models.deletion
import llmgateway.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("llmgateway", "0007_foreign_keys"),
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="may_bypass_health",
            field=models.BooleanField(
                default=False,
                help_text="Its requests may ask to be sent to deployments that are left alone because they fail; for staff.",
                verbose_name="may bypass health",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="priority",
            field=models.SmallIntegerField(
                default=0,
                help_text="When requests must wait for their turn, those of higher priority go first. From -100 to 100.",
                validators=[
                    django.core.validators.MinValueValidator(-100),
                    django.core.validators.MaxValueValidator(100),
                ],
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="cache_enabled",
            field=models.BooleanField(
                default=False,
                help_text="The one switch of all caches. Which answers are kept, and for how long, aliases and requests say.",
                verbose_name="keep answers",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="cache_generation",
            field=models.PositiveIntegerField(
                default=0, editable=False, help_text="Raised to forget every answer that was kept."
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="cache_max_mb",
            field=models.PositiveIntegerField(
                default=64,
                help_text="Of one worker, where they are kept in memory.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1048576),
                ],
                verbose_name="memory for answers (MB)",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="cache_ttl_s",
            field=models.FloatField(
                default=300,
                help_text="Where a request asks for it and the alias does not say.",
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(31536000),
                ],
                verbose_name="answers are kept for (s)",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="circuit_failures",
            field=models.PositiveSmallIntegerField(
                default=5,
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1000),
                ],
                verbose_name="failures that open a circuit",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="circuit_mode",
            field=models.CharField(
                choices=[("enforce", "Open"), ("log", "Only note what they would do"), ("off", "Off")],
                default="enforce",
                help_text="A deployment that fails again and again is left alone for a while.",
                max_length=8,
                verbose_name="circuits",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="circuit_open_s",
            field=models.FloatField(
                default=30,
                help_text="Then one request tries whether it is well again.",
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.1),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="open for (s)",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="circuit_wait_s",
            field=models.FloatField(
                default=2,
                help_text="Then the answer is 503 with `Retry-After`.",
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(600),
                ],
                verbose_name="wait when all are out (s)",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="circuit_window_s",
            field=models.FloatField(
                default=120,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="within (s)",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="max_in_flight",
            field=models.PositiveIntegerField(
                default=2000,
                help_text="Of one worker; further ones wait for their turn. 0: any number.",
                verbose_name="requests at once",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="max_queued",
            field=models.PositiveIntegerField(
                default=1000,
                help_text="Of one worker; further ones are answered 503 at once.",
                verbose_name="requests that wait",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="queue_wait_s",
            field=models.FloatField(
                default=10,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(3600),
                ],
                verbose_name="longest wait for a turn (s)",
            ),
        ),
        migrations.AddField(
            model_name="gatewaysettings",
            name="vendor_models",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text='The alias that a vendor\'s name stands for in the simple API: {"openai": "gpt-4o-mini"}. Those that are not named here: the first alias that leads to the provider.',
                validators=[llmgateway.validators.validate_alias_names],
                verbose_name="models of vendors",
            ),
        ),
        migrations.CreateModel(
            name="KeyTenant",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="key_tenants", to="llmgateway.apikey"
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="key_tenants", to="llmgateway.team"
                    ),
                ),
            ],
            options={
                "verbose_name": "tenant",
            },
        ),
        migrations.AddField(
            model_name="apikey",
            name="tenants",
            field=models.ManyToManyField(
                blank=True,
                help_text="Other teams that it may act for. Their limits and budgets then count in place of its own team's; those of the key itself always do.",
                related_name="tenant_keys",
                through="llmgateway.KeyTenant",
                to="llmgateway.team",
            ),
        ),
        migrations.AddConstraint(
            model_name="keytenant",
            constraint=models.UniqueConstraint(fields=("key", "team"), name="one_tenant_per_key"),
        ),
    ]
