"""What is on disk: the ledger (the one log that is database and audit chain), content, and the index over the ledger."""
