"""Files for others: a model with its preprocessing and its class names inside, checked before it gets its name."""
