"""Fine-tuning: heads with a network of their own, low-rank adapters, or all weights, trained with Lightning."""
