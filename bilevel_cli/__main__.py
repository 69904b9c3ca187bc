"""python -m bilevel_cli."""

from bilevel_cli.commands.run import command

if __name__ == "__main__":
    command()
