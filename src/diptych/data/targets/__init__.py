"""Target sets: the texts that a model chooses from, as names, synonyms, prompts and tokens."""
