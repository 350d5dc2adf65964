"""The NTDH paper: its exhibits, claims and printed numbers, and what its authors' code does."""
