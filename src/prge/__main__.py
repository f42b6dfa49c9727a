"""`python -m prge`."""

from prge.runtime_driver.cli import main

main()
