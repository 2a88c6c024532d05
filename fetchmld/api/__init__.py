"""The REST API: it turns requests into calls of the `Head` protocol, and views into the contract's JSON."""
