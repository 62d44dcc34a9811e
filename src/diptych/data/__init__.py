"""Cards, shards, sample order, loading, image and text processing."""
