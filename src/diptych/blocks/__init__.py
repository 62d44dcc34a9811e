"""Network pieces that more than one system uses."""
