"""Generation by continuous batching."""
