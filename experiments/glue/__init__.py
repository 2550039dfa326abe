"""Fine-tuning of an encoder on the tasks of GLUE: settings, data, a run, its record, and the table of all records."""
