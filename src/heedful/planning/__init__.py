"""``heedful plan``: what each step needs before anything is trained: memory on each GPU, operations, time, and what fits."""
