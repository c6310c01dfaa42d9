"""Side effects. Every activity may run any number of times; only its first success counts."""
