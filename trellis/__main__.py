"""`python -m trellis` is the command line."""

from trellis.cli import main

main()
