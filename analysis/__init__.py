"""From the records of finished runs to comparisons, tables, figures, the report page, and structures of the Fisher."""
