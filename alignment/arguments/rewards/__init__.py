"""Arguments of combined rewards: the list of sources, and terms that are added to their sum."""
