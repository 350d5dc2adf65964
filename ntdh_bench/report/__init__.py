"""From records to results: statistics, the claims ledger, the hypothesis test, tables, the page."""
