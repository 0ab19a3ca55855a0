"""HTML reports of a run and comparisons of runs: charts, tables, samples; they work offline."""
