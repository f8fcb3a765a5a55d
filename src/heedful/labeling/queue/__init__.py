"""The queue of tasks: who works on what, for how long, and what happens to the answers."""
