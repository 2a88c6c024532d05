"""One file per group of operations; each handler is decode, one call of the head, encode."""
