"""A video transformer and a Q-Former, aligned with texts: stage 1 of VideoChat2."""
