"""What a run leaves in its folder: the formats and the locks of its files."""
