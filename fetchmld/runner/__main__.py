"""`python -m fetchmld.runner NODE_DIR SOCKET [IDLE_S [ISOLATION]]`."""

from fetchmld.runner.serve import main

main()
