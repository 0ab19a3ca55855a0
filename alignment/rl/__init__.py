"""Entry script of on-policy training under the name of PaddleNLP 2025."""
