"""The queue: what is worked on, who works on it, for how long, and what becomes of it."""
