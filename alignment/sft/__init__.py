"""Entry point of supervised fine-tuning."""
