"""Training objectives: pure functions on tensors, and thin modules for those with parameters."""
