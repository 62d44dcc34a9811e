"""`python -m diptych`: the command line."""

from diptych.cli.start import main

main()
