"""What a user imports: the commands as functions of Python."""
