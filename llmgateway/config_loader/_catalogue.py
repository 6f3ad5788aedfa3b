"""What models can do, by provider and model."""

from __future__ import annotations

from llmgateway.config_loader._values import as_text, texts
from llmgateway.pipeline.snapshot import Capabilities, ConfigProblem
from providers.models import CatalogueEntry

Catalogue = dict[tuple[int, str], Capabilities]

_COLUMNS = ("id", "provider_id", "model", "context_window", "max_output_tokens", "tools", "reasoning")
_AS_TEXT = ("input_modalities", "output_modalities", "deprecated_on")


def load_catalogue(problems: list[ConfigProblem]) -> Catalogue:
    rows = CatalogueEntry.objects.order_by("id").values(*_COLUMNS, **{f"{name}_": as_text(name) for name in _AS_TEXT})
    catalogue: Catalogue = {}
    for row in rows.iterator(chunk_size=500):
        try:
            modalities = texts(row["input_modalities_"]), texts(row["output_modalities_"])
        except ValueError:
            message = "its modalities cannot be read, so nothing is said of what it can do; enter them again."
            problems.append(
                ConfigProblem("providers_catalogueentry", str(row["id"]), f"catalogue entry {row['model']}", message)
            )
            continue
        catalogue[row["provider_id"], row["model"]] = Capabilities(
            row["context_window"] or None,
            row["max_output_tokens"] or None,
            *modalities,
            row["tools"],
            row["reasoning"],
            row["deprecated_on_"] or "",
        )
    return catalogue
