import django.core.validators
import django.db.models.deletion
import llmgateway.rule_conditions
import llmgateway.validators
import providers.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("providers", "0006_read_on"),
    ]

    operations = [
        migrations.CreateModel(
            name="AliasFallback",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "cause",
                    models.CharField(
                        choices=[
                            ("error", "Errors"),
                            ("rate_limit", "Rate limits"),
                            ("context_too_long", "Context too long"),
                            ("content_policy", "Content policy"),
                            ("budget_exhausted", "Budget exhausted"),
                        ],
                        default="error",
                        max_length=20,
                        verbose_name="when",
                    ),
                ),
                ("position", models.PositiveSmallIntegerField(default=0)),
            ],
            options={
                "verbose_name": "fallback",
                "ordering": ("position", "id"),
            },
        ),
        migrations.CreateModel(
            name="AliasRule",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200, validators=[llmgateway.validators.validate_name])),
                (
                    "when",
                    models.TextField(
                        help_text='An expression (CEL), such as request.task_type == "summarization".',
                        validators=[llmgateway.rule_conditions.validate_condition],
                    ),
                ),
                ("position", models.PositiveSmallIntegerField(default=0)),
                ("enabled", models.BooleanField(default=True)),
            ],
            options={
                "verbose_name": "rule",
                "ordering": ("position", "id"),
            },
        ),
        migrations.AddField(
            model_name="aliastarget",
            name="canary_percent",
            field=models.FloatField(
                default=0,
                help_text="Percent of the requests that try this target first; the others are balanced without it. 0: no canary.",
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(100),
                ],
                verbose_name="canary",
            ),
        ),
        migrations.AddField(
            model_name="aliastarget",
            name="target_alias",
            field=models.ForeignKey(
                blank=True,
                help_text="In place of a deployment: another alias, whose targets answer.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="nested_in",
                to="providers.modelalias",
                verbose_name="or alias",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="draining",
            field=models.BooleanField(
                default=False,
                help_text="What runs goes on, nothing new is sent here. Unlike a switched off one it stays in sight.",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="probe_enabled",
            field=models.BooleanField(
                default=False,
                help_text="From time to time, whether or not there are requests. One that is not well gets none.",
                verbose_name="asked whether it is well",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="probe_healthy_after",
            field=models.PositiveSmallIntegerField(
                default=2,
                help_text="Successes in a row that put it back.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1000),
                ],
                verbose_name="back after",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="probe_interval_s",
            field=models.FloatField(
                default=10,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="every",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="probe_path",
            field=models.CharField(
                default="/models",
                help_text="Below the provider's base URL. Any answer but an error counts.",
                max_length=200,
                validators=[providers.validators.validate_probe_path],
                verbose_name="address of the probe",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="probe_timeout_s",
            field=models.FloatField(
                default=5,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.1),
                    django.core.validators.MaxValueValidator(600),
                ],
                verbose_name="patience",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="probe_unhealthy_after",
            field=models.PositiveSmallIntegerField(
                default=3,
                help_text="Failures in a row that take it out.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(1000),
                ],
                verbose_name="out after",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="cache_embeddings",
            field=models.ForeignKey(
                blank=True,
                help_text="The alias whose model turns questions into vectors. What it costs is charged to the caller.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="embeds_for",
                to="providers.modelalias",
                verbose_name="embeddings from",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="cache_generation",
            field=models.PositiveIntegerField(
                default=0, editable=False, help_text="Raised to forget every answer that was kept."
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="cache_mode",
            field=models.CharField(
                choices=[("exact", "The same question"), ("semantic", "A question that means the same")],
                default="exact",
                help_text="Questions that mean the same are found by their embeddings, best in PostgreSQL with pgvector.",
                max_length=16,
                verbose_name="answers serve",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="cache_similarity",
            field=models.FloatField(
                default=0.95,
                help_text="Cosine similarity from which on two questions mean the same.",
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.5),
                    django.core.validators.MaxValueValidator(1),
                ],
                verbose_name="least similarity",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="cache_ttl_s",
            field=models.FloatField(
                blank=True,
                help_text="Seconds. Empty: answers are not kept. The settings have the one switch for all caches.",
                null=True,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(31536000),
                ],
                verbose_name="answers are kept for",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="first_token_timeout_s",
            field=models.FloatField(
                blank=True,
                help_text="Seconds. Empty: what each deployment says.",
                null=True,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.001),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="time to the first token",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="hedge_after_s",
            field=models.FloatField(
                blank=True,
                help_text="Seconds without a first token. Empty: longer than 95 of 100 first tokens of that target took.",
                null=True,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.001),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="after",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="hedge_max_pico_usd",
            field=models.BigIntegerField(
                blank=True,
                help_text="USD. A second target is asked when the first is slow, if that is not expected to cost more. Empty or 0: it is not.",
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(4000000000000000000),
                ],
                verbose_name="a second attempt may cost",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="idle_timeout_s",
            field=models.FloatField(
                blank=True,
                help_text="Seconds. Empty: what each deployment says.",
                null=True,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.001),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="time between tokens",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="mirror_alias",
            field=models.ForeignKey(
                blank=True,
                help_text="Requests are asked of this alias too. Nobody gets its answers, and it is accounted for separately.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="mirrors",
                to="providers.modelalias",
                verbose_name="mirror to",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="mirror_percent",
            field=models.FloatField(
                default=0,
                help_text="Percent of the requests that are mirrored.",
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(100),
                ],
                verbose_name="share of requests",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="parameter_defaults",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text='For requests that do not say, in OpenAI\'s words: {"temperature": 0.2}.',
                validators=[providers.validators.validate_parameters],
                verbose_name="defaults",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="parameter_overrides",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text='Whatever requests say: {"max_tokens": 1000}. null removes a field.',
                validators=[providers.validators.validate_parameters],
                verbose_name="overrides",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="retry_attempts",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="Of one target, after its first attempt. 0: none. Empty: what the settings say.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(20)],
                verbose_name="retries",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="sticky",
            field=models.CharField(
                blank=True,
                choices=[("", "Nobody"), ("key", "Each API key"), ("session", "Each session")],
                default="",
                help_text="Whose requests go to the same target as long as it can answer, so that the provider's prompt cache is of use.",
                max_length=16,
                verbose_name="stays with one target",
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="total_timeout_s",
            field=models.FloatField(
                blank=True,
                help_text="Seconds. Empty: what each deployment says.",
                null=True,
                validators=[
                    llmgateway.validators.validate_finite,
                    django.core.validators.MinValueValidator(0.001),
                    django.core.validators.MaxValueValidator(86400),
                ],
                verbose_name="time in all",
            ),
        ),
        migrations.AlterField(
            model_name="aliastarget",
            name="deployment",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="alias_targets",
                to="providers.deployment",
            ),
        ),
        migrations.AlterField(
            model_name="modelalias",
            name="strategy",
            field=models.CharField(
                choices=[
                    ("weighted", "Weighted"),
                    ("round_robin", "Round robin (in turn)"),
                    ("least_in_flight", "Least in flight"),
                    ("lowest_latency", "Lowest latency (to the first token)"),
                    ("lowest_cost", "Lowest cost"),
                    ("priority", "Priority (in order)"),
                ],
                default="weighted",
                help_text="Which target is tried first; the others follow when it fails.",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="aliastarget",
            constraint=models.UniqueConstraint(fields=("alias", "target_alias"), name="one_target_per_nested_alias"),
        ),
        migrations.AddConstraint(
            model_name="aliastarget",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("deployment__isnull", False), ("target_alias__isnull", True)),
                    models.Q(("deployment__isnull", True), ("target_alias__isnull", False)),
                    _connector="OR",
                ),
                name="target_is_deployment_or_alias",
                violation_error_message="Choose a deployment or an alias, one of the two.",
            ),
        ),
        migrations.AddField(
            model_name="aliasfallback",
            name="alias",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="fallbacks", to="providers.modelalias"
            ),
        ),
        migrations.AddField(
            model_name="aliasfallback",
            name="use",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="falls_back_for", to="providers.modelalias"
            ),
        ),
        migrations.AddField(
            model_name="aliasrule",
            name="alias",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="rules", to="providers.modelalias"
            ),
        ),
        migrations.AddField(
            model_name="aliasrule",
            name="use",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="used_by_rules", to="providers.modelalias"
            ),
        ),
        migrations.AddConstraint(
            model_name="aliasfallback",
            constraint=models.UniqueConstraint(fields=("alias", "cause", "use"), name="one_fallback_per_cause"),
        ),
        migrations.AddConstraint(
            model_name="aliasrule",
            constraint=models.UniqueConstraint(fields=("alias", "name"), name="one_rule_per_name"),
        ),
    ]
