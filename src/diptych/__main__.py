"""`python -m diptych`: the command line."""

from diptych.cli.main import main

main()
