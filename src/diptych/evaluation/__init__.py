"""Running a task over a split of a prepared dataset."""
