import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import llmgateway.validators
import providers.validators


class Migration(migrations.Migration):
    dependencies = [
        ("providers", "0004_retirement"),
    ]

    operations = [
        migrations.AlterField(
            model_name="deployment",
            name="max_output_tokens",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="The largest cap that the model takes. A strict budget adds no larger one to requests without a cap. Empty: what the catalogue says, else 8,192.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
                verbose_name="most output tokens of the model",
            ),
        ),
        migrations.CreateModel(
            name="CatalogueEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "model",
                    models.CharField(
                        help_text="The provider's name for the model.",
                        max_length=200,
                        validators=[llmgateway.validators.validate_name],
                    ),
                ),
                (
                    "context_window",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Tokens that question and answer may have together.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="context window",
                    ),
                ),
                (
                    "max_output_tokens",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Holds for deployments that do not say it themselves; strict budgets cap output by it.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="most output tokens",
                    ),
                ),
                (
                    "input_modalities",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Such as text, image, audio, file.",
                        validators=[providers.validators.validate_modalities],
                    ),
                ),
                (
                    "output_modalities",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Such as text, image, audio.",
                        validators=[providers.validators.validate_modalities],
                    ),
                ),
                ("tools", models.BooleanField(blank=True, help_text="Whether it calls tools.", null=True)),
                (
                    "reasoning",
                    models.BooleanField(blank=True, help_text="Whether it thinks before it answers.", null=True),
                ),
                (
                    "deprecated_on",
                    models.DateField(blank=True, help_text="From when on the provider advises against it.", null=True),
                ),
                (
                    "source",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Empty: somebody's own. `update-prices` keeps those of the catalogue up to date, and leaves own ones.",
                        max_length=100,
                    ),
                ),
                (
                    "provider",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="catalogue", to="providers.provider"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "catalogue entries",
                "ordering": ("provider__name", "model"),
                "constraints": [models.UniqueConstraint(fields=("provider", "model"), name="one_entry_per_model")],
            },
        ),
    ]
