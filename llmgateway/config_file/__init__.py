"""Configuration as code: the YAML file that describes providers, aliases, prices, teams and keys.

A file goes through four steps, one module or package each: `reading` (text to values that know their line),
`schema` (values to typed entries, unknown fields refused), `apply` (entries to rows, in one transaction, with a
diff) and, the other way round, `export` (rows to text). The rows are ordinary ones: there is no second source of truth.
"""
