"""The page of a run and the page that compares runs: charts, tables, samples; no network."""
