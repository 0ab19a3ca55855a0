"""Pure metrics of models and answers: perplexity, ROUGE, reward accuracy, win rates, pass@k, with intervals."""
