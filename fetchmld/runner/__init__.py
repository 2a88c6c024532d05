"""The runner: a small process outside Ray's process tree that is the parent of every attempt of a node.

    frames      the wire format between agent and runner        serve      the process itself, and what it says to whom
    spawning    how one process is started                      attempts   processes of attempts: start, stop, reap, adopt
    proctree    which processes belong to an attempt            journal    what was started and how it ended, on disk
    logs        what attempts wrote, on disk                    loop       descriptors and timers
    isolation   how attempts are kept apart here, by            users      user ids that nobody else uses
    cgroups     limits                                          view       what attempts see of the file system
    leftovers   files and memory of a user that is done with

Owns the attempts' processes, their output and a journal of their starts and ends; knows attempts by a key and nothing of
tasks, users or the head. Standard library and `_spawn` only, a few MiB, one thread and a helper that syncs the journal.
"""
