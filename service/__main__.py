"""`python -m service` is the `cluster-events` command."""

from service.cli import main

main()
