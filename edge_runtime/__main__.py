"""`python -m edge_runtime`: the same command line as the console script."""

from edge_runtime.cli import main

if __name__ == "__main__":
    main()
