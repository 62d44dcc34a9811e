"""Tiny raw folders in the true format of each dataset, generated: what the tests and first tries run on."""
