"""`python -m fetchmld.runner NODE_DIR SOCKET [IDLE_S]`."""

from fetchmld.runner.serve import main

main()
