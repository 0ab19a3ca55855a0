"""The built-in raw datasets; importing a module here registers its classes by NAME."""
