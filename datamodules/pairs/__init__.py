"""Paired sets of vectors, series and small images: two modalities of one ``.npz``."""
