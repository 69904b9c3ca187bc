"""python -m bilevel_cli."""

from bilevel_cli.cli import main

if __name__ == "__main__":
    main()
