"""`python -m service` is the `cluster-events` command."""

from service.cli.main import main

main()
