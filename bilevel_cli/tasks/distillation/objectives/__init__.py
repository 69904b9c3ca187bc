"""What distilled examples are to do."""
