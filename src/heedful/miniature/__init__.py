"""The built-in world: corpus, instructions and simulated labelers, all made from a seed."""
