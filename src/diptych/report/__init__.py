"""Runs and datasets as self-contained HTML pages."""
