"""The Ray side: one thin shell per actor, and the daemon that starts, names, watches and stops them."""
