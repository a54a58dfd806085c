"""`python -m service` runs the console script `cluster-events`."""

from service.cli.main import main

main()
