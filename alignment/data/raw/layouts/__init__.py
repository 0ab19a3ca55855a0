"""What raw rows look like in the field: a table of known layouts, each recognised by its columns and converted."""
