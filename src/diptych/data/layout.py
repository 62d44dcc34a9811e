"""How the files of a prepared dataset are called."""

FORMAT = 1
"""Version of the layout of prepared datasets."""
INFO = "dataset.json"
INDEX = "index.parquet"
WORK = ".prepare"
"""Folder inside a dataset while it is being prepared."""
