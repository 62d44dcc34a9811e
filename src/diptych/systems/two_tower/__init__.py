"""The plain contrastive baseline: one transformer for pictures, one for texts, nothing shared."""
