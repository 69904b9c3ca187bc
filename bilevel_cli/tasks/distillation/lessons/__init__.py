"""How distilled examples teach a network."""
