"""Entry point of Kahneman-Tversky optimization."""
