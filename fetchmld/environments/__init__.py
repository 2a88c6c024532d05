"""What the environments of sidecars and services hold: pinned, with hashes. Made by `make lock` from the `.in` files."""
