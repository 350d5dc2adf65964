"""A run's page, and tables that compare runs: from their files alone, without torch."""
