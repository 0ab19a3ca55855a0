"""What on-policy runs assemble beside the shared parts: prompts, models, rewards, engines."""
