"""The trainers: their arguments and how they are built."""
