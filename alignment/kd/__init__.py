"""Entry point of distillation."""
