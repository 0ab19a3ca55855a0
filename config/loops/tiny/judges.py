"""The true score of the packing task as a reward function: for the evaluation, which no model is trained on."""

from alignment.data.sources.packing import true_score as score_of


def true_score(prompts, responses, labels):
    """Return the true score of each response."""
    return [score_of(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
