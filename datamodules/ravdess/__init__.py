"""RAVDESS: speech (teacher) paired with faces (student), eight emotions."""
