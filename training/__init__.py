"""Training and judging Vision Transformers: data, recipes, the train step, resuming."""
