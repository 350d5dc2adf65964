"""The study: what all experiments together say about the hypothesis; a user of the report."""
