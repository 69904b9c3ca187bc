"""What a distilled set is judged by while it is learned."""
