"""``heedful plan``: what each step will need in memory per GPU, operations and time, and what fits, before you train."""
