"""Few-shot learning: many small inner problems under one outer parameter."""
