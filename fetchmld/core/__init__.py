"""The pure core: standard library, `_fastqueue` and blake3 only. No await, clock, randomness, logging, Ray or network."""
