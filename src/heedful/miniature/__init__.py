"""The built-in world: corpus, instructions and simulated labelers, all generated from a seed."""
