"""LLaMA for pretraining. Nothing is imported here, so that reading `models.model_settings` loads no torch."""
