"""A node's GPUs: which there are, how they are, what is used of them. Blocking, without Ray; knows no task."""
