from django.db import migrations, models

import llmgateway.validators


class Migration(migrations.Migration):
    dependencies = [
        ("providers", "0003_max_output_tokens"),
    ]

    operations = [
        migrations.AddField(
            model_name="modelalias",
            name="replacement",
            field=models.CharField(
                blank=True,
                default="",
                help_text="The model that applications should call in its place; named in those answers.",
                max_length=200,
                validators=[llmgateway.validators.validate_name],
            ),
        ),
        migrations.AddField(
            model_name="modelalias",
            name="retires_at",
            field=models.DateTimeField(
                blank=True,
                help_text="From then on calls are answered 404 `model_retired`. Until then answers announce it in their headers.",
                null=True,
            ),
        ),
    ]
