"""One process or many: which rank this process is, and what all ranks do together."""
