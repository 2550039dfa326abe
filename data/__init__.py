"""Text to token rows: sources, tokenizer, order of the documents, packing, and a loader whose state can be saved.

`data.loader.TrainingData` gives the rows to train on, `data.held_out.EvaluationData` those to evaluate on. Nothing is
imported here, so that reading `data.data_settings` loads neither torch nor transformers.
"""
