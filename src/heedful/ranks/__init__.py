"""One process or many: the rank of this process, and operations that all ranks do together."""
