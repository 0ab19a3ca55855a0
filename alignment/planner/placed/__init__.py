"""Plan runs with ``placement``: the memory of every rank by the roles it has, and which ranks wait for which."""
