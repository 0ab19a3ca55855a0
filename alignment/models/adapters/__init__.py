"""Low-rank adapters (LoRA): attach them to a model, save and read them in PEFT's format, merge them."""
