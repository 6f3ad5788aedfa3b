"""Values to entries: which fields each noun has, what is not supported yet, and which file is whole."""

from __future__ import annotations

from llmgateway.config_file.entries import Document
from llmgateway.config_file.fields import FieldReader
from llmgateway.config_file.problems import Problems
from llmgateway.config_file.reading import Fields
from llmgateway.config_file.schema import access, routes
from llmgateway.config_file.schema.limits import EVERYONE, read_budgets, read_limits
from llmgateway.config_file.schema.prices import read_prices
from llmgateway.config_file.schema.reporters import read_reporters
from llmgateway.config_file.schema.settings import read_settings

VERSION = 1
"""Of the format. A file of another version is refused whole."""


def read_document(tree: Fields, problems: Problems) -> Document:
    """Every entry that could be read. What is wrong is added to `problems`."""
    reader = FieldReader(tree, problems)
    version = reader.integer("version", required=True)
    if version is not None and version != VERSION:
        reader.add("version", f"This gateway reads version {VERSION} of the format.")
    document = Document()
    routes.read_routes(reader, document)
    document.prices = read_prices(reader)
    access.read_access(reader, document)
    document.limits = read_limits(reader, EVERYONE)
    document.budgets = read_budgets(reader, EVERYONE)
    read_reporters(reader, document)
    document.settings = read_settings(reader)
    reader.finish()
    return document
