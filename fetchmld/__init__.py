"""FetchML: a self-hosted scheduler for machine-learning work, with a provable record of everything it did."""

__version__ = "0.1.0"
