"""People as teacher and student: how far apart those are who hear and those who see (CREMA-D)."""
