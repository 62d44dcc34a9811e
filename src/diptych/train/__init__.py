"""The engine: the only training loop."""
