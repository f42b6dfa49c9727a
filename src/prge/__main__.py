"""`python -m prge`."""

from prge.cli.app import main

main()
