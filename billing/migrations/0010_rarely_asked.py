from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0009_counted_requests"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(condition=~Q(end_user=""), fields=["end_user", "started_at"], name="usage_by_end_user"),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(
                condition=~Q(client_request_id=""),
                fields=["client_request_id", "started_at"],
                name="usage_by_client_request",
            ),
        ),
    ]
