"""Diptych: vision-language pre-training, from raw datasets to reports."""

__version__ = "0.1.0"
