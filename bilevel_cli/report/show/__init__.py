"""Tables and pictures, for a terminal and for papers."""
