"""The simulator: the whole cluster in one process, on a virtual clock.

Two things are here. `cluster` runs the real cores (`core.scheduler`, `core.agent`) between modelled shells, a modelled
ledger, network and runner, under a seed's faults, and checks after each event what must always hold. `replay` runs a
recorded workload through the same scheduler to see how long its tasks would have waited. A running daemon uses none of it.
"""
