"""The arena: tuned optimizers compared by perplexity, tokens, seconds and bytes of state."""
