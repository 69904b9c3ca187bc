"""python -m bilevel_cli."""

from bilevel_cli.commands.run import main

if __name__ == "__main__":
    main()
