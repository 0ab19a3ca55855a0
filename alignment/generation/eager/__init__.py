"""The plain engine, which every faster engine is tested against."""
